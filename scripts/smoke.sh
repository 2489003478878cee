#!/usr/bin/env bash
# The smoke run: C fixtures under the shim, recorded by the collector, each
# event and frame checked against what the fixture must yield. Prints what it
# saw; fails where something expected is missing.
#
#     scripts/smoke.sh [--no-build] [FIXTURE...]      all of them without names

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_scratch

title "building"
build "$@"

title "the fast path, disassembled"
scripts/fast_path.py "$target/release/libtraceshim.so"

failed=()
expectations=0

# report NAME COMMAND...: an expectation that is a command's success.
report() {
    expectations=$((expectations + 1))
    if "${@:2}"; then
        echo "  ok    $1"
    else
        echo "  FAIL  $1"
        failed+=("$1")
    fi
}

# trace_of FIXTURE FLAGSET UNWINDER: where `record` puts the trace.
trace_of() {
    echo "$scratch/$1.$2.$3.trace"
}

# For every run of a fixture.
more_options=()

# record FIXTURE FLAGSET UNWINDER: runs it with the shim and without.
record() {
    local program trace status plain_status
    program=$("$fixtures" path "$1" "$2")
    trace=$(trace_of "$1" "$2" "$3")
    plain_status=0 status=0
    "$program" >"$scratch/plain.out" 2>"$scratch/plain.err" </dev/null || plain_status=$?
    local options=(--unwinder "$3" "${more_options[@]}")
    case $1 in
    register)
        options+=(
            --callback-arg "qsort:4,c_register:2"
            --callback-arg "c_register_far:2,c_register_far:7,c_register_far:8"
            --callback-arg "c_set:2@1=20000-29999"
        )
        ;;
    versions) options+=(--host libversions.so) ;;
    hand-over)
        options+=(
            --callback-arg "qsort:4,qsort_r:4,bsearch:5,scandir:3,scandir:4"
            --callback-arg "pthread_key_create:2,pthread_once:2,atexit:1,c_register:2"
        )
        ;;
    maps) options+=(--callbacks "auto,inline:patched" --callback-arg c_calls:1) ;;
    inline) options+=(--callbacks "$(inline_functions)") ;;
    esac
    "$collector" record "${options[@]}" -o "$trace" -- "$program" \
        >"$scratch/traced.out" 2>"$scratch/traced.err" </dev/null || status=$?
    report "$1 $2 $3: same output and exit status ($status) as without the shim" \
        same_run "$status" "$plain_status"
    grep -v '^ *$' "$scratch/traced.err" | sed 's/^/        | /' || true
}

# Those that are named in full are refused aloud.
inline_functions() {
    local refused
    echo -n 'inline:patched_*'
    for refused in "${!refusals[@]}"; do
        echo -n ",inline:$refused"
    done
}

declare -A refusals=(
    [refused_back]="it jumps back to its first instructions"
    [refused_start]="it jumps back to its first instructions"
    [refused_call]="it begins with a call that can't be moved"
    [refused_double]="another symbol is among its first instructions"
    [refused_close]="it is shorter than a jump"
)

# What the last run said about them, and nothing else.
refused_aloud() {
    local refused
    for refused in "${!refusals[@]}"; do
        grep -qxF "traceshim: inline:$refused: its entry can't be patched: ${refusals[$refused]}" "$scratch/traced.err" ||
            return
    done
    [[ $(grep -c '^traceshim: ' "$scratch/traced.err") == "${#refusals[@]}" ]]
}

# What holds of trampolines in slots holds of patched entries.
patched() {
    more_options=(--callbacks 'auto,inline:host_*')
    check abi O2-nofp auto
    check cxxhost O2-fp auto
    check cxxhost O0-nofp auto
    # Not host_waits, which the host calls, too.
    more_options=(--callbacks 'auto,inline:host_plain,inline:host_jumps,inline:host_nests,inline:host_exits')
    check unwind-ways O2-fp auto
    more_options=(--callbacks 'auto,inline:host_sandbox')
    check sandbox O2-fp auto
    more_options=()
}

