"""Kills the fixture `spin` at random moments, with no collector running: every
event that was published must be readable afterwards, and the dump never fails.

    kill_check.py COLLECTOR SHIM SPIN TIMES

`spin` stores how many callbacks of each thread are over in a file of its own,
which outlives it as the ring does.
"""

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

THREADS = 4


def read_progress(path):
    with open(path, "rb") as file:
        return list(memoryview(file.read()).cast("Q"))


def wait_for_first(path, process):
    """Until each thread has been called back: it is the middle of its life that the kill should hit."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if os.path.exists(path) and os.path.getsize(path) == 8 * THREADS and all(read_progress(path)):
            return
    raise SystemExit("spin didn't get going")


def kill_once(collector, shim, spin, rng, work):
    session, progress = os.path.join(work, "session"), os.path.join(work, "progress")
    environment = {
        **os.environ, "LD_PRELOAD": shim, "TRACESHIM_DIR": session, "TRACESHIM_RING_BYTES": "64M",
    }
    process = subprocess.Popen([spin, "forever", progress, str(THREADS)], env=environment, stdout=subprocess.DEVNULL)
    wait_for_first(progress, process)
    end = time.monotonic() + rng.random() * 0.01
    while time.monotonic() < end:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()

    dump = subprocess.run(
        [collector, "dump", "--format", "json", "--no-symbols", "--depth", "1",
         "--kind", "log,callback_exit,lost", session],
        capture_output=True, check=False,
    )
    if dump.returncode != 0:
        return f"dump: status {dump.returncode}: {dump.stderr.decode(errors='replace')}"
    logged, returned, lost = collections.defaultdict(list), collections.Counter(), 0
    for line in dump.stdout.splitlines():
        event = json.loads(line)
        if event["kind"] == "log":
            thread, number = event["message"].split(":")
            logged[int(thread)].append(int(number))
        elif event["kind"] == "callback_exit":
            returned[event["tid"]] += 1
        lost += event["kind"] == "lost"
    if lost:
        return None, "the ring was full"
    counts = read_progress(progress)
    for thread, count in enumerate(counts):
        numbers = logged[thread]
        if numbers != list(range(len(numbers))) or not count <= len(numbers) <= count + 1:
            return f"thread {thread}: {count} callbacks were over, {len(numbers)} logs are readable"
    # A thread may have stored its count after its last callback, or not yet.
    if not sum(counts) <= sum(returned.values()) <= sum(counts) + THREADS:
        return f"{sum(counts)} callbacks were over, {sum(returned.values())} exits are readable"
    return None, f"{sum(counts)} callbacks"


def main():
    collector, shim, spin, times = sys.argv[1:]
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    seen, failures = [], []
    for attempt in range(int(times)):
        work = tempfile.mkdtemp(prefix="traceshim-kill-")
        result = kill_once(collector, shim, spin, rng, work)
        shutil.rmtree(work)
        if isinstance(result, str):
            failures.append(f"kill {attempt}: {result}")
        else:
            seen.append(result[1])
    for failure in failures:
        print(f"  FAIL  {failure}")
    print(f"  {times} kills (seed {seed}), {len(failures)} failures; for example: {', '.join(seen[:5])}")
    return 1 if failures else 0


sys.exit(main())
