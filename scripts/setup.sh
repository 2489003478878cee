#!/usr/bin/env bash
# Installs what building and testing need and isn't there yet: Debian's
# packages, as root or through sudo. Says what is missing where it can't.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The command that shows that a package is there, and the package.
required=(
    gcc:gcc g++:g++ ld:binutils git:git python3:python3
)
for_tests=(
    clang:clang ld.lld:lld mold:mold gdb:gdb strace:strace shellcheck:shellcheck
    xz:xz-utils zstd:zstd redis-server:redis-server redis-benchmark:redis-tools
    dwz:dwz llvm-symbolizer:llvm /usr/lib/x86_64-linux-gnu/libunwind.so.8:libunwind8
    musl-gcc:musl-tools
    # The headers that the presets of callbacks are compared with.
    /usr/include/sqlite3.h:libsqlite3-dev /usr/include/expat.h:libexpat1-dev /usr/include/zlib.h:zlib1g-dev
    /usr/include/x86_64-linux-gnu/curl/curl.h:libcurl4-openssl-dev /usr/include/openssl/ssl.h:libssl-dev
    /usr/include/glib-2.0/glib.h:libglib2.0-dev /usr/include/uv.h:libuv1-dev /usr/include/event2/event.h:libevent-dev
    valgrind:valgrind sqlite3:sqlite3 ruby:ruby /usr/lib/python3.11/test/test_thread.py:libpython3.11-testsuite
    /usr/lib/x86_64-linux-gnu/libjemalloc.so.2:libjemalloc2
    /usr/lib/x86_64-linux-gnu/libtcmalloc.so.4:libgoogle-perftools4
    /usr/lib/x86_64-linux-gnu/libeatmydata.so.1:libeatmydata1
    nginx:nginx-light curl:curl memcached:memcached /usr/lib/postgresql/15/bin/pgbench:postgresql
    make:make tclsh:tcl /usr/lib/tcltk/x86_64-linux-gnu/thread2.8.8:tcl-thread stress-ng:stress-ng
)

packages_missing() {
    local pair
    for pair in "$@"; do
        # A command, or a file.
        have "${pair%%:*}" || [[ -e ${pair%%:*} ]] || echo "${pair#*:}"
    done
}

as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

install() {
    # RUNLEVEL=1 keeps packages from starting their services where Debian's
    # invoke-rc.d decides.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

mapfile -t missing < <(packages_missing "${required[@]}" "${for_tests[@]}")
if ((${#missing[@]} > 0)); then
    if ! have apt-get; then
        echo "setup.sh: no apt-get here; missing, by their Debian names: ${missing[*]}" >&2
    elif [[ $(id -u) != 0 ]] && ! { have sudo && sudo -n true 2>/dev/null; }; then
        echo "setup.sh: needs root to install: apt-get install ${missing[*]}" >&2
    else
        echo "installing ${missing[*]}"
        as_root apt-get update -qq >/dev/null || true
        install "${missing[@]}" || echo "setup.sh: apt-get failed" >&2
    fi
fi

have cargo || die "no cargo: install Rust from https://rustup.rs"
mapfile -t missing < <(packages_missing "${required[@]}")
((${#missing[@]} == 0)) || die "can't build without: ${missing[*]}"
mapfile -t missing < <(packages_missing "${for_tests[@]}")
if ((${#missing[@]} > 0)); then
    skip "tests that use ${missing[*]}" "not installed"
fi
