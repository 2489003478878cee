"""The benchmarks of bench.py. Each is handed the run, and yields lines."""

import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile

from bench_figures import Line, rounded
from bench_peers import Uftrace
from bench_workload import Failure, Samples, Skip, call, cpu_ns, run_timed, said

DEPTHS = (8, 32, 128)
SHAPES = {"7": {"frames": 7}, "33": {"frames": 33}, "mixed": {"frames": 33, "stacks": 64},
          "mixed-alike": {"frames": 33, "stacks": 64, "alike": 1}}
RING_SHAPES = ("7", "33", "mixed")
THREADS = 100


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
              name == "7" and any(run.wants(f"callback/{other}") for other in ("nostack", "fresh-ring", "full-ring"))}
    for name, shape in shapes.items():
        run.check_stacks(SHAPES[name]["frames"], **shape)
    nostack = work.shimmed(TRACESHIM_STACK_DEPTH="0")
    run.stacks_of(env=nostack)
    fresh = dict(work.shimmed(), TRACESHIM_OVERFLOW="drop", TRACESHIM_RING_BYTES="256M")
    full = dict(work.shimmed(), TRACESHIM_OVERFLOW="drop", TRACESHIM_RING_BYTES="256K")
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
                samples.add((name, "full-ring"), work.callback_ns(env=full, **warm))
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
                              ("mixed-alike", "mixed-alike", "ours"), ("fresh-ring", "7", "fresh-ring"),
                              ("full-ring", "7", "full-ring")):
        if name not in shapes:
            continue
        bare = (name, "bare")
        extra = samples.extra_median((name, ours), bare), samples.extra_minimum((name, ours), bare)
        yield Line(f"callback/{bench}", extra[0], "bare call", samples.median(bare), ours_min=extra[1],
                   theirs_min=samples.minimum(bare))
        if bench.endswith("-ring"):
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
        callback, ["callback/nostack", *(f"callback/{name}" for name in SHAPES), "callback/fresh-ring",
                   "callback/full-ring"]),
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
