"""The workload of the benchmarks: building it, running it, reading what it prints."""

import glob
import os
import re
import signal
import statistics
import subprocess
import time

SOURCES = "c-fixtures/c/bench"
CFLAGS = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-pthread"]


class Skip(Exception):
    """What can't run here, and why."""


class Failure(Exception):
    """What ought to work and doesn't."""


def said(text):
    """The last line of a program's complaints."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "said nothing"


def call(command, **more):
    """Runs a command to its end; its output is in the exception where it fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                              timeout=300, **more)
    except FileNotFoundError as error:
        raise Skip(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{' '.join(command)}: still running after {error.timeout} s") from error
    if done.returncode != 0:
        how = f"exit {done.returncode}"
        if done.returncode < 0:
            how = signal.Signals(-done.returncode).name
        shown = " ".join(f"{k}={v}" for k, v in (more.get("env") or {}).items() if k not in os.environ)
        raise Failure(f"{shown} {' '.join(command)}: {how}: {said(done.stderr)}".strip())
    return done.stdout


class Workload:
    """The built programs, and a directory for what they leave."""

    def __init__(self, target, scratch, ring_bytes):
        # The ring overwrites its oldest events, so that it is never full. A lap of it, before anything is timed, makes
        # its pages present: an enter and an exit are never smaller than 16 bytes.
        self.ring_bytes = ring_bytes
        self.lap = ring_bytes // 16
        self.target = target
        self.built = os.path.join(target, "bench")
        self.scratch = scratch
        self.shim = os.path.join(target, "release/libtraceshim.so")
        self.collector = os.path.join(target, "release/collector")
        # The last processor: the first has most of the interrupts.
        self.cpu = max(os.sched_getaffinity(0))
        self.app = os.path.join(self.built, "bench")
        for needed in (self.shim, self.collector):
            if not os.path.exists(needed):
                raise Failure(f"{needed}: not built")

    def build(self):
        os.makedirs(self.built, exist_ok=True)
        library = ["-fomit-frame-pointer", "-fPIC", "-shared", "-Wl,-z,lazy,-soname,libbench.so"]
        call(["gcc", *CFLAGS, *library, "-o", f"{self.built}/libbench.so", f"{SOURCES}/lib.c"])
        call(["gcc", *CFLAGS, "-o", f"{self.built}/steps", f"{SOURCES}/steps.c"])
        self.build_host("bench")

    def build_host(self, name, *more):
        """The host; a peer may want it edited."""
        call(["gcc", *CFLAGS, "-fno-omit-frame-pointer", "-rdynamic", "-o", f"{self.built}/{name}",
              f"{SOURCES}/host.c", f"-L{self.built}", "-lbench", "-Wl,-z,lazy,-rpath,$ORIGIN", *more])
        return f"{self.built}/{name}"

    def build_load(self, modules):
        """A program of so many modules: its own, the loader, libc, the vdso, and ours."""
        made = modules - 4
        for n in range(made):
            call(["gcc", "-O2", "-fPIC", "-shared", f"-DMODULE={n}", f"-DNEXT={(n + 1) % made}",
                  f"-Wl,-soname,libload{n}.so", "-o", f"{self.built}/libload{n}.so", f"{SOURCES}/module.c"])
        calls = "+".join(f"module_{n}_00(0)" for n in range(made))
        declarations = " ".join(f"long module_{n}_00(long);" for n in range(made))
        libraries = [f"-lload{n}" for n in range(made)]
        call(["gcc", *CFLAGS, "-rdynamic", f"-DDECLARATIONS={declarations}", f"-DCALLS={calls}", "-o",
              f"{self.built}/load", f"{SOURCES}/load.c", f"-L{self.built}", "-Wl,-rpath,$ORIGIN", *libraries])
        return f"{self.built}/load"

    def shimmed(self, **more):
        """The environment of a traced run, with rings in a directory of their own."""
        return dict(os.environ, LD_PRELOAD=self.shim, TRACESHIM_DIR=self.scratch + "/rings",
                    TRACESHIM_OVERFLOW="overwrite", TRACESHIM_RING_BYTES=str(self.ring_bytes), **more)

    def rings(self):
        return sorted(glob.glob(f"{self.scratch}/rings/*.ring"))

    def remove_rings(self):
        for ring in self.rings():
            os.remove(ring)

    def run(self, mode, env=None, before=(), app=None, pinned=True, **numbers):
        """One run of the workload; what it printed."""
        if pinned:
            numbers = dict(numbers, cpu=self.cpu)
        arguments = [f"{name}={value}" for name, value in numbers.items()]
        out = call([*before, app or self.app, mode, *arguments], env=env)
        if env and "TRACESHIM_DIR" in env:
            if not self.rings():
                raise Failure(f"bench {mode} {' '.join(arguments)}: left no ring: it wasn't traced")
            self.remove_rings()
        return out

    def callback_ns(self, **more):
        """CPU time of each batch, in nanoseconds an event."""
        return cpu_ns("callback", self.run("callback", **more))


def cpu_ns(what, text, clock="cpu_ns"):
    found = re.findall(rf"^{what} cpu_ns ([\d.]+) wall_ns ([\d.]+)$", text, re.M)
    if not found:
        raise Failure(f"the workload printed no times: {said(text)}")
    return [float(cpu if clock == "cpu_ns" else wall) for cpu, wall in found]


class Samples:
    """Batches of several configurations, which take turns in rounds."""

    def __init__(self):
        self.rounds = {}

    def add(self, key, batches):
        self.rounds.setdefault(key, []).append(batches)

    def __contains__(self, key):
        return key in self.rounds

    def minimum(self, key):
        return min(min(batches) for batches in self.rounds[key])

    def median(self, key):
        return statistics.median(statistics.median(batches) for batches in self.rounds[key])

    def extra_minimum(self, key, base):
        return self.minimum(key) - self.minimum(base)

    def extra_median(self, key, base):
        """Each round compares its own runs, which saw the same mood of the machine."""
        return statistics.median(
            statistics.median(mine) - statistics.median(theirs)
            for mine, theirs in zip(self.rounds[key], self.rounds[base]))


def run_timed(command, env=None, cpu=None, out=os.devnull):
    """A program's whole life: nanoseconds by the clock, and of CPU time."""
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
               (os.POSIX_SPAWN_OPEN, 1, out, os.O_WRONLY | os.O_CREAT, 0o600)]
    allowed = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        start = time.monotonic_ns()
        pid = os.posix_spawn(command[0], command, env or os.environ, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        wall = time.monotonic_ns() - start
    finally:
        os.sched_setaffinity(0, allowed)
    if status != 0:
        raise Failure(f"{' '.join(command)}: wait status {status}")
    return wall, (usage.ru_utime + usage.ru_stime) * 1e9


def machine():
    """What the figures were measured on."""
    model, processors = "unknown processor", os.cpu_count()
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    libc = os.confstr("CS_GNU_LIBC_VERSION")
    system = "unknown system"
    with open("/etc/os-release", encoding="utf-8") as release:
        for line in release:
            if line.startswith("PRETTY_NAME="):
                system = line.split("=", 1)[1].strip().strip('"')
    return f"{model}, {processors} processors, {memory} GiB; {system}, Linux {os.uname().release}, {libc}"
