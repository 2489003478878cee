#!/usr/bin/env bash
# Beds that others made: test suites, programs and servers, each without the shim
# and with it, and the surroundings that a preloaded library may meet. Whatever
# differs is the shim's doing. In each bed a run is under strace as well, and the
# threads that it sees must be those whose birth was recorded.
#
#     scripts/beds.sh [--no-build] [--all] [BED...]      all beds without names
#
# With --all the long test suites run wholly, and those of other registries too.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_scratch

build "$@"
# shellcheck source=scripts/compare.sh
source scripts/compare.sh
shim=$target/release/libtraceshim.so

# same NAME COMMAND...: without `record`, so that nothing but the shim is there;
# and a run of it under strace, for the births.
same() {
    local name=$1 id
    shift
    id=$(tr -c '[:alnum:]\n' - <<<"$name")
    preloaded "$name" "$id" "$@"
    run "$id.counted" "${strace[@]}" -o "$scratch/strace" \
        env TRACESHIM_DIR="$scratch/counted" "${with_shim[@]}" "$@"
    expect "$name, exit status under strace" "$(<"$scratch/$id.counted.status")" "$(<"$scratch/$id.plain.status")"
    births "$name" "$scratch/strace" "$scratch/counted"
    rm -rf "$scratch/counted"
}
with_shim=(env LD_PRELOAD="$shim")

# preloaded NAME ID COMMAND...: the first two runs, for what can't be under strace.
preloaded() {
    run "$2.plain" "${@:3}"
    TRACESHIM_DIR=$scratch/session run "$2.traced" "${with_shim[@]}" "${@:3}"
    expect "$1, exit status" "$(<"$scratch/$2.traced.status")" "$(<"$scratch/$2.plain.status")"
    expect_file "$1, output" "$scratch/$2.traced.out" "$scratch/$2.plain.out"
}

# recorded NAME: the process left a ring with something in it.
recorded() {
    local events
    events=$("$collector" dump --format json "$scratch/session" 2>/dev/null | wc -l)
    expect "$1, recorded" "$((events > 0))" 1
    rm -rf "$scratch/session"
}

