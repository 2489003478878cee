#!/usr/bin/env python3
"""Kills the fixture `spin`, the collector that records it, or both, at random
moments: the program never notices that a collector dies, and every event that
was published is in the trace or in the ring, once, or is counted as lost.

    kill_check.py COLLECTOR SHIM SPIN TIMES [app|collector|both|none...]

`spin` stores how many callbacks of each thread are over in a file of its own,
which outlives it as the ring does. Each callback makes three events.
"""

import collections
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

# The events of a spin that aren't of its callbacks: its threads' lives and the
# modules that it loads. As many in every run with as many threads.
OTHERS = {}


def read_progress(path):
    try:
        with open(path, "rb") as file:
            return list(memoryview(file.read()).cast("Q"))
    except FileNotFoundError:
        return []


def children_of(pid):
    children = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path, encoding="ascii") as file:
                children += [int(child) for child in file.read().split()]
        except OSError:
            pass
    return children


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wait_a_while(rng, most):
    end = time.monotonic() + rng.random() * most
    while time.monotonic() < end:
        pass


class Run:
    """One spin, and what is killed of it."""

    def __init__(self, collector, shim, spin, rng, what):
        self.collector, self.shim, self.spin, self.rng, self.what = collector, shim, spin, rng, what
        self.threads = rng.choice([2, 8])
        self.policy = rng.choice(["drop", "overwrite"])
        self.ring = rng.choice(["128K", "1M", "32M"])

    def __str__(self):
        return f"kill {self.what}, {self.threads} threads, {self.ring}, {self.policy}"

    def act(self, work):
        """Runs spin, and kills; whether all of it ran to its end, and the inputs to read."""
        session, progress = os.path.join(work, "session"), os.path.join(work, "progress")
        os.mkdir(session)
        environment = {**os.environ, "TRACESHIM_DIR": session, "TRACESHIM_LIBRARY": self.shim}
        forever = self.what in ("app", "both")
        command = [self.spin, "forever" if forever else "15", progress, str(self.threads)]
        if self.what == "app":
            environment |= {
                "LD_PRELOAD": self.shim, "TRACESHIM_RING_BYTES": self.ring, "TRACESHIM_OVERFLOW": self.policy,
            }
        else:
            trace = os.path.join(work, "trace")
            command = [self.collector, "record", "--ring-size", self.ring, "--overflow", self.policy,
                       "-o", trace, "--", *command]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        # Its whole life, or from when it does something.
        if forever:
            self.wait_for_first(progress, process)
        wait_a_while(self.rng, 0.01 if forever else 0.04)
        spins = [process.pid] if self.what == "app" else children_of(process.pid)
        victims = {"app": spins, "collector": [process.pid], "both": [process.pid, *spins], "none": []}[self.what]
        self.rng.shuffle(victims)
        for victim in victims:
            kill(victim)
            wait_a_while(self.rng, 0.001)
        if self.what == "both":
            # It may have been started between the look and the kill.
            for victim in spins:
                kill(victim)
        # The end of its output is that of spin, whoever else still lives.
        output = process.stdout.read()
        process.wait()
        ended = output == b"time is up\n"
        if not ended and (self.what == "none" or self.what == "collector" and read_progress(progress)):
            raise AssertionError(f"spin printed {output!r}")
        inputs = [session] if self.what == "app" else glob.glob(session + "/*") + [trace] * os.path.exists(trace)
        return ended, read_progress(progress), inputs

    def wait_for_first(self, path, process):
        """Until each thread has been called back."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            counts = read_progress(path)
            if len(counts) == self.threads and all(counts):
                return
        raise AssertionError("spin didn't get going")

    def read(self, command, inputs):
        done = subprocess.run([self.collector, *command, "--no-symbols", *inputs], capture_output=True, check=False)
        stderr = done.stderr.decode(errors="replace")
        if done.returncode != 0 or "panicked" in stderr:
            raise AssertionError(f"{command[0]}: status {done.returncode}: {stderr}")
        return done.stdout

    def check(self, ended, counts, inputs):
        """Compares what is readable with what was published."""
        usable = [path for path in inputs if os.path.isfile(path) and os.path.getsize(path) or os.listdir(path)]
        if not usable:
            if any(counts):
                raise AssertionError(f"{sum(counts)} callbacks are gone")
            return "killed before it began"
        stats = [json.loads(line) for line in self.read(["stats", "--format", "json"], usable).splitlines()]
        if not stats:
            return "killed before there was a ring"
        if len(stats) != 1 or stats[0]["damaged"]:
            raise AssertionError(f"{len(stats)} processes: {stats}")
        stats = stats[0]
        numbers = collections.defaultdict(list)
        for line in self.read(["dump", "--kind", "log", "--depth", "0"], usable).splitlines():
            fields = line.split()
            if len(fields) > 4 and fields[2] == b"log":
                thread, number = fields[4].split(b":")
                numbers[int(thread)].append(int(number))
        for thread, of_thread in numbers.items():
            if len(set(of_thread)) != len(of_thread):
                raise AssertionError(f"thread {thread}: a log is there twice")
        lost, calls = stats["lost"], sum(counts)
        others = stats["events"] + lost - 3 * calls
        if not lost:
            for thread, count in enumerate(counts):
                logs = sorted(numbers[thread])
                if logs != list(range(len(logs))) or not count <= len(logs) <= count + (not ended):
                    raise AssertionError(f"thread {thread}: {count} callbacks were over, {len(logs)} logs are there")
        if ended:
            if OTHERS.setdefault(self.threads, others) != others:
                raise AssertionError(f"{calls} callbacks, {stats['events']} events, {lost} lost: {others} are "
                                     f"of something else, and {OTHERS[self.threads]} in another run")
        # Killed in the middle, a thread may have taken a chunk and not yet
        # counted what was in it, or be ahead of what it says of itself.
        elif not -self.threads * 512 * (self.policy == "overwrite") <= others <= 100 + 3 * self.threads:
            raise AssertionError(f"{calls} callbacks, {stats['events']} events, {lost} lost")
        return f"{calls} callbacks, {lost} events lost"

    def run(self):
        """What went wrong, and what was seen."""
        # In memory, where there is such a place.
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        work = tempfile.mkdtemp(prefix="traceshim-kill-", dir=place)
        try:
            return None, self.check(*self.act(work))
        except AssertionError as failure:
            return failure, None
        finally:
            shutil.rmtree(work)


def main():
    collector, shim, spin, times, *whats = sys.argv[1:]
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    failures = 0
    for what in whats or ["app", "collector", "both", "none"]:
        seen = []
        for _ in range(int(times)):
            run = Run(collector, shim, spin, rng, what)
            failure, result = run.run()
            if failure:
                failures += 1
                print(f"  FAIL  {run}: {failure}")
            else:
                seen.append(result)
        print(f"  {what}: {times} times (seed {seed}); for example: {'; '.join(seen[:3])}", flush=True)
    return 1 if failures else 0


sys.exit(main())
