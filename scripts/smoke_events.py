"""A fixture's events, and what is expected of them: for smoke_check.py."""

import collections

# Functions whose symbols have another name than the one they are called by.
IMPLEMENTATIONS = {"host_indirect": ("indirect",)}
LIBC_MODULES = ("libc.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2")


def short(stack, frames=12):
    """A stack on one line, innermost first."""
    names = [frame.get("symbol") or f'{frame.get("module", "?")}+{frame.get("offset", "?")}' for frame in stack]
    more = f" and {len(names) - frames} more" if len(names) > frames else ""
    return " < ".join(names[:frames]) + more


def bare(symbol):
    """A C++ name without its parameters; a C name as it is."""
    return (symbol or "?").replace("(anonymous namespace)::", "").split("(")[0].split("+0x")[0]


def begins_with_itself(event):
    """Whether a callback's stack begins with the function that is called back."""
    function = event["function"]
    return bare(event["stack"][0].get("symbol")) in (function, *IMPLEMENTATIONS.get(function, ()))


class Check:
    """A dump, the expectations met so far, and those that weren't."""

    def __init__(self, fixture, flags, unwinder, events, processes=()):
        self.fixture, self.flags, self.unwinder, self.events = fixture, flags, unwinder, events
        self.processes = processes
        self.met, self.failures = 0, []
        self.library = f"lib{fixture}.so"

    def expect(self, name, found, holds=None, wanted=None):
        """`holds` is a condition, or else `found` must equal `wanted`."""
        if holds is None:
            holds = found == wanted
        if holds:
            self.met += 1
            print(f"  ok    {name}: {found}")
        else:
            self.failures.append(name)
            print(f"  FAIL  {name}: {found}" + ("" if wanted is None else f"; expected {wanted}"))

    def of(self, kind, **fields):
        return [
            event
            for event in self.events
            if event["kind"] == kind and all(event.get(key) == value for key, value in fields.items())
        ]

    def one(self, kind, **fields):
        """The only event of that description, or an empty one after a failure."""
        found = self.of(kind, **fields)
        if len(found) != 1:
            described = " ".join([kind] + [f"{key}={value}" for key, value in fields.items()])
            self.expect(f"one {described}", len(found), wanted=1)
        return found[0] if found else {}

    def stack(self, name, event, *wanted, complete=True):
        """The stack begins with the functions `wanted`."""
        stack = event.get("stack", [])
        found = [bare(frame.get("symbol")) for frame in stack][: len(wanted)]
        shown = f'{short(stack)} ({event.get("stack_status")}, {event.get("unwinder")})'
        holds = found == list(wanted) and (not complete or event.get("stack_status") == "complete")
        self.expect(name, shown, holds, " < ".join(wanted) + (" ... complete" if complete else " ..."))

    def tops(self, kind, frames):
        """How often each stack's innermost frames and status occur among events of a kind."""
        return dict(collections.Counter(
            (" < ".join(bare(frame.get("symbol")) for frame in event["stack"][:frames]), event["stack_status"])
            for event in self.of(kind)
        ))

    def callbacks(self, wanted):
        """How often each function was entered, and left by which way."""
        entered = collections.Counter(event.get("function") for event in self.of("callback_enter"))
        left = collections.Counter((event.get("function"), event.get("how")) for event in self.of("callback_exit"))
        for function, ways in wanted.items():
            self.expect(f"callback_enter {function}", entered.pop(function, 0), wanted=sum(ways.values()))
            for how, count in ways.items():
                if how != "never":
                    self.expect(f"callback_exit {function}, {how}", left.pop((function, how), 0), wanted=count)
        self.expect("no other callback", sorted(map(str, [*entered, *left])), wanted=[])

    def births(self, wanted):
        """How many threads of each (origin, start routine)."""
        found = collections.Counter(
            (event.get("origin"), bare(event.get("start_routine"))) for event in self.of("thread_birth")
        )
        for (origin, routine), count in wanted.items():
            self.expect(f"thread_birth {routine}, origin {origin}", found.pop((origin, routine), 0), wanted=count)
        self.expect("no other thread_birth", sorted(found), wanted=[])
        starts = collections.Counter(event.get("origin") for event in self.of("thread_start"))
        for origin in {origin for origin, _ in wanted}:
            count = sum(count for (of, _), count in wanted.items() if of == origin)
            self.expect(f"thread_start, origin {origin}", starts[origin], wanted=count)

    # What holds of every trace.

    def everywhere(self):
        stacks = [event for event in self.events if "stack" in event]
        self.expect("events, with stacks", (len(self.events), len(stacks)), holds=len(stacks) > 0)
        ours = {
            frame.get("module")
            for event in stacks
            for frame in event["stack"]
            if "traceshim" in frame.get("module", "")
        }
        self.expect("no frame of the tracer", sorted(ours), wanted=[])
        honest = {event.get("stack_status", "") for event in stacks}
        self.expect(
            "every stack says whether it is complete",
            sorted(honest),
            holds=all(status == "complete" or status.startswith("truncated: ") for status in honest),
        )
        last, disorder = {}, 0
        for event in self.events:
            thread = (event["pid"], event["tid"])
            disorder += event["ts_ns"] < last.get(thread, 0)
            last[thread] = event["ts_ns"]
        self.expect("times go back within a thread", disorder, wanted=0)
        self.expect("events lost", sum(event.get("count", 0) for event in self.of("lost")), wanted=0)
        enters = self.of("callback_enter")
        self.expect(
            "callback_enter stacks begin with the callback",
            collections.Counter(begins_with_itself(event) for event in enters)
            if all(event.get("stack") for event in enters)
            else "an empty stack",
            holds=all(
                event.get("stack") and begins_with_itself(event)
                # A wrapped pointer may name a function as the symbol table does.
                or self.fixture.startswith("annotate")
                # Code that was made at run time has no name.
                or event["function"] == event["stack"][0]["addr"]
                for event in enters
            ),
        )


def by_case(check):
    """The events of each case of a fixture that has some (see cases.h), without those of processes that it forked."""
    cases = {}
    for event in check.of("log", category="case"):
        # A process that executes another case is still the first one's.
        cases.setdefault(event["pid"], event["message"])
    events = collections.defaultdict(list)
    for event in check.events:
        if event["pid"] in cases:
            events[cases[event["pid"]]].append(event)
    return {case: Check(check.fixture, check.flags, check.unwinder, of) for case, of in events.items()}


def after(check, message):
    """What the thread that said so did later."""
    said = check.one("log", message=message)
    later = check.events[check.events.index(said) + 1:] if said else []
    of = [event for event in later if event["tid"] == said["tid"]]
    return Check(check.fixture, check.flags, check.unwinder, of)
