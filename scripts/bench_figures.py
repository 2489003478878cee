"""What bench.py shows: a comparison, its target, and tables of them."""

import datetime
import json
import subprocess
from dataclasses import dataclass, field

from bench_workload import machine

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
