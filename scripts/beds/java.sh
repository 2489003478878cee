#!/usr/bin/env bash
# A Java program: a pool of threads, a fault that becomes an exception, stacks
# that overflow, a child.
#
#     java.sh DIRECTORY     where it is compiled, unless it is there
set -eu

if [[ ! -e $1/Threads.class ]]; then
    mkdir -p "$1"
    javac -d "$1" "$(dirname "$0")/Threads.java"
fi
java -cp "$1" Threads || echo "status $?"
