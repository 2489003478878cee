#!/usr/bin/env bash
# Extension modules in C from PyPI, with tests of their own.
#
#     pypi.sh DIRECTORY     where they are installed, unless they are there
set -eu

python=$1/bin/python
if [[ ! -e $1/ready ]]; then
    /usr/bin/python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check greenlet numpy pytest objgraph psutil setuptools hypothesis
    touch "$1/ready"
fi
cd "$1"
# Those of leaks take minutes.
"$python" -m pytest -q -p no:cacheprovider -rA --tb=no -k "not TestLeaks and not switching_many" --pyargs greenlet.tests \
    numpy._core.tests.test_errstate 2>&1 | sed -n 's/^\(PASSED\|FAILED\|ERROR\|SKIPPED\) /&/p' | sort
