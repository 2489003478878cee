#!/usr/bin/env bash
# Fixtures as other compilers, linkers and flags make them: built by hand, run
# with the shim and without, and their events checked as in the smoke run.
#
#     scripts/flags.sh [--no-build] [few]
#     scripts/flags.sh [--no-build] one FIXTURE COMPILER FLAG...

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_scratch
build "$@"
failed=()
tried=0

cxx_of() {
    case $1 in
    gcc) echo g++ ;;
    *) echo "$1++" ;;
    esac
}

root=$PWD
always=(-g -w -pthread "-I$root/c-fixtures/c" "-I$root/shim/include")

# shared COMPILER SOURCE OUT FLAG...
shared() {
    "$1" -std=gnu11 "${always[@]}" -fexceptions "${@:4}" -fPIC -shared -Wl,-soname,"$(basename "$3")" -o "$3" "$2" -lm
}

# build_by_hand FIXTURE COMPILER DIR FLAG...: there, since some flags leave files
# where they are used.
build_by_hand() (
    cd "$3" || return
    local fixture=$1 compiler=$2 dir=$3 source=$root/c-fixtures/c/$1 with=() plugin
    local flags=("${@:4}")
    if [[ -e $source/lib.c ]]; then
        shared "$compiler" "$source/lib.c" "$dir/lib$fixture.so" "${flags[@]}" || return
        with=("$dir/lib$fixture.so" "-Wl,-rpath,\$ORIGIN")
    fi
    for plugin in "$source"/plugin-*.c; do
        [[ -e $plugin ]] || continue
        shared "$compiler" "$plugin" "$dir/$fixture-$(basename "$plugin" .c).so" "${flags[@]}" || return
    done
    # Where a library lies is no business of the program's.
    mapfile -t flags < <(printf '%s\n' "${flags[@]}" | grep -v Ttext-segment)
    if [[ -e $source/host.cc ]]; then
        "$(cxx_of "$compiler")" -std=gnu++17 "${always[@]}" "${flags[@]}" -rdynamic -o "$dir/$fixture" "$source/host.cc" \
            "${with[@]}" -lm
    else
        "$compiler" -std=gnu11 "${always[@]}" "${flags[@]}" -rdynamic -o "$dir/$fixture" "$source/host.c" "${with[@]}" -lm
    fi
)

# events_are_right DIR FIXTURE COMPILER FLAG...: but for what can't be expected.
events_are_right() {
    local level=O2
    case "$*" in
    # Threads begin in libgcc, and stacks are in pieces. Or more is traced.
    *-fsplit-stack* | *-static-libgcc*) return ;;
    *-O0*) level=O0 ;;
    esac
    "$collector" stats --no-symbols --format json "$1/trace" >"$1/stats"
    python3 scripts/smoke_check.py "$2" "$level-by-hand" auto "$1/dump" "$1/stats" >"$1/checked" ||
        { [[ "$*" == *-fno-asynchronous-unwind-tables* ]] &&
            ! grep FAIL "$1/checked" | grep -qv 'truncated: no unwind information'; }
}

# try FIXTURE COMPILER FLAG...: in the fixture's own directory, since some
# programs write files.
try() {
    local out=$scratch/$tried named="$*" status=0 plain=0 options=()
    tried=$((tried + 1))
    mkdir "$out"
    have "$2" || { skip "$2" "not installed" && return; }
    if ! build_by_hand "$1" "$2" "$out" "${@:3}" >"$out/messages" 2>&1; then
        skip "$named" "not built: $(grep -m1 -i error "$out/messages" || head -1 "$out/messages")"
        return
    fi
    (cd "$out" && "./$1") >"$out/plain" 2>/dev/null </dev/null || plain=$?
    if ((plain != 0)); then
        echo "  doesn't run by itself ($plain): $named"
        return
    fi
    [[ $1 != inline ]] || options=(--callbacks 'inline:patched_*')
    # The unwinder, too.
    [[ $named != *-static-libgcc* ]] || options=(--callbacks 'inline:*')
    (cd "$out" && timeout 60 "$collector" record "${options[@]}" -o trace -- "./$1") \
        >"$out/traced" 2>"$out/errors" </dev/null || status=$?
    if ((status == plain)) && cmp -s "$out/plain" "$out/traced" &&
        "$collector" dump --format json "$out/trace" >"$out/dump" 2>>"$out/errors" &&
        events_are_right "$out" "$@"; then
        echo "  ok    $named"
        rm -r "$out"
        return
    fi
    echo "  FAIL  $named: status $status, $plain without the shim"
    diff "$out/plain" "$out/traced" | head -5 | sed 's/^/        | /' || true
    { grep -v '^collector' "$out/errors" | head -5; grep FAIL "$out/checked" | cut -c1-200; } 2>/dev/null | sed 's/^/        | /' || true
    failed+=("$named")
}

fixtures_of=(abi tables founding loader inline cxxhost wide)

# each COMPILER FLAG...: every fixture.
each() {
    local fixture
    for fixture in "${fixtures_of[@]}"; do
        try "$fixture" "$@"
    done
}

few() {
    fixtures_of=(abi tables wide)
    each clang -O0
    each clang -O2 -fuse-ld=lld
    each gcc -O3 -march=native -flto
    each gcc -O2 -fcf-protection=full -fno-asynchronous-unwind-tables -fuse-ld=gold
    # Functions that begin with their own address.
    fixtures_of=(abi wide)
    each gcc -O2 -mcmodel=large
    each clang -O2 -mcmodel=large
    # The program's last instruction is a call that doesn't return.
    try unwind-ways clang -O2 -mcmodel=large
    # Other entries of the procedure linkage table.
    try tables gcc -O2 -fuse-ld=mold
    # Stacks in pieces, with guard pages between them.
    fixtures_of=(abi founding)
    each gcc -O2 -fsplit-stack -fuse-ld=gold
    # A library's address is less than its file states.
    try tables gcc -O2 -Wl,-Ttext-segment=0x7f8000000000
    try cxxhost gcc -O2 -static-libgcc -static-libstdc++
    # Its runtime is the profiler's, and so is __gmon_start__.
    fixtures_of=(abi tables wide)
    each gcc -O2 -pg
}

what=${rest[0]:-few}
title "compilers and flags: $what"
case $what in
few) few ;;
one) try "${rest[@]:1}" ;;
*) die "usage: $0 [--no-build] [few] | one FIXTURE COMPILER FLAG..." ;;
esac
if ((${#failed[@]} > 0)); then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "$tried programs"
