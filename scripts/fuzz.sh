#!/usr/bin/env bash
# Fuzzes what reads other people's bytes, with libFuzzer: a target must neither
# crash, nor hang, nor take memory beyond its limit. A finding is left in
# target/fuzz/findings; once it is repaired, its input belongs into the corpus,
# which `cargo test` replays.
#
#     scripts/fuzz.sh [--seconds N] [--keep] [TARGET...]
#
# N seconds (10) for each target, all of them without names. --keep adds what
# reaches new code to the corpus, minimised.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seconds=10 keep=false targets=()
while (($# > 0)); do
    case $1 in
    --seconds) seconds=${2:?--seconds needs a number}; shift ;;
    --keep) keep=true ;;
    -*) die "$1: must be --seconds N, --keep, or a target" ;;
    *) targets+=("$1") ;;
    esac
    shift
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "--seconds $seconds: must be a number from 1 on"
corpus=collector/fuzz/corpus
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(ls "$corpus")
fi
for name in "${targets[@]}"; do
    [[ -d $corpus/$name ]] || die "$name: must be one of $(ls -m "$corpus")"
done

# Coverage of edges and comparisons, through flags that the stable compiler
# takes; --target keeps them from build scripts.
build_fuzzer() {
    local flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
        -Cllvm-args=-sanitizer-coverage-trace-compares"
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS=${flags//$'\n'/ } CARGO_TARGET_DIR=$target/fuzz \
        cargo build --quiet --profile fuzz --package traceshim-fuzz --target "$triple"
    fuzzer=$target/fuzz/$triple/fuzz/fuzz
}

title "building the fuzzer"
build_fuzzer
findings=$target/fuzz/findings
mkdir -p "$findings"
# The targets write files, and better into memory.
[[ ! -w /dev/shm ]] || TMPDIR=/dev/shm
make_scratch
failed=()

# fuzz NAME: starts over after so many runs, since symbols are never freed.
fuzz() {
    local found=$target/fuzz/corpus/$1 end=$((SECONDS + seconds)) status=0
    mkdir -p "$found"
    while ((SECONDS < end && status == 0)); do
        FUZZ_TARGET=$1 TMPDIR=$scratch "$fuzzer" "$found" "$corpus/$1" \
            -max_total_time=$((end - SECONDS)) -runs=50000 -timeout=10 -max_len=65536 \
            -rss_limit_mb=2048 -malloc_limit_mb=512 -artifact_prefix="$findings/$1-" \
            -print_final_stats=1 -close_fd_mask=3 2>"$scratch/log" || status=$?
    done
    grep -E '^stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)|DONE' "$scratch/log" || true
    if ((status != 0)); then
        tail -n 40 "$scratch/log"
        failed+=("$1")
    elif $keep; then
        mkdir "$scratch/merged"
        FUZZ_TARGET=$1 TMPDIR=$scratch "$fuzzer" -merge=1 -close_fd_mask=3 \
            "$scratch/merged" "$corpus/$1" "$found" 2>"$scratch/log"
        cp -n "$scratch/merged"/* "$corpus/$1/" && rm -r "$scratch/merged"
    fi
}

for name in "${targets[@]}"; do
    title "fuzzing $name for $seconds s"
    fuzz "$name"
done
((${#failed[@]} == 0)) || die "findings in $findings: ${failed[*]}"