# A function whose entry is patched goes away with its library, and another
# library's of the same name takes its place.
patched_plugins() {
    local program trace=$scratch/plugins.trace
    program=$("$fixtures" path loader O2-fp)
    title "loader, whose plugins' entries are patched"
    "$collector" record --host 'loader-plugin-*.so' --callbacks inline:plugin_run -o "$trace" -- "$program" \
        >"$scratch/traced.out" || true
    report "plugins: same output as without the shim" diff -u c-fixtures/c/loader/expected.txt "$scratch/traced.out"
    "$collector" dump --format json --kind callback_exit "$trace" >"$scratch/dump.json"
    report "plugins: each one's function returns" returns_of plugin_run 3 "$scratch/dump.json"
}

# A process that gets no new executable memory (PR_SET_MDWE) runs as it is.
denied() {
    local program deny='import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)
os.execve(sys.argv[1], sys.argv[1:2], {**os.environ, "LD_PRELOAD": sys.argv[2]})'
    program=$("$fixtures" path maps O2-fp)
    title "maps, in a process that gets no new executable memory"
    local status=0
    TRACESHIM_DIR=$scratch/session TRACESHIM_CALLBACKS=auto,inline:patched python3 -c "$deny" "$program" \
        "$target/release/libtraceshim.so" >"$scratch/traced.out" 2>"$scratch/traced.err" || status=$?
    if ((status == 77)); then
        # Linux 6.3; no package gives it.
        echo "skipped: no new executable memory: this kernel can't refuse it"
        return
    fi
    report "denied: same output" diff -u c-fixtures/c/maps/expected.txt "$scratch/traced.out"
    report "denied: one line about it" one_line_says "inline:patched: its entry can't be patched: the system gives no memory"
}

# returns_of FUNCTION COUNT DUMP
returns_of() {
    [[ $(grep -c "\"function\":\"$1\".*\"how\":\"return\"" "$3") == "$2" ]]
}

same_run() {
    [[ $1 == "$2" ]] || { echo "        status $1, and $2 without the shim"; return 1; }
    # How far spin gets isn't printed; everything else is the same each time.
    diff -u --label untraced --label traced "$scratch/plain.out" "$scratch/traced.out"
}

# check FIXTURE FLAGSET UNWINDER: records, and compares with the expectations.
check() {
    local dump=$scratch/dump.json stats=$scratch/stats.json
    title "$1, $2, $3"
    record "$1" "$2" "$3"
    # Stacks by the hundred thousand: their innermost frames do.
    local options=()
    [[ $1 != signals && $1 != ends ]] || options=(--depth 4)
    if ! "$collector" dump --format json "${options[@]}" "$(trace_of "$1" "$2" "$3")" >"$dump"; then
        failed+=("$1 $2 $3: dump")
        return
    fi
    "$collector" stats --no-symbols --format json "$(trace_of "$1" "$2" "$3")" >"$stats" || failed+=("$1 $2 $3: stats")
    expectations=$((expectations + 1))
    python3 scripts/smoke_check.py "$1" "$2" "$3" "$dump" "$stats" || failed+=("$1 $2 $3")
}

# The founding check: one program, two unwinders, the same stacks.
founding() {
    local flags
    for flags in O0-fp O0-nofp O2-fp O2-nofp O2-fp-noplt O2-fp-now O2-fp-nopie; do
        check founding "$flags" auto
        check founding "$flags" table
        report "founding $flags: the stacks under auto and table are the same" \
            diff_stacks founding "$flags" auto table
        # Without this failing, the comparison would have no teeth.
        title "founding, $flags, frame-pointer: the control, which must differ"
        record founding "$flags" frame-pointer
        report "founding $flags: forced to follow frame pointers, the stacks differ" \
            not diff_stacks founding "$flags" auto frame-pointer
    done
    title "founding, O2-fp: stats"
    report "founding O2-fp: stats" "$collector" stats "$(trace_of founding O2-fp auto)"
}

diff_stacks() {
    local status=0
    "$collector" diff --kind log "$(trace_of "$1" "$2" "$3")" "$(trace_of "$1" "$2" "$4")" >"$scratch/diff" || status=$?
    sed 's/^/        | /' "$scratch/diff"
    ((status <= 1)) || echo "        diff failed with $status"
    return "$status"
}

# Exactly 1: another failure is no difference of stacks.
not() {
    local status=0
    "$@" || status=$?
    ((status == 1))
}

# everything_in FIXTURE FLAGSET...
everything_in() {
    local flags
    for flags in "${@:2}"; do
        check "$1" "$flags" auto
    done
}

