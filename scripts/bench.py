#!/usr/bin/env python3
"""Measures what tracing costs. Run it through scripts/bench.sh, which builds what is measured.

Every comparison is of one run: the configurations take turns in rounds, each process pinned to one processor,
and the time of an event is measured inside the workload as CPU time of its thread. Figures are medians, with
minima beside them. What an event costs is what it adds to the bare program.
"""

import argparse
import contextlib
import datetime
import fnmatch
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

from bench_peers import PEERS, Uftrace
from bench_workload import Failure, Samples, Skip, Workload, call, cpu_ns, machine, run_timed, said

DEPTHS = (8, 32, 128)
SHAPES = {"7": {"frames": 7}, "33": {"frames": 33}, "mixed": {"frames": 33, "stacks": 64},
          "mixed-alike": {"frames": 33, "stacks": 64, "alike": 1}}
RING_SHAPES = ("7", "33", "mixed")
THREADS = 100

# What we hold ourselves to: an upper limit of ours, or of the ratio; for `throughput` a lower one.
TARGETS = {
    ("capture/hot/8", "frame-pointer"): ("ratio", 1.5),
    ("capture/hot/32", "frame-pointer"): ("ratio", 1.0),
    ("capture/hot/128", "frame-pointer"): ("ratio", 0.5),
    ("capture/mixed/32", "frame-pointer"): ("ratio", 2.0),
    ("capture/miss/32", "libunwind"): ("ratio", 0.6),
    ("capture/hot/8", "backtrace"): ("ratio", 0.01),
    ("capture/hot/32", "backtrace"): ("ratio", 0.01),
    ("capture/hot/128", "backtrace"): ("ratio", 0.01),
    ("callback/nostack", "bare call"): ("ours", 40),
    ("callback/7", "bare call"): ("ours", 60),
    ("callback/33", "bare call"): ("ours", 80),
    ("callback/mixed", "bare call"): ("ours", 200),
    ("callback/mixed-alike", "bare call"): ("ours", 200),
    ("thread/create-join", "bare create+join"): ("ours", 1000),
    ("threads/2", "1 thread"): ("throughput", 0.9),
    ("drain/decode", "target"): ("ours", 100),
    ("drain/dump", "target"): ("ours", 250),
    ("bytes/7", "target"): ("ours", 32),
    ("bytes/33", "target"): ("ours", 32),
    ("bytes/mixed", "target"): ("ours", 32),
    ("load/50-modules", "no preload"): ("ours", 5e6),
    ("stack/hot", "bare call"): ("ours", 1024),
    ("stack/new-path", "bare call"): ("ours", 1024),
    ("stack/first", "bare call"): ("ours", 1024),
    ("stack/first-of-thread", "bare call"): ("ours", 1024),
    ("stack/pthread_create", "bare call"): ("ours", 1024),
    ("memory/idle", "target"): ("ours", 128 << 10),
    ("memory/33", "target"): ("ours", 128 << 10),
    ("memory/mixed", "target"): ("ours", 128 << 10),
}


@dataclass
class Line:
    """One comparison."""

    bench: str
    ours: float
    against: str
    theirs: float
    unit: str = "ns"
    ours_min: float | None = None
    theirs_min: float | None = None
    more: dict = field(default_factory=dict)

    @property
    def ratio(self):
        return self.ours / self.theirs if self.theirs else None

    def target(self):
        """What is held to a limit, the limit, and whether it keeps to it."""
        found = TARGETS.get((self.bench, self.against))
        if not found:
            return None
        what, limit = found
        if what == "throughput":
            return what, limit, self.more[what] >= limit
        return what, limit, (self.ours if what == "ours" else self.ratio) <= limit

    def json(self):
        shown = {"bench": self.bench, f"ours_{self.unit}": rounded(self.ours), "against": self.against,
                 f"theirs_{self.unit}": rounded(self.theirs), "ratio": self.ratio and round(self.ratio, 4)}
        if self.ours_min is not None:
            shown |= {f"ours_min_{self.unit}": rounded(self.ours_min),
                      f"theirs_min_{self.unit}": rounded(self.theirs_min)}
        if target := self.target():
            shown |= {"target": f"{target[0]} {'>=' if target[0] == 'throughput' else '<='} {target[1]:g}",
                      "met": target[2]}
        return json.dumps(shown | self.more, separators=(",", ":"))

    def cells(self):
        def shown(value, low):
            text = quantity(value, self.unit)
            return text if low is None else f"{text} ({quantity(low, self.unit)})"

        name = self.bench
        for extra in ("code", "file_system"):
            if extra in self.more:
                name += f", {self.more[extra]}"
        target = ""
        if found := self.target():
            what, limit, met = found
            limit = quantity(limit, self.unit) if what == "ours" else f"{limit:g}"
            target = f"{'at least' if what == 'throughput' else 'at most'} {limit}: {'met' if met else 'MISSED'}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}" if self.ratio >= 0.1 else f"{self.ratio:.3f}"
        notes = [f"{key} {value}" for key, value in self.more.items() if key not in ("code", "file_system")]
        return [name, shown(self.ours, self.ours_min), self.against, shown(self.theirs, self.theirs_min), ratio,
                target, ", ".join(notes)]


