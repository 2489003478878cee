#!/usr/bin/env bash
# Measures what tracing costs, against the bare program and against other
# tracers, all in one run. See --help and docs/benchmarks.md.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

have python3 || die "needs python3"
# --help ends it here, and so does an option that makes no sense.
arguments=$(python3 scripts/bench.py --check "$@")
if [[ $arguments != ok ]]; then
    printf '%s\n' "$arguments"
    exit
fi

has_header() {
    gcc -E -include "$1" -x c /dev/null >/dev/null 2>&1
}

# Standard output belongs to the results.
{
    missing=()
    have gcc || missing+=(gcc)
    have uftrace || missing+=(uftrace)
    have lttng-sessiond || missing+=(lttng-tools)
    has_header lttng/tracepoint.h || missing+=(liblttng-ust-dev)
    has_header libunwind.h || missing+=(libunwind-dev)
    have valgrind || missing+=(valgrind)
    if ((${#missing[@]} > 0)) && [[ $(id -u) == 0 ]] && have apt-get; then
        echo "installing ${missing[*]}"
        apt-get update -qq >/dev/null || true
        # RUNLEVEL=1 keeps packages from starting their services.
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
            echo "bench.sh: apt-get failed; what needs ${missing[*]} is skipped"
    fi
    have gcc || die "needs gcc"
    if [[ " $* " != *" --no-build "* ]]; then
        cargo build --quiet --release -p traceshim -p traceshim-collector
    fi
} >&2

# Settings of the caller's shell would be part of the experiment.
unset LD_PRELOAD "${!TRACESHIM_@}"
exec python3 scripts/bench.py --target-dir "$target" "$@"
