#!/usr/bin/env bash
# Does all the set-up, builds, and shows what the tracer is for: which threads C
# made, every call from C into the host, and one accurate stack for each event.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_scratch

title "set-up and build"
scripts/setup.sh
build "$@"
program=$("$fixtures" path founding O2-fp)

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

title "a host that calls C, which calls back, and makes a thread that calls back"
show "$collector" record -o "$scratch/founding.trace" -- "$program"

title "every thread: born where, made by whom"
show "$collector" dump --kind thread_birth,thread_start,thread_exit "$scratch/founding.trace"

title "every call from C into the host, and what the host logged, with its stack"
show "$collector" dump --kind callback_enter,callback_exit,log "$scratch/founding.trace"

title "in numbers"
show "$collector" stats "$scratch/founding.trace"

title "a program that no one here wrote: python3, its threads, its qsort callbacks"
interpreter=$(python3 -c 'import sys; print(sys.executable)')
show "$collector" record --callback-arg qsort:4 -o "$scratch/python.trace" -- "$interpreter" scripts/real_threads.py
show "$collector" stats "$scratch/python.trace"
show "$collector" dump --kind thread_birth --limit 1 "$scratch/python.trace"