# alike_in BED LEAST TESTS: `TESTS RUN [NAME...]` runs a suite, or of it what is
# named, and prints a line for each test: its name and how it went. A run under
# strace as well counts the births.
alike_in() {
    local bed=$1 tests=$3 run again count
    for run in plain traced counted; do
        by_of "$run" "$bed"
        "$tests" "$run" >"$scratch/$bed.$run"
    done
    count=$(wc -l <"$scratch/$bed.plain")
    expect "$bed, more than $2 tests" "$((count > $2))" 1
    # Time limits are for machines with nothing else to do, and some tests are left
    # to chance: what differs is run again, alone, up to three times.
    for _ in 1 2 3; do
        mapfile -t again < <(diff "$scratch/$bed.plain" "$scratch/$bed.traced" | sed -n 's/^[<>] \([^ ]*\) .*/\1/p' | sort -u)
        ((${#again[@]} > 0)) || break
        echo "        again: ${again[*]}"
        for run in plain traced; do
            by_of "$run" "$bed"
            "$tests" "$run" "${again[@]}" >"$scratch/$bed.$run"
        done
    done
    expect_file "$bed, $count outcomes" "$scratch/$bed.traced" "$scratch/$bed.plain"
    births "$bed" "$scratch/$bed.strace" "$scratch/$bed.counted.trace"
}

# by_of RUN BED: sets by, what is in front of a suite.
by_of() {
    by=()
    [[ $1 == plain ]] || by=("$collector" record -o "$scratch/$2.$1.trace" --)
    [[ $1 != counted ]] || by+=("${strace[@]}" -o "$scratch/$2.strace")
}

# CPython's own tests, test by test.
check_cpython() {
    # Four at a time: they wait, mostly.
    local modules options=(-j4 --timeout=600)
    modules=(test_thread test_threading test_threading_local test_fork1 test_ctypes test_signal test_subprocess test_faulthandler)
    if ((all)); then
        modules+=(test_concurrent_futures test_os test_posix test_mmap test_resource test_pty test_selectors test_queue
            test_socket test_sqlite3 test_tracemalloc test_multiprocessing_fork test_multiprocessing_spawn)
        # In a virtual machine whose host doesn't answer they wait for ever.
        options+=(-i '*VSOCK*')
    else
        # Half a minute of waiting.
        options+=(-i SiginterruptTest)
    fi
    title "cpython: ${modules[*]}"
    alike_in cpython 500 cpython_tests
}

cpython_tests() {
    local only=("${@:2}")
    ((${#only[@]} == 0)) || only=("${only[@]/#/-m}")
    "${by[@]}" /usr/bin/python3 -m test "${options[@]}" --junit-xml "$scratch/cpython.xml" "${only[@]}" "${modules[@]}" \
        >"$scratch/cpython.log" 2>&1 </dev/null || true
    python3 scripts/outcomes.py "$scratch/cpython.xml"
    rm "$scratch/cpython.xml"
}

# Suites that Debian has installed.
check_suites() {
    ((all)) || { echo "suites: only with --all"; return; }
    title "suites: glib gjs libsoup-3.0 dbus libostree"
    alike_in suites 200 suites_tests
}

suites_tests() {
    local suites=(glib gjs libsoup-3.0 dbus libostree) options=() few=("${@:2}")
    if ((${#few[@]} > 0)); then
        options=(-j 1 --only "${few[@]}")
    elif [[ $1 == counted ]]; then
        # Those that make a hundred thousand threads take minutes under strace.
        few=(thread thread-pool cond 'once*' asyncqueue timer 'spawn*' gsubprocess task unix 'slice*' signals
            signal-handler gdbus-threading gdbus-connection 'module*' resources dynamictests cancellable private socket
            pollable)
        suites=("${few[@]/#/glib:}")
    fi
    "${by[@]}" /usr/bin/python3 scripts/beds/installed.py "${suites[@]}" "${options[@]}" 2>"$scratch/suites.log" </dev/null ||
        { echo "  FAIL  suites, $1" >&2; tail -5 "$scratch/suites.log" >&2; failed+=("suites, $1"); }
}

# Suites whose sources Debian has: conformance to POSIX, and libc's own.
check_sources() {
    ((all)) || { echo "sources: only with --all"; return; }
    local suite
    for suite in posix glibc; do
        title "sources: $suite"
        alike_in "$suite" 900 sources_tests
    done
}

sources_tests() {
    local options=()
    if (($# > 1)); then
        options=(-j 1 --only "${@:2}" --)
    elif [[ $1 == counted ]]; then
        # Without threads that libc makes for timers, queues and the like.
        options=(--only 'conformance_interfaces_pthread_*' 'nptl_*' 'sysdeps_pthread_tst-[!t]*' 'sysdeps_pthread_tst-t[!i]*' --)
    fi
    "${by[@]}" /usr/bin/python3 scripts/beds/sources.py "${options[@]}" "$scratch/sources" "$suite" 2>"$scratch/$suite.log" </dev/null ||
        { echo "  FAIL  $suite, $1" >&2; tail -5 "$scratch/$suite.log" >&2; failed+=("$suite, $1"); }
}

# Programs with a sanitizer, one of them with an error to be found.
check_sanitizers() {
    # Leaks can't be looked for under strace.
    local which program=$scratch/sanitized under_strace=(env LSAN_OPTIONS=detect_leaks=0)
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

# Programs that look into others. What they see of threads is what is counted:
# strace can't be under strace.
check_watchers() {
    local program
    program=$("$fixtures" path storm O2-fp)
    title "watchers"
    preloaded "strace" strace "${strace[@]}" -o "$scratch/strace" "$program" && births "strace" "$scratch/strace" "$scratch/session"
    recorded "strace"
    preloaded "gdb" gdb bash -c "gdb -batch -nx -ex run -ex 'print \$_exitcode' \"$program\" 2>/dev/null |
        tee \"$scratch/gdb.said\" | grep -vE '^(\[|Using host|warning: )'"
    sed -n 's/^\[New Thread .*(LWP \([0-9]*\)).*/\1/p' "$scratch/gdb.said" | sort >"$scratch/seen"
    # gdb has threads of its own.
    "$collector" dump --no-symbols --kind thread_birth "$scratch"/session/storm.*.ring |
        sed -n 's/.* child_tid=\([0-9]*\) .*/\1/p' | sort >"$scratch/born"
    expect_file "gdb, $(wc -l <"$scratch/born") births are the threads that it saw" "$scratch/born" "$scratch/seen"
    recorded "gdb"
    if have valgrind; then
        same "valgrind" valgrind -q --error-exitcode=9 "$program" 20 && recorded "valgrind"
    else
        skip valgrind "not installed"
    fi
}

# Programs of Debian's with threads of their own, or with processes that have.
check_programs() {
    local which
    echo "$tcl" >"$scratch/threads.tcl"
    for which in sqlite3 perl ruby tclsh node stress-ng make; do
        have "$which" || { [[ $which == node ]] || skip "programs: $which" "not installed"; continue; }
        case $which in
        sqlite3) title sqlite3; same sqlite3 sqlite3 :memory: "$sql" && rm -rf "$scratch/session" ;;
        perl) compare perl -- perl -Mthreads -e "$perl" ;;
        ruby) compare ruby -- ruby -e "$ruby" ;;
        tclsh) compare tcl -- tclsh "$scratch/threads.tcl" ;;
        # How many threads it makes hangs on the machine and the moment.
        node) compare node -- node -e "$node" ;;
        stress-ng) compare stress-ng -- bash -c "$stress" ;;
        make) compare make -- bash scripts/beds/build.sh ;;
        esac
    done
}
# Ways to make and to end threads and processes, each as fast as it goes.
# shellcheck disable=SC2016 # the dollars are the other shell's
stress='for way in clone pthread vfork fork exec sigsegv stackmmap context dynlib zombie kill chroot; do
stress-ng --$way 2 --$way-ops 50 --timeout 60 2>&1 | grep -oE "successful run|unsuccessful run|fail:.*"; done'
# shellcheck disable=SC2016 # the dollars are Tcl's
tcl='package require Thread; foreach n {1 2 3 4 5} { lappend threads [thread::create] }
foreach thread $threads { puts [thread::send $thread {set sum 0; for {set i 0} {$i < 1000} {incr i} {incr sum $i}; set sum}] }'
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


# Servers of Debian's under load, with clients whose answers are compared.
check_servers() {
    local tool
    for tool in nginx curl; do have $tool || { skip nginx "$tool isn't installed"; break; }; done
    ! have nginx || ! have curl || compare nginx -- bash scripts/beds/nginx.sh
    if have memcached; then compare memcached -- bash scripts/beds/memcached.sh; else skip memcached "not installed"; fi
    check_postgres
}

# It won't run as root: as the user that Debian's package makes, who must be able
# to read what is traced and to write what is recorded.
check_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/pgbench' >/dev/null || { skip postgres "not installed" && return; }
    local scratch=$scratch/postgres collector=$collector
    as_user postgres postgres.sh
    TMPDIR=$scratch compare postgres -- bash "$scratch/postgres.sh"
    as=()
}

# as_user NAME SCRIPT: what root would run is run as somebody else, with all that
# it takes in a directory of theirs. Sets scratch's, collector's and as's content.
as_user() {
    mkdir -p "$scratch"
    cp "scripts/beds/$2" "$scratch"
    [[ $(id -u) == 0 ]] || return 0
    cp "$collector" "$shim" "$scratch"
    collector=$scratch/collector
    chmod 711 "$(dirname "$scratch")"
    chown -R "$1" "$scratch"
    as=(setpriv "--reuid=$1" "--regid=$(id -g "$1")" --clear-groups --)
}

# A browser: its sandbox takes another user than root. Its processes don't know
# their own numbers, so that strace and it can't agree about their threads.
check_browser() {
    ((all)) || { echo "browser: only with --all"; return; }
    have chromium || { echo "skipped: browser: chromium isn't installed"; return; }
    local scratch=$scratch/browser collector=$collector births
    as_user nobody chromium.sh
    title "browser: chromium with its sandbox"
    TMPDIR=$scratch run browser.plain "${as[@]}" bash "$scratch/chromium.sh"
    TMPDIR=$scratch run browser.traced "${as[@]}" "$collector" record -o "$scratch/trace" -- bash "$scratch/chromium.sh"
    alike browser traced
    births=$("$collector" dump --no-symbols --kind thread_birth "$scratch/trace" | grep -c thread_birth)
    expect "browser, more than 20 births" "$((births > 20))" 1
    as=()
}

# What other registries have, as its own tests leave it: too long, or too much to
# install, for every run.
check_packages() {
    ((all)) || { echo "packages: only with --all"; return; }
    if have go; then compare go -- bash scripts/beds/go.sh "$scratch/go"; else echo "skipped: go: not installed"; fi
    if have javac; then compare java -- bash scripts/beds/java.sh "$scratch/java"; else echo "skipped: java: not installed"; fi
    compare rust -- bash scripts/beds/rust.sh "$scratch/rust"
    compare pypi -- bash scripts/beds/pypi.sh "$scratch/pypi"
}

beds=(cpython suites sources sanitizers preloads launches watchers programs servers packages browser)
all=0
names=()
for name in "${rest[@]}"; do
    if [[ $name == --all ]]; then all=1; else names+=("$name"); fi
done
((${#names[@]} > 0)) || names=("${beds[@]}")
for name in "${names[@]}"; do
    case $name in
    cpython)
        if /usr/bin/python3 -c 'import test.test_thread' 2>/dev/null; then check_cpython; else skip cpython "its tests aren't installed"; fi
        ;;
    suites)
        if have dbus-run-session && [[ -d /usr/share/installed-tests/glib ]]; then check_suites; else echo "skipped: suites: GLib's tests aren't installed"; fi
        ;;
    *)
        [[ " ${beds[*]} " == *" $name "* ]] || die "$name: no such bed; there are ${beds[*]}"
        "check_$name"
        ;;
    esac
done
the_end
