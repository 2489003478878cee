#!/usr/bin/env python3
"""Measures what tracing costs. Run it through scripts/bench.sh, which builds what is measured.

Every comparison is of one run: the configurations take turns in rounds, each process pinned to one processor,
and the time of an event is measured inside the workload as CPU time of its thread. Figures are medians, with
minima beside them. What an event costs is what it adds to the bare program.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import signal
import sys
import tempfile

from bench_figures import markdown, table
from bench_groups import GROUPS, SHAPES
from bench_peers import PEERS
from bench_workload import Failure, Skip, Workload, call, machine


class Run:
    """What all benchmarks of a run share."""

    def __init__(self, options, scratch, stack):
        self.options = options
        self.quick = options.quick
        self.workload = Workload(options.target_dir, scratch, (4 if options.quick else 16) << 20)
        self.stack = stack
        self.opened = {}
        self.skipped = {}
        self.failed = []
        self.out = sys.stdout if not options.json else sys.stderr

    def wants(self, bench):
        return fnmatch.fnmatchcase(bench, self.options.only)

    def skip(self, what, why):
        if what not in self.skipped:
            self.skipped[what] = why
            print(f"skipped: {what}: {why}", file=self.out, flush=True)

    def progress(self, text):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def peers(self):
        """Those that run here."""
        return [opened for peer in PEERS if (opened := self.peer(peer))]

    def peer(self, peer):
        """One of them, set up once, or None."""
        if peer not in self.opened:
            self.opened[peer] = None
            self.progress(f"setting up {peer.name}")
            try:
                self.opened[peer] = opened = peer(self.workload)
                self.stack.callback(opened.close)
            except (Skip, Failure) as error:
                self.skip(peer.name, error)
            self.progress("")
        return self.opened[peer]

    def depth(self, frames):
        """Frames of C that make a stack of so many frames in all, by asking for one without any."""
        if not hasattr(self, "around"):
            self.around = len(self.stacks_of(depth=0)[0]["stack"])
        if frames < self.around:
            raise Skip(f"the least stack has {self.around} frames here")
        return frames - self.around

    def shape(self, name):
        """The workload's numbers for one of the shapes."""
        numbers = dict(SHAPES[name])
        return {"depth": self.depth(numbers.pop("frames")), **numbers}

    def stacks_of(self, env=None, **numbers):
        """The callbacks that a short run records."""
        work = self.workload
        env = dict(env or work.shimmed(), TRACESHIM_OVERFLOW="drop")
        call([work.app, "callback", "events=50", "batches=2", *(f"{k}={v}" for k, v in numbers.items())], env=env)
        rings = work.rings()
        if not rings:
            raise Failure("a traced run of the workload left no ring")
        dump = call([work.collector, "dump", "--format", "json", "--no-inline", *rings])
        work.remove_rings()
        events = [json.loads(line) for line in dump.splitlines()]
        enters = [e for e in events if e["kind"] == "callback_enter"]
        exits = [e for e in events if e["kind"] == "callback_exit"]
        if len(enters) != 100 or len(exits) != 100:
            raise Failure(f"{len(enters)} enters and {len(exits)} exits recorded of 100 callbacks")
        return enters

    def check_stacks(self, frames, **numbers):
        """What is timed below must be the real thing."""
        for event in self.stacks_of(**numbers):
            if event["stack_status"] != "complete" or len(event["stack"]) != frames:
                raise Failure(f"a stack of {frames} frames was recorded as {len(event['stack'])} frames, "
                              f"{event['stack_status']}")


def parse(arguments):
    names = [name for _, benches in GROUPS.values() for name in benches]
    parser = argparse.ArgumentParser(
        prog="bench.sh", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        description="Measures what tracing costs, against the bare program and against other tracers, in one run.",
        epilog="Figures are medians, with minima in brackets (in JSON: ours_ns, ours_min_ns and so on); ours is what\n"
               "tracing adds. What can't run here is named on a line that begins with 'skipped:'.\n\n"
               "benchmarks:\n  " + "\n  ".join(names))
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one line of JSON a comparison, and nothing else")
    form.add_argument("--markdown", action="store_true", help="tables for docs/benchmarks.md")
    form.add_argument("--update", metavar="FILE", help="put those tables into FILE, between its two marks")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: under a minute, and noisier")
    parser.add_argument("--only", metavar="GLOB", default="*", help="only benchmarks whose names match: 'callback/*'")
    parser.add_argument("--no-build", action="store_true", help="take the release build that is there")
    parser.add_argument("--target-dir", default=os.environ.get("CARGO_TARGET_DIR", "target"), help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not fnmatch.filter(names, options.only):
        parser.error(f"argument --only: no benchmark's name matches {options.only!r} (see --help)")
    if options.update and not os.path.isfile(options.update):
        parser.error(f"argument --update: no such file: {options.update!r}")
    return options


def update(path, text):
    with open(path, encoding="utf-8") as file:
        old = file.read()
    begin, end = "<!-- figures -->\n", "<!-- /figures -->\n"
    before, mark, rest = old.partition(begin)
    _, other, after = rest.partition(end)
    if not mark or not other:
        raise Failure(f"{path}: has no {begin.strip()} … {end.strip()}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(before + begin + "\n" + text + "\n" + end + after)


def measure(run):
    """All that was asked for, shown as it comes."""
    options, results = run.options, {}
    for title, (benchmark, names) in GROUPS.items():
        if not any(run.wants(name) for name in names):
            continue
        lines = []
        try:
            for line in benchmark(run):
                if run.wants(line.bench):
                    lines.append(line)
                    if options.json:
                        print(line.json(), flush=True)
        except Skip as error:
            run.skip(benchmark.__name__, error)
        except Failure as error:
            run.failed.append(f"{benchmark.__name__}: {error}")
            print(f"failed: {run.failed[-1]}", file=run.out, flush=True)
        run.workload.remove_rings()
        run.progress("")
        results[title] = lines
        if lines and not (options.json or options.markdown or options.update):
            print(f"\n== {title}")
            table(lines)
    return results


def scratch_place(options):
    """Memory where there is room: a disk's speed isn't what is measured."""
    roomy = False
    with contextlib.suppress(OSError):
        found = os.statvfs("/dev/shm")
        roomy = found.f_bavail * found.f_frsize > 2 << 30 and os.access("/dev/shm", os.W_OK)
    options.scratch_kind = "tmpfs" if roomy else "on disk"
    options.place = "tmpfs (/dev/shm)" if roomy else f"a disk ({tempfile.gettempdir()})"
    return "/dev/shm" if roomy else None


def main(arguments):
    options = parse(arguments)
    if options.check:
        print("ok")
        return 0
    options.busy = os.getloadavg()[0]
    # So that what stands below is undone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as undo:
        scratch = undo.enter_context(tempfile.TemporaryDirectory(prefix="traceshim-bench.", dir=scratch_place(options)))
        run = Run(options, scratch, undo)
        run.workload.build()
        if not (options.json or options.markdown or options.update):
            print(f"{machine()}; load average {options.busy:.1f}\nrings on {options.place}; medians, with minima in "
                  "brackets; ours is what tracing adds")
        results = measure(run)
        asked = [a for a in arguments[2:] if arguments[0] == "--target-dir"] or arguments
        if options.markdown:
            print(markdown(results, run, asked), end="")
        if options.update:
            update(options.update, markdown(results, run, asked))
    return 1 if run.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Failure, Skip) as error:
        sys.exit(f"bench.sh: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
