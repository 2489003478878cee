#!/usr/bin/env bash
# Every lint, all of them even where one fails: format, clippy, shellcheck,
# rustdoc, and the list of files that may hold unsafe code.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

failed=()

# lint WHAT COMMAND...
lint() {
    title "$1"
    if "${@:2}"; then
        echo "ok: $1"
    else
        failed+=("$1")
    fi
}

shell_scripts() {
    have shellcheck || { skip shellcheck "not installed" && return; }
    local scripts
    mapfile -t scripts < <(git ls-files 'scripts/*.sh' .ci/run)
    echo "${#scripts[@]} scripts"
    shellcheck -x "${scripts[@]}"
}

rustdoc() {
    RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --workspace
}

# docs/architecture.md lists them; the tree must agree in both directions.
unsafe_files() {
    local listed found
    [[ -f docs/architecture.md ]] || { echo "docs/architecture.md: not there"; return 1; }
    # shellcheck disable=SC2016 # the backquotes are the document's
    listed=$(sed -n '/<!-- unsafe-files -->/,/<!-- \/unsafe-files -->/s/^- `\([^`]*\)`.*/\1/p' \
        docs/architecture.md | sort)
    found=$(git grep -lE 'allow\(unsafe_code' -- '*.rs' | sort)
    echo "$(wc -l <<<"$listed") files listed"
    diff -u --label docs/architecture.md --label tree <(echo "$listed") <(echo "$found")
}

lint "format" cargo fmt --all --check
lint "clippy" cargo clippy --quiet --workspace --all-targets -- -D warnings
lint "shellcheck" shell_scripts
lint "rustdoc" rustdoc
lint "files that may hold unsafe code" unsafe_files

if ((${#failed[@]} > 0)); then
    printf '\nfailed: %s\n' "${failed[@]}"
    exit 1
fi
