#!/usr/bin/env python3
"""Runs test suites that Debian installs, and prints how each of their tests ended, sorted.

    installed.py [-j N] [--only SUITE/TEST...] SUITE[:GLOB]...

A suite is a folder of /usr/share/installed-tests; the format is GNOME's (a keyfile with the command in it), what the
commands print is TAP. Each has a folder and a session bus of its own.
"""

import argparse
import concurrent.futures
import configparser
import contextlib
import fnmatch
import os
import pathlib
import re
import signal
import subprocess
import tempfile

ROOT = pathlib.Path("/usr/share/installed-tests")


def tests(wanted):
    """Each test's name and its command."""
    suite, _, glob = wanted.partition(":")
    for path in sorted((ROOT / suite).rglob("*.test")):
        keys = configparser.ConfigParser(interpolation=None)
        keys.read(path)
        if fnmatch.fnmatch(path.stem, glob or "*"):
            yield f"{suite}/{path.stem}", keys["Test"]["Exec"]


def run(test):
    """The lines to print for one test."""
    name, command = test
    with tempfile.TemporaryDirectory(prefix="installed-test-") as home:
        places = dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "TMPDIR", "G_TEST_TMPDIR"), home)
        process = subprocess.Popen(
            ["dbus-run-session", "--", "sh", "-c", command], env={**os.environ, **places}, cwd=home,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            output = process.communicate(timeout=300)[0].decode(errors="replace").splitlines()
        except subprocess.TimeoutExpired:
            return [f"{name} timeout"]
        finally:
            # Some leave a bus behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = [line.split(" # ")[0].strip() for line in output if re.match(r"\s*(not )?ok ", line)]
    # Some names are random numbers.
    lines = [re.sub(r"seed:\d+", "seed", line) for line in lines]
    return [f"{name} exit status {process.returncode}", *(f"{name} {line}" for line in lines)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-j", type=int, default=3, help="tests at once")
    parser.add_argument("--only", nargs="*", help="these tests of the suites")
    parser.add_argument("suites", nargs="+")
    options = parser.parse_args()
    chosen = {name: command for wanted in options.suites for name, command in tests(wanted)
              if options.only is None or name in options.only}
    with concurrent.futures.ThreadPoolExecutor(options.j) as pool:
        for lines in pool.map(run, sorted(chosen.items())):
            print(*lines, sep="\n")


main()
