# shellcheck shell=bash
# What the scripts share; each begins by sourcing it. Leaves the shell in the
# root of the repository, stopping at the first error.

set -euo pipefail

# A relative path was meant from where the caller stood.
if [[ -n ${CARGO_TARGET_DIR:-} && $CARGO_TARGET_DIR != /* ]]; then
    export CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck disable=SC2034 # for the scripts
target=${CARGO_TARGET_DIR:-$PWD/target}

title() {
    printf '\n== %s\n' "$*"
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# skip WHAT WHY: a check that can't run here. CI has what setup.sh installs, so
# there it is a failure.
skip() {
    [[ ${CI:-} != true ]] || die "$1: $2"
    printf 'skipped: %s: %s\n' "$1" "$2"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# A directory of our own for the run, gone at its end.
make_scratch() {
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/traceshim-$(basename "$0" .sh).XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
}

# build "$@": the release build that scripts try out, unless the first argument
# is --no-build. Sets collector, fixtures, and the other arguments in rest.
# shellcheck disable=SC2034 # for the scripts
build() {
    rest=("$@")
    if [[ ${1:-} == --no-build ]]; then
        rest=("${@:2}")
    else
        cargo build --quiet --release --workspace
    fi
    collector=$target/release/collector
    fixtures=$target/release/c-fixtures
    local built
    for built in "$collector" "$fixtures" "$target/release/libtraceshim.so"; do
        [[ -e $built ]] || die "$built: not built"
    done
    # Settings of the caller's shell would be part of the experiment.
    unset LD_PRELOAD "${!TRACESHIM_@}"
}