def rows_of(lines):
    """A table's columns and rows. Many comparisons of the same few benchmarks get a column for each opponent."""
    opponents = list(dict.fromkeys(line.against for line in lines))
    if len(lines) < 40:
        rows = [line.cells() for line in lines]
        columns = ["benchmark", "ours", "against", "theirs", "ratio", "target", "also"]
        return (columns, rows) if any(row[-1] for row in rows) else (columns[:-1], [row[:-1] for row in rows])
    found = {}
    for line in lines:
        name, ours, against, theirs, ratio, target, _ = line.cells()
        row = found.setdefault(name, {"ours": ours, "targets": []})
        row[against] = f"{theirs} {ratio}"
        if target:
            row["targets"].append(f"{against} {target}")
    rows = [[name, row["ours"], *(row.get(o, "") for o in opponents), "; ".join(row["targets"])]
            for name, row in found.items()]
    return ["benchmark", "ours", *(f"{o}, ratio" for o in opponents), "targets"], rows


def is_number(column):
    return column not in ("benchmark", "against", "target", "targets", "also")


def rounded(value):
    return round(value, 2) if abs(value) < 1000 else round(value)


def quantity(value, unit):
    if unit == "bytes":
        return f"{value / 1024:.1f} KiB" if abs(value) >= 4096 else f"{value:.1f} B" if value % 1 else f"{value:.0f} B"
    if unit == "instructions":
        return f"{value:.0f}"
    for size, name in ((1e6, "ms"), (1e4, "us")):
        if abs(value) >= size:
            return f"{value / {'ms': 1e6, 'us': 1e3}[name]:.2f} {name}"
    return f"{value:.1f} ns"


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


# ---- The benchmarks. Each yields lines. ----


