"""Checks a trace of a C fixture against what the fixture must yield.

    smoke_check.py FIXTURE FLAGSET UNWINDER DUMP.json STATS.json

The last two are the output of `collector dump --format json` and of `collector stats --format json`. Every expectation has
a name and is printed with what was found. Exits 1 where one isn't met.
"""

import json
import sys

import smoke_calls
import smoke_processes
from smoke_events import Check


def of_fixture(fixture):
    """The function that has the fixture's name."""
    name = fixture.replace("-", "_")
    return next(getattr(module, name) for module in (smoke_calls, smoke_processes) if hasattr(module, name))


def main():
    fixture, flags, unwinder, *paths = sys.argv[1:]
    events, processes = ([json.loads(line) for line in open(path, encoding="utf-8")] for path in paths)
    check = Check(fixture, flags, unwinder, events, processes)
    of_fixture(fixture)(check)
    check.everywhere()
    if check.failures:
        print(f"  {fixture} {flags} {unwinder}: {len(check.failures)} of {check.met + len(check.failures)} not met")
    return 1 if check.failures else 0


sys.exit(main())
