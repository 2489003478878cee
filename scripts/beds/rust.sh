#!/usr/bin/env bash
# Crates, built and tested: cargo's and the compiler's threads and processes, a
# C library that calls back into Rust, threads of every kind, panics.
#
#     rust.sh DIRECTORY     where the crates are kept; they are built anew each time
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cp -r "$here/rust/." "$1"
cd "$1"
[[ -e Cargo.lock ]] || cargo fetch --quiet
rm -rf target
export CARGO_TARGET_DIR=$1/target CARGO_TERM_COLOR=never
cargo test --offline --quiet --jobs 2 --no-run 2>&1
find target/debug/deps -name '*.rlib' | wc -l
# Without how long it took, and threads by their numbers.
cargo test --offline --quiet -- --test-threads 8 2>&1 | sed 's/; finished in .*//; s/ ([0-9]*) panicked/ panicked/' | sort
