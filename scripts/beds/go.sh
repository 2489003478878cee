#!/usr/bin/env bash
# A Go program with C in it: threads that C makes and that call back into Go,
# threads that end with their goroutine, signals, a panic out of a fault.
#
#     go.sh DIRECTORY     where it is built, unless it is there
set -eu

here=$(cd "$(dirname "$0")" && pwd)
if [[ ! -e $1/threads ]]; then
    mkdir -p "$1"
    cp "$here"/go/* "$1"
    cd "$1"
    GOCACHE=$1/cache go build -o threads .
fi
"$1/threads" || echo "status $?"
