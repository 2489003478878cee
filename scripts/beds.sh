#!/usr/bin/env bash
# Beds that others made: test suites and programs, each without the shim and with
# it, and the surroundings that a preloaded library may meet. Whatever differs is
# the shim's doing.
#
#     scripts/beds.sh [--no-build] [--all] [BED...]      all beds without names
#
# With --all the long test suites run wholly.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_scratch

build "$@"
# shellcheck source=scripts/compare.sh
source scripts/compare.sh
shim=$target/release/libtraceshim.so

# same NAME COMMAND...: output and exit status only, with the environment's own
# variables in front of the command if need be.
same() {
    local name=$1 plain=0 traced=0
    shift
    "$@" >"$scratch/plain.out" 2>"$scratch/plain.err" </dev/null || plain=$?
    TRACESHIM_DIR=$scratch/session "${with_shim[@]}" "$@" >"$scratch/traced.out" 2>"$scratch/traced.err" </dev/null || traced=$?
    expect "$name, exit status" "$traced" "$plain"
    if diff -u --label untraced --label traced "$scratch/plain.out" "$scratch/traced.out" >"$scratch/diff"; then
        echo "  ok    $name, output"
    else
        echo "  FAIL  $name, output"
        sed 's/^/        | /' "$scratch/diff" "$scratch/traced.err" | head -40
        failed+=("$name, output")
    fi
}
with_shim=(env LD_PRELOAD="$shim")

# recorded NAME: the process left a ring with something in it.
recorded() {
    local events
    events=$("$collector" dump --format json "$scratch/session" 2>/dev/null | wc -l)
    expect "$1, recorded" "$((events > 0))" 1
    rm -rf "$scratch/session"
}

# CPython's own tests, test by test.
check_cpython() {
    local tests=(test_thread test_threading_local test_fork1 test_ctypes test_signal) run
    ((all == 0)) || tests+=(test_threading test_subprocess test_faulthandler test_concurrent_futures test_os test_posix
        test_mmap test_resource test_pty test_selectors test_queue test_socket test_sqlite3 test_tracemalloc
        test_multiprocessing_fork test_multiprocessing_spawn)
    title "cpython: ${tests[*]}"
    # Time limits are for machines with nothing else to do.
    for run in plain traced; do
        local by=()
        [[ $run == plain ]] || by=("$collector" record -o "$scratch/cpython.trace" --)
        "${by[@]}" /usr/bin/python3 -m test --junit-xml "$scratch/$run.xml" "${tests[@]}" \
            >"$scratch/$run.log" 2>&1 </dev/null || true
        python3 scripts/outcomes.py "$scratch/$run.xml" >"$scratch/$run.outcomes"
    done
    expect "cpython, tests that ran" "$(wc -l <"$scratch/traced.outcomes")" "$(wc -l <"$scratch/plain.outcomes")"
    (($(wc -l <"$scratch/plain.outcomes") > 100)) || { echo "  FAIL  cpython: too few tests"; failed+=("cpython, tests"); }
    if diff "$scratch/plain.outcomes" "$scratch/traced.outcomes"; then
        echo "  ok    cpython, outcomes"
    else
        failed+=("cpython, outcomes")
    fi
    "$collector" stats "$scratch/cpython.trace" | grep -E '^ +[0-9]+ +[0-9]+ +(main|host|c|unknown)$' | sort | uniq -c | head -4 || true
}

# Programs with a sanitizer, one of them with an error to be found.
check_sanitizers() {
    local which program=$scratch/sanitized
    for which in address thread undefined leak; do
        title "sanitizers: $which"
        gcc -g -pthread "-fsanitize=$which" -o "$program" scripts/beds/threads.c
        # ThreadSanitizer makes a thread for itself, past everybody.
        runtime_threads=$([[ $which == thread ]] && echo 1) compare "sanitized-$which" -- "$program"
    done
    title "sanitizers: an error is found"
    gcc -g -pthread -fsanitize=address -o "$program" scripts/beds/threads.c
    "$program" error >/dev/null 2>"$scratch/plain.err" || true
    "$collector" record -o "$scratch/error.trace" -- "$program" error >/dev/null 2>"$scratch/traced.err" || true
    expect "address, its summary" "$(grep SUMMARY "$scratch/traced.err")" "$(grep SUMMARY "$scratch/plain.err")"
}

