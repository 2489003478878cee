#!/usr/bin/env python3
"""Compares the thread births of a trace with the threads that strace saw being
made in the same run, thread by thread: process and tid must agree.

    births.py COLLECTOR STRACE TRACE [LIBC_THREADS]

TRACE is a trace or a session directory, STRACE what strace wrote in that run with
the options of compare.sh. A thread that strace saw
and whose birth nobody recorded is allowed where strace alone shows the reason:

- it was made with other flags than `pthread_create` uses: a raw clone
- its process was given an environment without the shim, or is static
- it is one of the LIBC_THREADS, which libc or a runtime makes for itself, past
  every library: how many there are is known of the program

A birth has no tid if the process was gone before the thread's first step; of
those there must be as many as strace saw other threads in the process. Prints
what differs, and exits 1 where anything does.
"""

import collections
import glob
import json
import os
import re
import struct
import subprocess
import sys

LINE = re.compile(r"(\d+) +(?:<\.\.\. \w+ resumed>)?(.*)")
# The flags with which `pthread_create` asks for a thread.
OF_LIBC = set(
    "CLONE_VM CLONE_FS CLONE_FILES CLONE_SIGHAND CLONE_THREAD CLONE_SYSVSEM"
    " CLONE_SETTLS CLONE_PARENT_SETTID CLONE_CHILD_CLEARTID".split()
)
PT_INTERP = 3


def has_loader(path):
    """Whether the program, or the interpreter of the script, is one that a loader
    loads. What can't be read may be."""
    try:
        with open(path, "rb") as file:
            data = file.read(4096)
    except OSError:
        return True
    if data.startswith(b"#!"):
        return has_loader(data[2:].split()[0])
    if data[:5] != b"\x7fELF\x02":
        return False
    (table,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
    entries = range(table, min(table + size * count, len(data) - 4), size)
    return any(struct.unpack_from("<I", data, entry) == (PT_INTERP,) for entry in entries)


def calls(path):
    """The calls that succeeded, as (tid, text, result), in the order in which they
    began: what a child does may stand before the end of the call that made it."""
    begun, found = {}, []
    with open(path, errors="replace", encoding="utf-8") as file:
        for number, line in enumerate(file):
            tid, text = LINE.match(line.rstrip("\n")).groups()
            tid = int(tid)
            if "resumed>" in line[:40] and tid in begun:
                number, beginning = begun.pop(tid)
                text = beginning + text
            if text.endswith("<unfinished ...>"):
                begun[tid] = number, text.removesuffix("<unfinished ...>")
                continue
            result = re.search(r"\) += (\d+)$", text)
            if result:
                found.append((number, tid, text, int(result[1])))
    return [call[1:] for call in sorted(found)]


def threads_made(path):
    """What strace saw: (process, tid) -> for each thread of that number, why it may
    have no birth, or None."""
    made, process_of, untraced = collections.defaultdict(list), {}, {}
    for tid, text, result in calls(path):
        process = process_of.setdefault(tid, tid)
        name = text.partition("(")[0]
        if name.startswith("execve"):
            program = re.search(r'"((?:[^"\\]|\\.)*)"', text)
            if not re.search(r'"LD_PRELOAD=[^"]*libtraceshim\.so', text):
                untraced[process] = "its process has no shim in its environment"
            elif program and not has_loader(program[1]):
                untraced[process] = f"its process is {program[1]}, which is static"
            else:
                untraced.pop(process, None)
            continue
        flags = set(re.findall(r"CLONE_\w+", text))
        if "CLONE_THREAD" in flags:
            process_of[result] = process
            raw = None if flags == OF_LIBC else f"a raw {name}"
            made[process, result].append(raw or untraced.get(process))
        else:
            process_of[result] = result
            untraced.pop(result, None)
            if process in untraced:
                untraced[result] = untraced[process]
    return made


def dump(collector, kinds, trace):
    if os.path.isdir(trace) and not glob.glob(f"{glob.escape(trace)}/*.ring"):
        # Nobody recorded anything.
        return
    command = [collector, "dump", "--no-symbols", "--format", "json", "--kind", kinds, trace]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode != 0:
        sys.exit(f"births.py: {' '.join(command)}: exit status {process.returncode}")


def main(collector, strace, trace, libc_threads="0"):
    made = threads_made(strace)
    clones = sum(map(len, made.values()))
    births, lost, nowhere, nameless = 0, 0, [], collections.Counter()
    for event in dump(collector, "thread_birth,lost", trace):
        if event["kind"] == "lost":
            lost += event["count"]
            continue
        births += 1
        thread = event["pid"], event.get("child_tid")
        if not thread[1]:
            nameless[event["pid"]] += 1
        elif made.get(thread):
            # Those without a reason first: what is recorded needs none.
            made[thread].sort(key=lambda reason: reason is not None)
            made[thread].pop(0)
        else:
            nowhere.append(thread)
    missing, reasons = [], collections.Counter()
    for thread in sorted(made):
        for reason in made[thread]:
            if reason:
                reasons[reason] += 1
            elif nameless[thread[0]] > 0:
                nameless[thread[0]] -= 1
                reasons["born, and its process gone before its first step"] += 1
            else:
                missing.append(thread)
    nowhere += nameless.elements()

    processes = len({process for process, _ in made})
    print(f"{births} births, {clones} thread clones by strace in {processes} processes, {lost} events lost")
    for reason, count in reasons.items():
        print(f"{count} not recorded or without a tid: {reason}")
    wrong = False
    if len(missing) != int(libc_threads):
        wrong = True
        print(f"without a birth: {len(missing)}, expected {libc_threads}; process and tid: {missing[:20]}")
    elif missing:
        print(f"{len(missing)} not recorded: libc or a runtime makes them for itself")
    if nowhere:
        wrong = True
        print(f"births that strace didn't see: {len(nowhere)}; process and tid: {nowhere[:20]}")
    return wrong


sys.exit(main(*sys.argv[1:]))