def capture(run):
    """The capture engine alone, by its own benchmark."""
    build = ["cargo", "bench", "--quiet", "-p", "traceshim-unwind", "--bench", "capture"]
    done = subprocess.run([*build, "--no-run"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skip(f"cargo bench -p traceshim-unwind: {said(done.stderr)}")
    figures = {}
    for statistic, more in (("median", ["--median"]), ("minimum", [])):
        if statistic == "minimum" and run.quick:
            break
        done = subprocess.run([*build, "--", "--json", *more], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{' '.join(build)}: exit {done.returncode}: {said(done.stderr)}")
        for what in re.findall(r"^skipped: (.*)$", done.stderr, re.M):
            run.skip("capture", what)
        for found in map(json.loads, done.stdout.splitlines()):
            figures.setdefault((found["bench"], found["code"], found["against"]), {})[statistic] = found
    for (bench, code, against), found in figures.items():
        low = found.get("minimum", {})
        yield Line(bench, found["median"]["ours_ns"], against, found["median"]["theirs_ns"],
                   ours_min=low.get("ours_ns"), theirs_min=low.get("theirs_ns"), more={"code": code})


def floors(run):
    """What this machine's clocks cost."""
    figures = run.workload.run("floors", events=100000, batches=9)
    for name in ("clock_gettime",):
        theirs = cpu_ns("rdtsc", figures)
        ours = cpu_ns(name, figures)
        yield Line(f"floor/{name}", statistics.median(ours), "rdtsc", statistics.median(theirs), ours_min=min(ours),
                   theirs_min=min(theirs))


def callback(run):
    """A callback's enter and exit, beyond the bare call."""
    work = run.workload
    shapes = {name: run.shape(name) for name in SHAPES
              if run.wants(f"callback/{name}") or
              name == "7" and (run.wants("callback/nostack") or run.wants("callback/fresh-ring"))}
    for name, shape in shapes.items():
        run.check_stacks(SHAPES[name]["frames"], **shape)
    nostack = work.shimmed(TRACESHIM_STACK_DEPTH="0")
    run.stacks_of(env=nostack)
    fresh = dict(work.shimmed(), TRACESHIM_OVERFLOW="drop", TRACESHIM_RING_BYTES="256M")
    peers = run.peers()

    rounds, batches = (3, 3) if run.quick else (15, 5)
    times = {"events": 50000 if run.quick else 100000, "batches": batches}
    samples = Samples()
    for number in range(rounds):
        for name, shape in shapes.items():
            run.progress(f"callback/{name}, round {number + 1} of {rounds}")
            warm = {**times, **shape, "warm": work.lap}
            samples.add((name, "bare"), work.callback_ns(**warm))
            samples.add((name, "ours"), work.callback_ns(env=work.shimmed(), **warm))
            if name == "7":
                samples.add((name, "nostack"), work.callback_ns(env=nostack, **warm))
                samples.add((name, "fresh-ring"), work.callback_ns(env=fresh, **times, **shape))
            for peer in peers:
                less = {"warm": work.lap if peer.name == "LTTng-UST" else 0}
                if peer.name == "perf uprobes":
                    if name != "7":
                        continue
                    less = {"events": 2000, "batches": 2}
                samples.add((name, peer.name), work.callback_ns(
                    before=peer.before, app=peer.app, env=peer.env, **{**times, **shape, **less}))
                peer.forget()
    run.progress("")
    for bench, name, ours in (("nostack", "7", "nostack"), ("7", "7", "ours"), ("33", "33", "ours"),
                              ("mixed", "mixed", "ours"),
                              ("mixed-alike", "mixed-alike", "ours"), ("fresh-ring", "7", "fresh-ring")):
        if name not in shapes:
            continue
        bare = (name, "bare")
        extra = samples.extra_median((name, ours), bare), samples.extra_minimum((name, ours), bare)
        yield Line(f"callback/{bench}", extra[0], "bare call", samples.median(bare), ours_min=extra[1],
                   theirs_min=samples.minimum(bare))
        if bench == "fresh-ring":
            continue
        for peer in peers:
            key = (name, peer.name)
            if key not in samples:
                continue
            yield Line(f"callback/{bench}", extra[0], peer.name, samples.extra_median(key, bare), ours_min=extra[1],
                       theirs_min=samples.extra_minimum(key, bare))


def instructions(run):
    """Instructions of a callback's enter and exit, which no noise reaches."""
    work = run.workload
    nostack = {"TRACESHIM_STACK_DEPTH": "0"}
    cases = {"nostack": (nostack, "7"), **{name: ({}, name) for name in SHAPES}}
    for name, (more, shape_name) in cases.items():
        if not run.wants(f"instructions/{name}"):
            continue
        run.progress(f"instructions/{name}")
        numbers = {**run.shape(shape_name), "warm": 2000}
        counters = [("single steps", 8, 24)] if run.quick else [("single steps", 16, 80), ("callgrind", 1000, 3000)]
        if name.startswith("mixed"):
            # Random stacks want more events than can be stepped through.
            counters = [("callgrind", 1000, 3000)]
        for counter, few, many in counters:
            counted = {}
            for key, env in (("bare", None), ("ours", work.shimmed(**more))):
                try:
                    counts = [count(run, counter, env, dict(numbers, events=n)) for n in (few, many)]
                except (Skip, Failure) as error:
                    run.skip(f"instructions by {counter}", error)
                    break
                counted[key] = (counts[1] - counts[0]) / (many - few)
            if len(counted) == 2:
                yield Line(f"instructions/{name}", counted["ours"] - counted["bare"], "bare call", counted["bare"],
                           unit="instructions", more={"counter": counter})
    run.progress("")


def count(run, counter, env, numbers):
    """Instructions of one run of the workload."""
    work = run.workload
    arguments = [f"{name}={value}" for name, value in numbers.items()]
    if counter == "single steps":
        # The counter itself isn't to be traced, but it hands its environment on.
        setting = [f"{k}={v}" for k, v in (env or {}).items() if k == "LD_PRELOAD" or k.startswith("TRACESHIM_")]
        out = call([f"{work.built}/steps", "env", *setting, work.app, "stops", *arguments])
        found = re.search(r"(\d+) instructions", out)
    else:
        log = f"{work.scratch}/callgrind.log"
        call(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log}", work.app,
              "callback", "batches=1", *arguments], env=env)
        with open(log, encoding="utf-8") as text:
            found = re.search(r"Collected : (\d+)", text.read())
    work.remove_rings()
    if not found:
        raise Failure("counted nothing")
    return int(found[1])


def thread(run):
    """Creation and join of a thread, with its birth, start, end and its creator's stack recorded."""
    work = run.workload
    rounds, batches, events = (3, 3, 500) if run.quick else (15, 5, 1000)
    peer = run.peer(Uftrace)
    peers = [peer] if peer else []
    samples, by_clock = Samples(), Samples()
    for number in range(rounds):
        run.progress(f"thread/create-join, round {number + 1} of {rounds}")
        configurations = [("bare", {}), ("ours", {"env": work.shimmed()})]
        configurations += [(p.name, {"before": p.before, "app": p.app}) for p in peers]
        for name, how in configurations:
            out = work.run("threads", events=events, batches=batches, warm=200, **how)
            samples.add(name, cpu_ns("thread", out))
            by_clock.add(name, cpu_ns("thread", out, "wall_ns"))
        for peer in peers:
            peer.forget()
    run.progress("")
    extra = samples.extra_median("ours", "bare"), samples.extra_minimum("ours", "bare")
    clock = rounded(by_clock.extra_minimum("ours", "bare"))
    yield Line("thread/create-join", extra[0], "bare create+join", samples.median("bare"), ours_min=extra[1],
               theirs_min=samples.minimum("bare"), more={"by_the_clock_min_ns": clock})
    for peer in peers:
        yield Line("thread/create-join", extra[0], peer.name, samples.extra_median(peer.name, "bare"),
                   ours_min=extra[1], theirs_min=samples.extra_minimum(peer.name, "bare"))


def threads(run):
    """Two threads that call back at once, each on a processor of its own, against one of them alone."""
    work = run.workload
    cpus = os.sched_getaffinity(0)
    cpu = next((c for c in sorted(cpus) if c + 1 in cpus), None)
    if cpu is None:
        raise Skip("needs two processors")
    rounds = 3 if run.quick else 10
    times = {"events": 50000 if run.quick else 200000, "batches": 5, "warm": work.lap, "threads": 2, "cpu": cpu,
             "depth": run.depth(7)}
    found = {}
    for number in range(rounds):
        run.progress(f"threads/2, round {number + 1} of {rounds}")
        for name, env in (("bare", None), ("ours", work.shimmed())):
            out = work.run("parallel", env=env, pinned=False, **times)
            for clock in ("cpu_ns", "wall_ns"):
                for what in ("alone", "at_once"):
                    found.setdefault((name, clock), Samples()).add(what, cpu_ns(what, out, clock))
    run.progress("")
    for name, against in (("ours", "1 thread"), ("bare", "1 thread, bare")):
        cpu_time, clock = found[name, "cpu_ns"], found[name, "wall_ns"]
        yield Line("threads/2", cpu_time.median("at_once"), against, cpu_time.median("alone"),
                   ours_min=cpu_time.minimum("at_once"), theirs_min=cpu_time.minimum("alone"),
                   more={"throughput": round(cpu_time.median("alone") / cpu_time.median("at_once"), 3),
                         "throughput_by_the_clock": round(clock.minimum("alone") / clock.minimum("at_once"), 3)})


def drain(run):
    """What the collector makes of a big ring: nanoseconds of CPU time an event."""
    work = run.workload
    callbacks = 500000 if run.quick else 4000000
    events = 2 * callbacks
    env = dict(work.shimmed(), TRACESHIM_OVERFLOW="drop", TRACESHIM_RING_BYTES="512M")
    call([work.app, "callback", f"events={callbacks}", "batches=1", f"depth={run.depth(7)}", f"cpu={work.cpu}"],
         env=env)
    ring, = work.rings()
    run.progress("drain")
    peer = run.peer(Uftrace)
    their_events = events // 4
    commands = {"decode": [work.collector, "stats", ring], "dump": [work.collector, "dump", ring]}
    if peer:
        work.run("callback", before=peer.before, events=their_events // 2, batches=1)
        for name, command in (("report", "report"), ("dump", "dump")):
            commands["their " + name] = [shutil.which("uftrace"), command, "--no-pager", "-d", peer.data]
    samples = Samples()
    for _ in range(2 if run.quick else 5):
        for name, command in commands.items():
            took = run_timed(command, cpu=work.cpu)[1]
            samples.add(name, [took / (their_events if name.startswith("their") else events)])
    stats = call(commands["decode"])
    lost = re.search(r"^lost: (\d+) events", stats, re.M)
    work.remove_rings()
    if peer:
        peer.forget()
    run.progress("")
    if not lost or int(lost[1]) > 0:
        raise Failure(f"the ring lost {lost[1] if lost else 'an unknown number of'} events")
    for name, target, theirs in (("decode", 100, "report"), ("dump", 250, "dump")):
        ours, low = samples.median(name), samples.minimum(name)
        more = {"million_events_a_second": round(1e3 / ours, 1)}
        yield Line(f"drain/{name}", ours, "target", target, ours_min=low, theirs_min=target, more=more)
        if peer:
            key = "their " + theirs
            yield Line(f"drain/{name}", ours, f"uftrace {theirs}", samples.median(key), ours_min=low,
                       theirs_min=samples.minimum(key), more=more)


def ring_bytes(run):
    """Bytes that a callback takes in the ring: the difference between two runs' rings."""
    work = run.workload
    peer = run.peer(Uftrace)
    few, many = 200000, 600000
    for name in RING_SHAPES:
        if not run.wants(f"bytes/{name}"):
            continue
        numbers = {**run.shape(name), "batches": 1}
        env = dict(work.shimmed(), TRACESHIM_OVERFLOW="drop", TRACESHIM_RING_BYTES="128M")
        sizes, theirs = [], []
        for events in (few, many):
            call([work.app, "callback", f"events={events}", *(f"{k}={v}" for k, v in numbers.items())], env=env)
            ring, = work.rings()
            sizes.append(os.path.getsize(ring))
            work.remove_rings()
            if peer:
                work.run("callback", before=peer.before, events=events, **numbers)
                theirs.append(peer.recorded_bytes())
                peer.forget()
        ours = (sizes[1] - sizes[0]) / (many - few)
        yield Line(f"bytes/{name}", ours, "target", 32, unit="bytes")
        if peer:
            yield Line(f"bytes/{name}", ours, "uftrace", (theirs[1] - theirs[0]) / (many - few), unit="bytes")


def load(run):
    """A program's whole life, with 50 modules in it and next to nothing to do: its CPU time."""
    work = run.workload
    program = work.build_load(50)
    repeats = 15 if run.quick else 60
    directories = {run.options.scratch_kind: work.scratch}
    if run.options.scratch_kind == "tmpfs":
        directories["on disk"] = run.stack.enter_context(tempfile.TemporaryDirectory(prefix="traceshim-bench."))
    samples, by_clock = Samples(), Samples()
    for number in range(repeats):
        run.progress(f"load/50-modules, {number + 1} of {repeats}")
        runs = [("bare", None)]
        runs += [(name, dict(work.shimmed(), TRACESHIM_DIR=f"{path}/rings", TRACESHIM_OVERFLOW="drop"))
                 for name, path in directories.items()]
        for name, env in runs:
            clock, cpu = run_timed([program], env=env, cpu=work.cpu)
            samples.add(name, [cpu])
            by_clock.add(name, [clock])
    run.progress("")
    for name in directories:
        yield Line("load/50-modules", samples.extra_median(name, "bare"), "no preload", samples.median("bare"),
                   ours_min=samples.extra_minimum(name, "bare"), theirs_min=samples.minimum("bare"),
                   more={"file_system": name,
                         "by_the_clock_min_ns": round(by_clock.extra_minimum(name, "bare"))})


def stack(run):
    """Bytes of the app's stack that a hook uses."""
    work = run.workload
    figures = {}
    for name, env in (("bare", dict(os.environ)), ("ours", work.shimmed())):
        env["LD_BIND_NOW"] = "1"
        out = work.run("stack", env=env, events=200, warm=100, batches=1, depth=30)
        figures[name] = dict(re.findall(r"^stack_bytes (\S+) (\d+)$", out, re.M))
    for what, theirs in figures["bare"].items():
        name = what.split("/")[1] if what.startswith("callback") else what.split("/")[0]
        ours = int(figures["ours"][what])
        yield Line(f"stack/{name}", ours - int(theirs), "bare call", int(theirs), unit="bytes")


def memory(run):
    """Memory that a thread costs beyond the bare one, while it lives."""
    work = run.workload
    cases = {"idle": {}, "33": {"warm": 1000, "depth": run.depth(33)},
             "mixed": {"warm": 5000, "depth": run.depth(33), "stacks": 64}}
    for case, numbers in cases.items():
        if not run.wants(f"memory/{case}"):
            continue
        anonymous, shared = {}, {}
        for name, env in (("bare", None), ("ours", work.shimmed())):
            for count_of in (1, 1 + THREADS):
                out = work.run("memory", env=env, threads=count_of, pinned=False, **numbers)
                rss = {k: int(v) << 10 for k, v in re.findall(r"^Rss(\w+):\s+(\d+) kB$", out, re.M)}
                anonymous[name, count_of], shared[name, count_of] = rss["Anon"], rss["File"] + rss["Shmem"]
        a_thread = [(kind[name, 1 + THREADS] - kind[name, 1]) / THREADS
                    for kind in (anonymous, shared) for name in ("bare", "ours")]
        # Where a thread did nothing, its share of the ring is its birth, start and end.
        more = {} if numbers else {"bytes_of_the_ring": round(a_thread[3] - a_thread[2])}
        ours = a_thread[1] - a_thread[0]
        yield Line(f"memory/{case}", ours, "target", 128 << 10, unit="bytes", more=more)
        yield Line(f"memory/{case}", ours, "bare thread", a_thread[0], unit="bytes", more=more)


GROUPS = {
    "The clocks of this machine": (floors, ["floor/clock_gettime"]),
    "A capture": (capture, [f"capture/{kind}/{depth}" for kind in ("hot", "mixed", "leaf", "miss", "cold")
                            for depth in DEPTHS]),
    "A callback, enter and exit, beyond the bare call": (
        callback, ["callback/nostack", *(f"callback/{name}" for name in SHAPES), "callback/fresh-ring"]),
    "Instructions of a callback": (
        instructions, ["instructions/nostack", *(f"instructions/{name}" for name in SHAPES)]),
    "A thread's creation and join, beyond the bare one": (thread, ["thread/create-join"]),
    "Two threads at once": (threads, ["threads/2"]),
    "Reading a ring": (drain, ["drain/decode", "drain/dump"]),
    "Bytes in the ring for a callback": (ring_bytes, [f"bytes/{name}" for name in RING_SHAPES]),
    "Loading": (load, ["load/50-modules"]),
    "Bytes of the app's stack": (
        stack, [f"stack/{name}" for name in ("first", "new-path", "hot", "first-of-thread", "pthread_create")]),
    "Memory of a thread": (memory, ["memory/idle", "memory/33", "memory/mixed"]),
}


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


def table(lines):
    """Text in columns."""
    columns, rows = rows_of(lines)
    rows = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.rjust(width) if is_number(name) else cell.ljust(width)
                        for name, cell, width in zip(columns, row, widths)).rstrip(), flush=True)


def markdown(results, run, arguments):
    """The tables of docs/benchmarks.md."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True,
                            check=False).stdout.strip() or "unknown"
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    shown = " ".join(a for a in arguments if not a.startswith("--target-dir"))
    text = [f"`scripts/bench.sh {shown}`, {date}, commit {commit}.", "", f"{machine()}; load average at the start {run.options.busy:.1f}. Rings on "
             f"{run.options.place}.",
            ""]
    missed = [line for lines in results.values() for line in lines if (found := line.target()) and not found[2]]
    text += [f"Missed targets: {', '.join(sorted({line.bench for line in missed})) or 'none'}.", ""]
    for title, lines in results.items():
        if not lines:
            continue
        columns, rows = rows_of(lines)
        text += [f"### {title}", "", "| " + " | ".join(columns) + " |",
                 "|" + "|".join("---:" if is_number(name) else "---" for name in columns) + "|"]
        text += ["| " + " | ".join(row) + " |" for row in rows]
        text.append("")
    text += [f"skipped: {what}: {why}\n" for what, why in run.skipped.items()]
    return "\n".join(text).rstrip() + "\n"


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
