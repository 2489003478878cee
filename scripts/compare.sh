# shellcheck shell=bash disable=SC2154 # collector and scratch are those of common.sh
# What scripts share that run programs without the shim and with it: the output
# and the exit status must be the same, and the threads whose birth was recorded
# as many as strace counts. Wants the variables of common.sh and its build; leaves
# what isn't so in failed.

failed=()

expect() {
    if [[ $2 == "$3" ]]; then
        echo "  ok    $1: $2"
    else
        echo "  FAIL  $1: $2; expected $3"
        failed+=("$1")
    fi
}

# Threads that were made, by what the kernel was asked: flags of the calls that
# didn't fail. A call that another thread interrupted stands on two lines, and
# its flags on the first only.
thread_clones() {
    awk '/CLONE_THREAD/ && !/= -1 / { n++ } END { print n + 0 }' "$1"
}

# count TRACE KIND
count() {
    "$collector" dump --format json --kind "$2" "$1" >"$scratch/dump.json"
    wc -l <"$scratch/dump.json"
}

# judge NAME: compares what three runs left behind: NAME.plain.{out,status},
# NAME.traced.{out,status,trace}, NAME.strace.
judge() {
    local births clones
    expect "$1, exit status" "$(cat "$scratch/$1.traced.status")" "$(cat "$scratch/$1.plain.status")"
    expect "$1, output" "$(sha256sum <"$scratch/$1.traced.out")" "$(sha256sum <"$scratch/$1.plain.out")"
    # Threads that a runtime makes for itself past every library may be left out.
    clones=$(($(thread_clones "$scratch/$1.strace") - ${runtime_threads:-0}))
    births=$(count "$scratch/$1.trace" thread_birth)
    expect "$1, births, and thread clones by strace" "$births" "$clones"
    ((clones > 0)) || { echo "  FAIL  $1: made no threads"; failed+=("$1, threads"); }
    echo "        callbacks: $(count "$scratch/$1.trace" callback_enter), lost: $(count "$scratch/$1.trace" lost)"
    "$collector" stats "$scratch/$1.trace" | sed 's/^/        | /' || failed+=("$1, stats")
}

# Programs that run to their end: compare NAME RECORD_OPTIONS -- COMMAND...
compare() {
    local name=$1 options=() status
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    title "$name: $*"
    status=0
    "$@" >"$scratch/$name.plain.out" </dev/null || status=$?
    echo "$status" >"$scratch/$name.plain.status"
    status=0
    "$collector" record "${options[@]}" -o "$scratch/$name.trace" -- "$@" >"$scratch/$name.traced.out" </dev/null || status=$?
    echo "$status" >"$scratch/$name.traced.status"
    strace -f -qq -e trace=clone,clone3 -o "$scratch/$name.strace" "$@" >/dev/null </dev/null || true
    judge "$name"
}

# the_end: fails where anything wasn't so.
the_end() {
    ((${#failed[@]} > 0)) || return 0
    printf '\nfailed: %s\n' "${failed[@]}"
    exit 1
}
