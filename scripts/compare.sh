# shellcheck shell=bash disable=SC2154 # collector, scratch and target are those of common.sh
# What scripts share that run programs without the shim and with it: what they
# print and the exit status must be the same. A third run is under strace as
# well: each thread that strace sees must be one whose birth was recorded. Wants
# the variables of common.sh and its build; leaves what isn't so in failed.

failed=()

expect() {
    if [[ $2 == "$3" ]]; then
        echo "  ok    $1: $2"
    else
        echo "  FAIL  $1: $2; expected $3"
        failed+=("$1")
    fi
}

# expect_file WHAT FOUND EXPECTED: files that must have the same content.
expect_file() {
    local difference
    if difference=$(diff -u --label expected --label found "$3" "$2"); then
        echo "  ok    $1"
    else
        echo "  FAIL  $1"
        head -40 <<<"$difference" | sed 's/^/        | /'
        failed+=("$1")
    fi
}

# What scripts/births.py wants to know: each process and thread that is made, and
# what is executed with what environment. Other system calls run at full speed.
strace=(strace -f -qq -v -s 4096 -e signal=none -e 'trace=clone,clone3,fork,vfork,execve,execveat')

# births NAME STRACE TRACE_OR_SESSION: of one run. A program whose runtime makes
# threads past every library has runtime_threads of them.
births() {
    local found
    if found=$(python3 scripts/births.py "$collector" "$2" "$3" "${runtime_threads:-0}"); then
        echo "  ok    $1, births: ${found//$'\n'/; }"
    else
        echo "  FAIL  $1, births"
        echo "        | ${found//$'\n'/$'\n'        | }"
        failed+=("$1, births")
    fi
}

# run NAME.RUN COMMAND...: leaves its output, its errors and its status there.
run() {
    local status=0
    "${@:2}" >"$scratch/$1.out" 2>"$scratch/$1.errors" </dev/null || status=$?
    echo "$status" >"$scratch/$1.status"
    # What `record` says is no output of the program's.
    sed -i '/^collector: /d' "$scratch/$1.errors"
}

# alike NAME RUN: whether that run went as the plain one.
alike() {
    expect "$1, exit status $2" "$(<"$scratch/$1.$2.status")" "$(<"$scratch/$1.plain.status")"
    expect_file "$1, output $2" "$scratch/$1.$2.out" "$scratch/$1.plain.out"
    [[ ! -e $scratch/$1.$2.errors ]] || expect_file "$1, errors $2" "$scratch/$1.$2.errors" "$scratch/$1.plain.errors"
}

# judge NAME: compares what three runs left behind: NAME.plain, NAME.traced and
# NAME.counted, the last two with a trace, the last with what strace saw.
judge() {
    alike "$1" traced
    alike "$1" counted
    births "$1" "$scratch/$1.strace" "$scratch/$1.counted.trace"
    grep -q CLONE_THREAD "$scratch/$1.strace" || { echo "  FAIL  $1: made no threads"; failed+=("$1, threads"); }
    "$collector" stats "$scratch/$1.traced.trace" >"$scratch/stats" || failed+=("$1, stats")
    head -40 "$scratch/stats" | sed 's/^/        | /'
}

# Programs that run to their end: compare NAME RECORD_OPTIONS -- COMMAND...
# What a program needs that it needs only under strace is in under_strace.
compare() {
    local name=$1 options=()
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    title "$name: $*"
    run "$name.plain" "${as[@]}" "$@"
    run "$name.traced" "${as[@]}" "$collector" record "${options[@]}" -o "$scratch/$name.traced.trace" -- "$@"
    run "$name.counted" "${as[@]}" "$collector" record "${options[@]}" -o "$scratch/$name.counted.trace" -- \
        "${strace[@]}" -o "$scratch/$name.strace" "${under_strace[@]}" "$@"
    judge "$name"
}
# A command that runs another as somebody else, for `compare`.
as=()
under_strace=()

# the_end: fails where anything wasn't so.
the_end() {
    ((${#failed[@]} > 0)) || return 0
    printf '\nfailed: %s\n' "${failed[@]}"
    exit 1
}