# kill -9 at a random moment: of the program, of its collector, of both.
killed() {
    title "spin and its collector, killed 100 times each"
    local kill=(scripts/kill_check.py "$collector" "$target/release/libtraceshim.so" "$("$fixtures" path spin O2-fp)")
    report "every event is there once, or counted as lost" "${kill[@]}" 100 app collector both
    report "the same where nobody is killed" "${kill[@]}" 20 none
}

# untraced WHAT WANTED NAME=VALUE...: a setting with which there can be no
# trace. The program runs as ever, and one line of stderr says WANTED.
untraced() {
    local program
    program=$("$fixtures" path storm O2-fp)
    "$program" >"$scratch/plain.out"
    report "$1: the program runs all the same" preloaded "${@:3}" "$program"
    sed 's/^/        | /' "$scratch/traced.err"
    report "$1: same output" cmp "$scratch/plain.out" "$scratch/traced.out"
    report "$1: one line about it" one_line_says "$2"
}

preloaded() {
    env LD_PRELOAD="$target/release/libtraceshim.so" "$@" >"$scratch/traced.out" 2>"$scratch/traced.err"
}

one_line_says() {
    [[ $(wc -l <"$scratch/traced.err") == 1 ]] && grep -qF -- "$1" "$scratch/traced.err"
}

fails_open() {
    title "settings and places with which there can be no trace"
    untraced "a bad number" "TRACESHIM_STACK_DEPTH" TRACESHIM_DIR="$scratch/session" TRACESHIM_STACK_DEPTH=deep
    untraced "a bad word" "TRACESHIM_UNWINDER" TRACESHIM_DIR="$scratch/session" TRACESHIM_UNWINDER=guess
    # Not a directory without the right to write: root has every right.
    : >"$scratch/file"
    untraced "no directory" "$scratch/file" TRACESHIM_DIR="$scratch/file"
    mkdir "$scratch/small"
    if mount -t tmpfs -o size=1M tmpfs "$scratch/small" 2>/dev/null; then
        trap 'umount "$scratch/small"; rm -rf "$scratch"' EXIT
        untraced "a full disk" "$scratch/small" TRACESHIM_DIR="$scratch/small"
        mount -o remount,size=20M "$scratch/small"
        fills_up
    else
        # Needs the right to mount, which no package gives.
        echo "skipped: a full disk: can't mount a small tmpfs here"
    fi
}

# Two programs whose rings would each have room, and don't have it together: both
# run to their end, and every event is in a ring or counted as lost.
fills_up() {
    local program shim=$target/release/libtraceshim.so pids=() pid
    program=$("$fixtures" path parallel O2-fp)
    env LD_PRELOAD="$shim" TRACESHIM_DIR="$scratch/large" TRACESHIM_RING_BYTES=256M "$program" 4 250000
    for _ in 1 2; do
        env LD_PRELOAD="$shim" TRACESHIM_DIR="$scratch/small" "$program" 4 250000 &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        report "a disk that fills up: the program ends as ever" wait "$pid"
    done
    report "a disk that fills up: some events are lost" test "$(events_of small 'p["lost"] > 0')" = "True True"
    report "a disk that fills up: each is counted" test "$(events_of small 'p["events"] + p["lost"]')" = \
        "$(events_of large 'p["events"]') $(events_of large 'p["events"]')"
}

# events_of DIR EXPRESSION: what the statistics p say of each process with a ring there.
events_of() {
    "$collector" stats --format json "$scratch/$1" |
        python3 -c "import json, sys; print(*($2 for p in map(json.loads, sys.stdin)))"
}

# A debugger sees through trampolines and patched entries, and stops where
# exceptions are thrown.
debugger() {
    title "gdb"
    have gdb || { skip gdb "not installed" && return; }
    in_gdb founding O2-fp -ex 'break host_called_from_c' -ex run -ex bt -ex up -ex up -ex finish -ex continue
    report "gdb: the whole chain behind a callback" says_in_order \
        '#0 .*host_called_from_c' '#1 .*trampoline' '#2 .* c_step ' '#3 .* c_called_from_host ' '#. .* main '
    report "gdb: up, finish and the rest of the run" says_in_order \
        '^#. .* main ' '^#1 .*trampoline' '^#2 .* c_step ' 'c_called_from_host () at' 'exited normally'
    in_gdb cxxhost O2-nofp -ex 'set env TRACESHIM_CALLBACKS=inline:host_throws' \
        -ex 'catch throw' -ex run -ex bt -ex delete -ex continue
    report "gdb: an exception's chain through a patched entry" says_in_order \
        '#0 .*__cxa_throw' '#1 .* host_throws ' '#2 .*trampoline' '#3 .*shell' '#4 .* c_calls_host_throws ' '#. .* main '
    report "gdb: the exception is caught" says_in_order 'throws: caught' 'exited normally'
}

