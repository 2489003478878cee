#!/usr/bin/env bash
# Does all the set-up and runs every test. scripts/lint.sh has the lints.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

title "set-up"
scripts/setup.sh

title "cargo test --workspace"
cargo test --workspace

# The protocol of the ring under every interleaving. Its own target folder: the
# flags would have everything else built again.
title "the ring's protocol, model-checked"
CARGO_TARGET_DIR=$target/loom RUSTFLAGS="--cfg loom" \
    cargo test -p traceshim-ring --release --test loom

title "fuzzing, for a moment"
scripts/fuzz.sh --seconds 2

title "smoke"
scripts/smoke.sh

title "real programs"
scripts/real.sh

title "beds that others made"
scripts/beds.sh --no-build
