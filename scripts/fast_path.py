#!/usr/bin/env python3
"""The fast path touches no register wider than 16 bytes and calls nothing of
anybody else's: it runs with the program's wide argument registers unsaved.

usage: fast_path.py LIBRARY

Follows the calls from the trampolines' common part through the disassembly, as
far as the gate: behind it everything is saved. Exits 1 and names what it found
where it meets an indirect call other than the one of the host's function, a
call out of the library, a VEX or EVEX instruction, or a panic. Also names the
exported functions that don't begin with endbr64: whoever calls one by its
address may be in a program whose indirect calls must lead to one.
"""
import re
import subprocess
import sys

ROOT = r"trampoline6common"
REACHED = r"find15find_remembered"
GATE = r"4gate4gate17h"
HOST_FUNCTION = ("call", "*%r11")
LINE = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*(.*)$")
HEAD = re.compile(r"^([0-9a-f]+) <(.+)>:$")


def functions(library):
    """Every function of the library: name -> list of (mnemonic, operands)."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True
    ).stdout
    found, body = {}, []
    for line in text.splitlines():
        if head := HEAD.match(line):
            body = found.setdefault(head.group(2), [])
        elif instruction := LINE.match(line):
            body.append(instruction.groups()[1:])
    return found


def exported(library):
    """The names of the functions that the library exports."""
    text = subprocess.run(
        ["nm", "--dynamic", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout
    return [name for _, kind, name in (line.split() for line in text.splitlines()) if kind in "TW"]


def main():
    if len(sys.argv) != 2:
        print("usage: fast_path.py LIBRARY", file=sys.stderr)
        return 2
    found = functions(sys.argv[1])
    todo = [name for name in found if re.search(ROOT, name)]
    if len(todo) != 1:
        print(f"fast_path.py: {sys.argv[1]}: found {todo} where the trampolines have one common part")
        return 1
    seen, wrong, instructions, calls_through, gates = set(), [], 0, 0, 0
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if "panic" in name or "@plt" in name:
            wrong.append(f"{name} is reached")
            continue
        for mnemonic, operands in found.get(name, []):
            instructions += 1
            if re.match(r"v[a-z]", mnemonic) and mnemonic not in ("verr", "verw"):
                wrong.append(f"{name}: {mnemonic} {operands}")
            if mnemonic.startswith("call") or (mnemonic.startswith("j") and "<" in operands):
                target = re.search(r"<([^+>]+)(\+0x[0-9a-f]+)?>", operands)
                if (mnemonic, operands) == HOST_FUNCTION:
                    calls_through += 1
                elif target and re.search(GATE, target.group(1)):
                    gates += 1
                elif operands.startswith("*") or not target:
                    wrong.append(f"{name}: {mnemonic} {operands}")
                elif target.group(1) != name:
                    todo.append(target.group(1))
    if calls_through != 1:
        wrong.append(f"{calls_through} calls of the host's function, not one")
    if gates != 2:
        wrong.append(f"{gates} ways to the gate, not one in the enter and one in the exit")
    if not any(re.search(REACHED, name) for name in seen):
        wrong.append("the memo isn't asked")
    entries = exported(sys.argv[1])
    wrong += [f"{name} doesn't begin with endbr64" for name in entries if found.get(name, [("", "")])[0][0] != "endbr64"]
    if "__gmon_start__" not in entries:
        wrong.append("the exported functions aren't found")
    print(f"{len(entries)} exported functions")
    print(f"fast path: {instructions} instructions in {len(seen)} functions: {', '.join(sorted(seen))}")
    for line in wrong:
        print(f"fast_path.py: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
