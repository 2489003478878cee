#!/usr/bin/env bash
# Does all the set-up and runs every test. scripts/lint.sh has the lints.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# step TITLE COMMAND...: what hangs is ended, after many times what it takes, and
# named.
step() {
    title "$1"
    # In a group of its own it gets no ^C.
    local status=0 options=(--kill-after=10)
    [[ ${CI:-} == true ]] || options+=(--foreground)
    timeout "${options[@]}" 1500 "${@:2}" || status=$?
    ((status != 124 && status != 137)) || echo "FAIL: $1: not done after 1500 s"
    return "$status"
}

step "set-up" scripts/setup.sh
step "cargo test --workspace" cargo test --workspace
# The protocol of the ring under every interleaving. Its own target folder: the
# flags would have everything else built again.
step "the ring's protocol, model-checked" \
    env CARGO_TARGET_DIR="$target/loom" RUSTFLAGS="--cfg loom" \
    cargo test -p traceshim-ring --release --test loom
step "fuzzing, for a moment" scripts/fuzz.sh --seconds 2
step "smoke" scripts/smoke.sh
step "real programs" scripts/real.sh
step "beds that others made" scripts/beds.sh --no-build