# in_gdb FIXTURE FLAGSET COMMANDS...: what gdb says of it.
in_gdb() {
    gdb -nx -q -batch -iex 'set startup-with-shell off' -iex 'set debuginfod enabled off' \
        -ex "set env LD_PRELOAD=$target/release/libtraceshim.so" -ex "set env TRACESHIM_DIR=$scratch/session" \
        "${@:3}" "$("$fixtures" path "$1" "$2")" >"$scratch/gdb" 2>&1 </dev/null || true
}

# Lines that match, each below the one before.
says_in_order() {
    local pattern from=1 at
    for pattern in "$@"; do
        if ! at=$(tail -n "+$from" "$scratch/gdb" | grep -nm1 -- "$pattern"); then
            echo "        no line like $pattern from line $from on:"
            sed 's/^/        | /' "$scratch/gdb"
            return 1
        fi
        from=$((from + ${at%%:*}))
    done
}

# However much a function takes on the stack is found out: without stacks, where
# all calls take the fast path, and in patched entries. What is named is taken at its word.
takes_what_there_is() {
    local program
    program=$("$fixtures" path wide "$1")
    local so=(TRACESHIM_DIR="$scratch/session")
    title "wide, $1, in other ways"
    report "wide $1: without stacks" preloaded "${so[@]}" TRACESHIM_STACK_DEPTH=0 "$program"
    report "wide $1: in patched entries" preloaded "${so[@]}" TRACESHIM_CALLBACKS='auto,inline:host_*' "$program"
    report "wide $1: too few words that are named are too few" \
        not preloaded "${so[@]}" TRACESHIM_STACK_WORDS='host_takes_250:40' "$program"
}

# What isn't traced is said in words.
says_what_is_apart() {
    local program
    program=$("$fixtures" path opener O2-fp)
    preloaded TRACESHIM_DIR="$scratch/session" TRACESHIM_LOG=info "$program"
    report "opener: says that a namespace isn't traced" \
        grep -qF 'opener-apart.so" goes into a namespace of its own, in which nothing is traced' "$scratch/traced.err"
}

all=(
    founding nested storm names parallel tables register hand-over inline patched live maps abi wide
    cxxhost unwind-ways annotate annotate-cxx forker
    loader opener shapes versions churn
    early spin
    signals stacks ends limits sandbox filters leaks
    debugger flags killed fails_open
)
((${#rest[@]} > 0)) || rest=("${all[@]}")
for fixture in "${rest[@]}"; do
    case $fixture in
    founding) founding ;;
    nested)
        everything_in nested O2-fp O0-nofp
        check nested O2-fp table
        report "nested O2-fp: the stacks under auto and table are the same" diff_stacks nested O2-fp auto table
        ;;
    # How a slot looks and is protected, and how arguments get past it, hangs
    # on every flag.
    tables | register | abi | wide | shapes)
        everything_in "$fixture" O0-fp O2-nofp O2-fp-noplt O2-fp-now O2-fp-nopie
        [[ $fixture != wide ]] || { takes_what_there_is O2-fp && takes_what_there_is O0-nofp; }
        ;;
    killed | fails_open | patched | debugger) "$fixture" ;;
    flags) report "other compilers, linkers and flags" scripts/flags.sh --no-build ;;
    opener)
        everything_in opener O2-fp O0-nofp
        says_what_is_apart
        ;;
    inline)
        for flags in O0-fp O2-nofp O2-fp-nopie; do
            everything_in inline "$flags"
            report "inline $flags: what can't be patched is said, with the reason" refused_aloud
        done
        patched_plugins
        denied
        ;;
    annotate) everything_in annotate O0-fp O2-nofp O2-fp-nopie ;;
    # Thousands of processes, which no flag makes different.
    filters) everything_in filters O2-fp ;;
    *) everything_in "$fixture" O2-fp O0-nofp ;;
    esac
done

title "smoke"
if ((${#failed[@]} > 0)); then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "$expectations checks passed"