# Other libraries that are preloaded, before the shim and after it.
check_preloads() {
    local lib dir=/usr/lib/x86_64-linux-gnu program other=$scratch/libother.so
    program=$("$fixtures" path storm O2-fp)
    gcc -shared -fPIC -o "$other" scripts/beds/other.c
    for lib in "$other" $dir/libjemalloc.so.2 $dir/libtcmalloc.so.4 $dir/libeatmydata.so.1; do
        [[ -e $lib ]] || { skip "preloads: $lib" "not installed"; continue; }
        title "preloads: $(basename "$lib")"
        with_shim=(env LD_PRELOAD="$lib:$shim")
        same "before the shim" "$program" && recorded "before the shim"
        with_shim=(env LD_PRELOAD="$shim:$lib")
        same "behind the shim" "$program" && recorded "behind the shim"
    done
    with_shim=(env LD_PRELOAD="$shim")
}

# Ways to start a program.
check_launches() {
    local program
    program=$("$fixtures" path storm O2-fp)
    title "launches"
    same "LD_BIND_NOW" env LD_BIND_NOW=1 "$program" && recorded "LD_BIND_NOW"
    same "the loader by name" /lib64/ld-linux-x86-64.so.2 "$program" && recorded "the loader by name"
    same "a script" bash -c "for i in 1 2 3; do \"$program\" 9 | cat; done; exit 7" && recorded "a script"
    same "an emptied environment" env -i "$program"
    same "LD_TRACE_LOADED_OBJECTS, names" bash -c "LD_TRACE_LOADED_OBJECTS=1 \"$program\" | grep -oE '^.(libstorm|libc|/lib64/ld-linux)[^ ]*'"
    rm -rf "$scratch/session"
    if unshare -m true 2>/dev/null; then
        # shellcheck disable=SC2016 # for the other shell
        same "no /proc" env LD_LIBRARY_PATH="$(dirname "$program")" \
            unshare -m sh -c 'umount -l /proc && exec "$0"' "$program" && recorded "no /proc"
    else
        # Needs the right to make a namespace, which no package gives.
        echo "skipped: no /proc: can't unmount it here"
    fi
}

# Programs that look into others.
check_watchers() {
    local program
    program=$("$fixtures" path nested O2-fp)
    title "watchers"
    same "strace" bash -c "strace -f -o /dev/null \"$program\"" && recorded "strace"
    same "gdb" bash -c "gdb -batch -nx -ex run -ex 'print \$_exitcode' \"$program\" 2>/dev/null | grep -E '^(depth|\\\$1)'" &&
        recorded "gdb"
    if have valgrind; then
        same "valgrind" valgrind -q --error-exitcode=9 "$program" && recorded "valgrind"
    else
        skip valgrind "not installed"
    fi
}

# Programs of Debian's with threads of their own.
check_programs() {
    local which
    for which in sqlite3 perl ruby node; do
        have "$which" || { [[ $which == node ]] || skip "programs: $which" "not installed"; continue; }
        case $which in
        sqlite3) title sqlite3; same sqlite3 sqlite3 :memory: "$sql" && rm -rf "$scratch/session" ;;
        perl) compare perl -- perl -Mthreads -e "$perl" ;;
        ruby) compare ruby -- ruby -e "$ruby" ;;
        # How many threads it makes hangs on the machine and the moment.
        node) title node; same node node -e "$node" && recorded node ;;
        esac
    done
}
sql="create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
insert into t select i, i * 7 % 1000 from n; create index x on t(b); select b, count(*), sum(a) from t group by b limit 5;"
# shellcheck disable=SC2016 # the dollars are Perl's
perl='my @t = map { my $n = $_; threads->create(sub { my $s = 0; $s += $_ * $n for 1 .. 1000; $s }) } 1 .. 8;
print $_->join, "\n" for @t;'
ruby='puts (1..8).map { |n| Thread.new { (1..1000).sum { |i| i * n } } }.map(&:value)'
# shellcheck disable=SC2016 # the dollars are JavaScript's
node='const { Worker } = require("worker_threads"); for (let n = 1; n <= 3; n++)
new Worker(`require("worker_threads").parentPort.postMessage(${n} * 7)`, { eval: true }).on("exit", (code) => process.exitCode = code);
require("crypto").pbkdf2("a", "b", 1000, 32, "sha256", (error, key) => console.log(key.toString("hex")));'

all=0
names=()
for name in "${rest[@]}"; do
    if [[ $name == --all ]]; then all=1; else names+=("$name"); fi
done
((${#names[@]} > 0)) || names=(cpython sanitizers preloads launches watchers programs)
for name in "${names[@]}"; do
    case $name in
    cpython)
        if /usr/bin/python3 -c 'import test.test_thread' 2>/dev/null; then check_cpython; else skip cpython "its tests aren't installed"; fi
        ;;
    sanitizers | preloads | launches | watchers | programs) "check_$name" ;;
    *) die "$name: no such bed; there are cpython, sanitizers, preloads, launches, watchers, programs" ;;
    esac
done
the_end
