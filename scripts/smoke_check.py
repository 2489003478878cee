"""Checks a trace of a C fixture against what the fixture must yield.

    smoke_check.py FIXTURE FLAGSET UNWINDER DUMP.json STATS.json

The last two are the output of `collector dump --format json` and of `collector stats --format json`. Every expectation has
a name and is printed with what was found. Exits 1 where one isn't met.
"""

import collections
import json
import sys

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


def main_thread(check):
    main = [event for event in check.of("thread_start", origin="main")]
    check.expect("thread_start, origin main", len(main), wanted=1)


def founding(check):
    auto = check.unwinder == "auto"
    alone = check.one("log", message="host_alone")
    check.stack("log host_alone", alone, "host_alone", "main")
    fp = "-fp" in check.flags and auto
    check.expect("its unwinder", alone.get("unwinder"), wanted="frame-pointer" if fp else "table")
    first = check.one("log", message="host_called_from_c")
    check.stack(
        "log host_called_from_c", first,
        "host_called_from_c", "c_step", "c_called_from_host", "host_called_from_host", "main",
    )
    check.expect("its unwinder", first.get("unwinder"), wanted="table")
    second = check.one("log", message="host_called_from_c_thread")
    check.stack(
        "log host_called_from_c_thread", second, "host_called_from_c_thread", "c_thread_step", "c_thread"
    )
    outside = [frame.get("module") for frame in second.get("stack", [])[3:]]
    check.expect("it ends where the thread starts", outside, all(name in LIBC_MODULES for name in outside))
    check.expect("categories", {event.get("category") for event in (alone, first, second)}, wanted={"log"})
    main_thread(check)
    check.births({("c", "c_thread"): 1})
    birth = check.one("thread_birth")
    check.stack("thread_birth", birth, "c_called_from_host", "host_called_from_host", "main")
    if "child_tid" in birth:
        check.expect("child_tid", birth["child_tid"], wanted=second.get("tid"))
    check.expect("thread_exit of it", len(check.of("thread_exit", tid=second.get("tid"))), wanted=1)
    check.callbacks({"host_called_from_c": {"return": 1}, "host_called_from_c_thread": {"return": 1}})
    for function in ("host_called_from_c", "host_called_from_c_thread"):
        check.expect("depth", check.one("callback_enter", function=function).get("depth"), wanted=1)
        duration_ns = check.one("callback_exit", function=function).get("duration_ns", 0)
        check.expect(f"duration_ns of {function}", duration_ns, duration_ns > 0)
    check.stack(
        "callback_enter host_called_from_c", check.one("callback_enter", function="host_called_from_c"),
        "host_called_from_c", "c_step", "c_called_from_host", "host_called_from_host", "main",
    )
    in_library = first.get("stack", [{}, {}])[1:2]
    check.expect(
        "module, file and line of c_step",
        [(frame.get("module"), frame.get("file", "").split("/")[-1], frame.get("line")) for frame in in_library],
        all(
            frame.get("module") == check.library and frame.get("file", "").endswith("lib.c") and frame.get("line")
            for frame in in_library
        ),
    )


def nested(check):
    check.callbacks({"host_nested": {"return": 3}})
    depths = [event.get("depth") for event in check.of("callback_enter", function="host_nested")]
    check.expect("depths", depths, wanted=[1, 2, 3])
    for depth in (1, 2, 3):
        check.stack(
            f"log depth {depth}", check.one("log", message=f"depth {depth}"),
            "report", *["host_nested", "c_nested"] * depth, "host_calls_c", "main",
        )
    outside = check.of("log", message="depth 0")
    check.expect("log depth 0", len(outside), wanted=2)
    for event in outside:
        check.stack("log depth 0", event, "report", "main")
    if check.unwinder == "auto" and "-fp" in check.flags:
        unwinders = [(event["message"], event["unwinder"]) for event in check.of("log")]
        wanted = [("depth 0", "frame-pointer"), *[(f"depth {d}", "table") for d in (1, 2, 3)], ("depth 0", "frame-pointer")]
        check.expect("the table runs where C is on the stack", unwinders, wanted=wanted)


def storm(check):
    check.births({("c", "c_storm_thread"): 200, ("host", "host_storm_thread"): 200})
    check.expect("thread_exit", len(check.of("thread_exit")), holds=len(check.of("thread_exit")) >= 400)
    check.callbacks({"host_storm": {"return": 400}})
    check.expect("creators", check.tops("thread_birth", 2), wanted={
        ("c_storm < main", "complete"): 200, ("host_makes_threads < main", "complete"): 200,
    })
    tids = {event["tid"] for event in check.of("callback_enter")}
    starts = {event["tid"] for event in check.of("thread_start") if event["origin"] != "main"}
    check.expect("threads that called back, of those that started", len(tids), holds=tids <= starts)


def names(check):
    check.births({("c", "says_name"): 3, ("c", "names_main"): 1})
    main = check.one("thread_start", origin="main")
    given = [event for event in check.of("thread_name") if event["target_tid"] == main.get("tid")]
    check.expect(
        "names of main", [event["name"] for event in given], wanted=["first-and-much-", "second", "third"])
    started = [event["name"] for event in check.of("thread_start", start_routine="says_name")]
    check.expect("names of the threads that it made", started, wanted=["first-and-much-", "second", "third"])


def parallel(check):
    check.births({("c", "c_parallel_thread"): 4})
    check.callbacks({"host_parallel": {"return": 4000}})
    each = collections.Counter(event["tid"] for event in check.of("callback_enter"))
    check.expect("callbacks of each thread", sorted(each.values()), wanted=[1000] * 4)
    stacks = check.tops("callback_enter", 2)
    check.expect("stacks", stacks, wanted={("host_parallel < c_parallel_thread", "complete"): 4000})


def tables(check):
    functions = ("host_first", "host_second", "host_third", "host_by_address", "host_by_call")
    check.callbacks({function: {"return": 1} for function in (*functions, "host_tail", "host_compared")})
    for function in functions:
        check.stack(
            f"callback_enter {function}", check.one("callback_enter", function=function), function, "c_tables", "main"
        )
    tail = ["c_tail", "main"] if check.flags.startswith("O0") else ["main"]
    check.stack("callback_enter host_tail", check.one("callback_enter", function="host_tail"), "host_tail", *tail)
    check.stack(
        "callback_enter host_compared", check.one("callback_enter", function="host_compared"),
        "host_compared", "c_is_host_compared", "main",
    )


def register(check):
    entered = collections.Counter(event.get("function") for event in check.of("callback_enter"))
    check.expect("callbacks of qsort", entered["by_value"], holds=entered["by_value"] >= 2)
    check.expect("callbacks of c_fire", entered["on_event"], wanted=2)
    once = {"on_near": 1, "on_far": 1, "on_farther": 1, "on_option": 1}
    check.expect("arguments in registers, on the stack, and by option",
                 {function: entered[function] for function in once}, wanted=once)
    check.expect("no other callback", sorted(set(entered) - {"by_value", "on_event", *once}), wanted=[])
    left = collections.Counter(event.get("function") for event in check.of("callback_exit", how="return"))
    check.expect("every one returned", dict(left), wanted=dict(entered))
    for event in check.of("callback_enter", function="on_event"):
        check.stack("callback_enter on_event", event, "on_event", "c_fire", "main")
    check.stack("callback_enter on_farther", check.one("callback_enter", function="on_farther"),
                "on_farther", "c_register_far", "main")
    stack = [bare(frame.get("symbol")) for frame in check.of("callback_enter", function="by_value")[0]["stack"]]
    check.expect("by_value comes from qsort", " < ".join(map(str, stack)),
                 holds=stack[0] == "by_value" and "main" in stack and any("qsort" in str(name) for name in stack))


def hand_over(check):
    entered = collections.Counter(event.get("function") for event in check.of("callback_enter"))
    # How often libc compares is its own affair.
    for function, least in (("by_value", 3), ("by_value_with", 2), ("only_dots", 3), ("by_name", 1)):
        check.expect(f"callbacks of {function}", entered[function], holds=entered.pop(function, 0) >= least)
    made = [function for function in entered if (function or "0x").startswith("0x")]
    check.expect("one that was made at run time", [entered.pop(function) for function in made], wanted=[2])
    wanted = {"at_thread_end": 1, "once_only": 1, "at_end": 1, "on_event": 2}
    check.expect("the others", dict(sorted(entered.items(), key=str)), wanted=dict(sorted(wanted.items())))
    left = collections.Counter(event.get("function") for event in check.of("callback_exit", how="return"))
    check.expect("every one returned", sum(left.values()), wanted=len(check.of("callback_enter")))
    for event in check.of("callback_enter", function="on_event"):
        check.stack("callback_enter on_event", event, "on_event", "c_fire", "main")
    for function, caller in (("by_value", "qsort"), ("by_value_with", "qsort_r"), ("only_dots", "scandir")):
        stack = [bare(frame.get("symbol")) for frame in check.of("callback_enter", function=function)[0]["stack"]]
        check.expect(f"{function} comes from {caller}", " < ".join(stack),
                     holds=stack[0] == function and "main" in stack and any(caller in name for name in stack))


def inline(check):
    once = ("short", "relative", "tail", "far_call")
    check.callbacks({
        "patched_plain": {"return": 4},
        "patched_call": {"return": 2},
        "patched_recursive": {"return": 4},
        "patched_jumped": {"unwound": 5},
        "patched_on_threads": {"return": 4000},
        "patched_branch": {"return": 3},
        "patched_ret": {"return": 2},
        "patched_many": {"return": 3},
        "patched_loop_count": {"return": 2},
        **{f"patched_{name}": {"return": 1} for name in once},
    })
    depths = [event["depth"] for event in check.of("callback_enter", function="patched_recursive")]
    check.expect("depths of patched_recursive", depths, wanted=[1, 2, 3, 4])
    callers = {"patched_plain": ["keeps_values", "main"], "patched_many": ["calls_many", "main"]}
    callers |= {f"patched_{name}": ["main"] for name in ("short", "ret", "relative", "branch", "jumped")}
    for function, frames in callers.items():
        entered = check.of("callback_enter", function=function)
        entered = [event for event in entered if "step" not in (frame.get("symbol") for frame in event["stack"])]
        check.stack(f"callback_enter {function}", entered[0], function, *frames)
    steps = check.of("log", category="step")
    check.expect("statuses at every step", {event["stack_status"] for event in steps}, wanted={"complete"})
    # A handler, what called it, and what it interrupted: where a function's first instructions were moved, it is there.
    interrupted = collections.Counter(" < ".join(bare(frame.get("symbol")) for frame in event["stack"][2:5]) for event in steps)
    for function, least in (("plain", 5), ("branch", 5), ("call", 5)):
        found = interrupted[f"patched_{function} < step < main"]
        check.expect(f"steps of patched_{function}", found, holds=found >= least)
    stacks = {key: count for key, count in check.tops("callback_enter", 2).items() if "on_threads" in key[0]}
    check.expect("stacks on threads", stacks, wanted={("patched_on_threads < on_thread", "complete"): 4000})


def live(check):
    entered = check.of("callback_enter")
    by_plugin = collections.Counter(
        event["function"] for event in entered
        if [bare(frame.get("symbol")) for frame in event["stack"][1:3]] == ["plugin_calls", "main"])
    check.expect("callbacks from the plugin", dict(by_plugin), wanted={f"host_live_{n}": 100 for n in range(1, 17)})
    by_lib = [event for event in entered if bare(event["stack"][1].get("symbol")) == "c_calls"]
    check.expect("callbacks from the library", len(by_lib), holds=len(by_lib) > 0)
    check.expect("all callbacks", len(entered), wanted=len(by_lib) + sum(by_plugin.values()))
    check.expect("every one returned", len(check.of("callback_exit", how="return")), wanted=len(entered))
    check.expect("statuses", {event["stack_status"] for event in entered}, wanted={"complete"})


def maps(check):
    functions = ("host_by_slot", "host_by_table", "handed_over", "patched")
    check.callbacks({function: {"return": 1} for function in functions})


def abi(check):
    # host_m256 and host_m256_none only where the processor has AVX.
    enters = collections.Counter(event["function"] for event in check.of("callback_enter"))
    check.expect("functions called back", len(enters), holds=len(enters) in (24, 26))
    odd = {function: count for function, count in enters.items() if count != 3}
    check.expect("not three times", odd, wanted={"host_errno": 6, "host_large": 6, "host_rounding": 6})
    exits = collections.Counter(event["function"] for event in check.of("callback_exit", how="return"))
    check.expect("every one returned", sum(exits.values()), holds=exits == enters)


def wide(check):
    # The largest ones on one stack only.
    wanted = {f"host_{way}_{words}": 1 if words == 8750 else 2 for words in (31, 32, 33, 250, 512, 8750)
              for way in ("walks", "takes", "copies", "passes_on", "jumps", "is_jumped_to")}
    wanted.update({"host_walks_250": 2 + 4, "host_adds": 2 + 4})
    wanted.update({name: 2 for name in ("host_aligned", "host_outer", "host_picks")})
    check.callbacks({function: {"return": count} for function, count in wanted.items()})
    check.expect("depths of host_walks_250",
                 [event["depth"] for event in check.of("callback_enter", function="host_walks_250")],
                 wanted=[1, 1, 2] * 2)
    for event in check.of("callback_enter", function="host_walks_250", depth=2):
        check.stack("from inside another", event, "host_walks_250", "c_wide_inner", "host_outer", "c_wide")


def cxxhost(check):
    check.callbacks({
        "host_returns": {"return": 4},
        "host_throws": {"unwound": 4},
        "host_nests": {"unwound": 1},
        "host_catches_inside": {"return": 1},
    })
    check.expect(
        "depths of host_throws",
        [event["depth"] for event in check.of("callback_enter", function="host_throws")], wanted=[1, 2, 2, 1],
    )
    check.expect(
        "depths of host_returns",
        {event["depth"] for event in check.of("callback_enter", function="host_returns")}, wanted={1},
    )
    origins = collections.Counter(event["origin"] for event in check.of("thread_birth"))
    print(f"        thread_birth origins: {dict(origins)}")
    check.expect("thread_birth", sum(origins.values()), wanted=1)
    for number in (1, 2, 3):
        event = check.one("log", message=f"caught {number}")
        names = [frame.get("symbol", "?") for frame in event.get("stack", [])]
        check.expect(f"log caught {number}", short(event.get("stack", []), 3), names[:1] and "fixture::Host::run" in names[0])
        check.expect("its stack", event.get("stack_status"), wanted="complete")


def unwind_ways(check):
    check.callbacks({
        "host_plain": {"return": 8},
        "host_jumps": {"unwound": 101},
        "host_nests": {"unwound": 1},
        "host_exits": {"unwound": 2},
        "host_cancels_itself": {"unwound": 1},
        "host_waits": {"unwound": 1},
    })
    depths = [event["depth"] for event in check.of("callback_enter", function="host_plain")]
    check.expect("depths of host_plain", depths, wanted=[1] * 8)
    check.births({
        ("c", "thread_exits"): 1,
        ("c", "thread_cancels_itself"): 1,
        ("c", "thread_waits"): 1,
        ("c", "thread_with_cleanup"): 1,
        ("host", "returns"): 1,
        ("host", "exits"): 1,
        ("host", "waits"): 1,
    })
    check.expect("thread_exit of the seven", len({event["tid"] for event in check.of("thread_exit")}), holds=len(
        {event["tid"] for event in check.of("thread_exit")} - {event["pid"] for event in check.events}) == 7)


def annotate(check):
    check.stack("log plain", check.one("log", message="plain"), "annotate", "main")
    check.stack("log by address", check.one("log", message="by address"), "by_address", "main")
    check.expect("region_begin", [event.get("name") for event in check.of("region_begin")], wanted=["outer", "inner"])
    # The inner one is ended without its name.
    ends = [event.get("name") for event in check.of("region_end")]
    check.expect("region_end", ends, wanted=["inner", "outer"])
    for event in check.of("region_begin"):
        check.stack(f'region_begin {event.get("name")}', event, "annotate", "main")
    task, subtask = check.one("task_begin", name="task"), check.one("task_begin", name="subtask")
    check.stack("task_begin task", task, "annotate", "main")
    check.expect("the subtask's parent", subtask.get("parent"), wanted=task.get("id"))
    ends = {event.get("id"): event for event in check.of("task_end")}
    check.expect("tasks ended", sorted(map(str, ends)), wanted=sorted([str(task.get("id")), str(subtask.get("id"))]))
    ends_task = ends.get(subtask.get("id"), {})
    check.stack("task_end of the subtask", ends_task, "ends_task")
    check.expect("on another thread", ends_task.get("tid"), ends_task.get("tid") != task.get("tid"))
    check.callbacks({"host_wrapped": {"return": 2}})
    inside = check.of("log", message="in a wrapped callback")
    check.expect("log in a wrapped callback", len(inside), wanted=3)
    for event in inside:
        check.stack("log in a wrapped callback", event, "host_wrapped", "c_calls_pointer", "annotate", "main")


def annotate_cxx(check):
    message = "a message that a temporary std::string holds"
    check.stack("log of a temporary", check.one("log", message=message), "annotate", "main")
    found = [(event["kind"], event.get("name")) for event in check.events if event["kind"].startswith("region")]
    begin, end = "region_begin", "region_end"
    check.expect("regions", found, wanted=[
        (begin, "outer"), (begin, "inner"), (end, "inner"), (end, "outer"), (begin, "unnamed end"), (end, "unnamed end"),
    ])
    check.expect("tasks", [event.get("name") for event in check.of("task_begin")], wanted=["task", "subtask"])
    check.expect("callbacks", [event.get("function") for event in check.of("callback_enter")],
                 holds=len(check.of("callback_enter")) == 2)
    inside = check.one("log", message="in a wrapped callback")
    check.stack("log in a wrapped callback", inside, "host_wrapped", "c_calls_pointer", "annotate", "main")


def forker(check):
    by_process = collections.defaultdict(list)
    for event in check.of("callback_enter"):
        by_process[event["pid"]].append(event["function"])
    found = sorted(",".join(functions) for functions in by_process.values())
    # The parent; the child with its thread; the grandchild; the child of a callback; the exec chain; the vfork's and
    # posix_spawn's. What runs with an empty environment may be untraced.
    once, parent = "host_forker", "host_forker,host_forks,host_forker"
    wanted = sorted([parent, f"{once},{once}", once, once, f"{once},{once},{once}", once, once])
    found_without_empty = list(found)
    if len(found) == len(wanted) + 1 and found.count(once) == wanted.count(once) + 1:
        found_without_empty.remove(once)
    check.expect("callbacks by process", found_without_empty, wanted=wanted)
    check.births({("host", "waits_for_end"): 1, ("c", "calls_back_thread"): 1})
    left = collections.Counter(event["how"] for event in check.of("callback_exit", function="host_forks"))
    check.expect("host_forks left in both processes", dict(left), wanted={"return": 2})
    check.expect("fork events", len(check.of("fork")), holds=len(check.of("fork")) >= 4)


def loader(check):
    order = [f"{plugin} {what}" for plugin in "aba" for what in ("constructor", "run", "destructor")]
    check.expect("logs", [event["message"] for event in check.of("log")], wanted=order)
    for event in check.of("log"):
        plugin, what = event["message"].split()
        if what == "run":
            wanted = ["host_loader", "plugin_step", *(["plugin_detour"] if plugin == "b" else []), "plugin_run", "use", "main"]
        else:
            wanted = ["host_loader", what]
        check.stack(f'log {event["message"]}', event, *wanted)
    check.callbacks({"host_loader": {"return": 9}, "host_loader_by_name": {"return": 3}})
    modules = [event.get("module", "?").split("/")[-1] for event in check.of("module_load")]
    check.expect("module_load of the plugins", modules, holds=modules[-3:] == [f"loader-plugin-{x}.so" for x in "aba"])


def shapes(check):
    libraries = ("lazy", "now", "no-relro", "sysv", "gnu", "no-plt", "symbolic", "relative", "text", "bare", "stripped", "beyond")
    wanted = [f"{library} {how}" for library in libraries for how in ("lazy", "now")]
    check.expect("logs", [event["message"] for event in check.of("log")], wanted=wanted)
    for event in check.of("log"):
        # Names come from sections, of which one library has none.
        named = ("shape_run", "use", "main") if "stripped" not in event["message"] else ()
        check.stack(f'log {event["message"]}', event, "host_call", *named)
    count = len(wanted)
    check.callbacks({
        **{f"host_{how}": {"return": count} for how in ("call", "address", "table", "indirect", "protected")},
        # Not before dlopen is back where nothing is initialised.
        "host_constructor": {"return": count - 2},
    })


def opener(check):
    # Which there must be, c/opener/expected.txt says, and the output is the same as without the shim.
    logs = check.of("log")
    check.expect("logs", len(logs), wanted=44)
    # One is the host's own, and one library without the startup files is noticed when a name is looked up in it.
    check.callbacks({"host_called": {"return": len(logs) - 2}})
    check.births({("c", "deep_thread"): 2})
    for message, wanted in {
        "two constructor": ("constructor",), "rpath opens": ("branch_run", "use", "main"),
        "early opens": ("branch_run",), "deep by name": ("deep_run", "use", "main"),
    }.items():
        for event in check.of("log", message=message):
            check.stack(f"log {message}", event, "host_called", *wanted)


def leaks(check):
    threads, openings = 10000, 1000
    check.births({("c", "c_thread"): threads})
    check.callbacks({"host_leaks": {"return": threads + openings}})


def churn(check):
    # Each opener opens one library a hundred times, and another that often and half as often again inside a callback.
    opened = 2 * (100 + 100 + 50)
    check.callbacks({
        "host_from_leaf": {"return": 2 * opened + (opened - 2 * 50)},
        "host_opens": {"return": 2 * 50},
        "host_steady": {"return": 2 * 20000 + 20},
    })
    check.expect("processes that called back", len({event["pid"] for event in check.of("callback_enter")}), wanted=21)
    leaves = [event for event in check.of("callback_enter", function="host_from_leaf")]
    frames = collections.Counter(bare(event["stack"][1].get("symbol")) for event in leaves)
    check.expect("callers", dict(frames), wanted={"constructor": opened, "leaf_run": opened - 100, "destructor": opened})
    statuses = collections.Counter(event["stack_status"] for event in leaves)
    check.expect("their stacks", dict(statuses), wanted={"complete": len(leaves)})


def versions(check):
    # Six clients, opened twice; the executable; dlsym and dlvsym, three times each.
    check.callbacks({"version": {"return": 12 + 1 + 6}, "which": {"return": 2 * 4}})
    # Both have the same name.
    found = collections.Counter(event["stack"][0]["addr"] for event in check.of("callback_enter", function="version"))
    check.expect("calls of V1 and of V2", sorted(found.values()), wanted=[2 * 2 + 3, 4 * 2 + 1 + 3])


def early(check):
    logs = [event["message"] for event in check.of("log")]
    check.expect("logs", logs, wanted=["constructor", "early thread", "main", "destructor", "atexit"])
    check.births({("c", "early_thread"): 1, ("c", "late_thread"): 1})
    check.callbacks({"host_early": {"return": 4}, "host_never_leaves": {"never": 1}})
    # The outermost frame is the loader's entry, which has no unwind information: the stack is whole and doesn't say so.
    check.stack("log constructor", check.one("log", message="constructor"), "host_early", "constructor", complete=False)
    check.stack("log early thread", check.one("log", message="early thread"), "host_early", "early_thread")
    check.stack("log destructor", check.one("log", message="destructor"), "host_early", "destructor")


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


def signals(check):
    cases = by_case(check)
    check.expect("cases", sorted(cases), wanted=sorted(
        ["nested", "alternate", "storm", "jumps", "first_calls", "forks", "forks_plainly", "forks_at_first", "cancelled", "pending"]))
    depths = [event["depth"] for event in cases["nested"].of("callback_enter", function="host_handles")]
    check.expect("nested: depths", depths, wanted=[1, 2])

    handled = cases["alternate"].of("callback_enter", function="host_handles")
    tops = collections.Counter(" < ".join(bare(frame.get("symbol")) for frame in event["stack"][:2]) for event in handled)
    check.expect("alternate: callbacks", dict(tops), wanted={"host_handles < c_calls_host_handles": 200})
    check.expect("alternate: stacks", {event["stack_status"] for event in handled}, wanted={"complete"})

    for case, said in (("storm", "after the storm"), ("jumps", "after the jumps")):
        counts = collections.Counter(
            (event["function"], event["depth"]) for event in after(cases[case], said).of("callback_enter"))
        check.expect(f"{case}: callbacks afterwards, by depth", dict(counts), wanted={("host_counts", 1): 1000})
    births = cases["storm"].of("thread_birth")
    starts = [event["origin"] for event in cases["storm"].of("thread_start", start_routine="thread_calls_back")]
    check.expect("storm: threads made by C, and that started so", len(births),
                 holds=len(births) > 0 and starts == ["c"] * len(births))
    jumped = cases["jumps"].of("callback_exit", how="unwound")
    check.expect("jumps: callbacks that were jumped out of", len(jumped), holds=len(jumped) > 0)

    firsts = {event["function"] for event in cases["first_calls"].of("callback_enter")}
    check.expect("first calls: functions that aren't there", {f"host_first_{n:02x}" for n in range(256)} - firsts, wanted=set())
    check.expect("first calls: interrupted", len(cases["first_calls"].of("log", message="interrupted")), wanted=1)

    of_cases = {event["pid"] for event in check.of("log", category="case")}
    forked = {event["pid"] for event in check.of("callback_enter", function="host_counts")} - of_cases
    # Those that were forked in the middle of the tracer itself have nothing to say.
    check.expect("forks: children that called back", len(forked), holds=20 < len(forked) <= 120)
    firsts = collections.Counter(event["function"] for event in check.of("callback_enter")
                                 if event["function"].startswith("host_first_") and event["pid"] not in of_cases)
    check.expect("forks at first: callbacks", dict(firsts), wanted={"host_first_00": 40, "host_first_01": 40})
    check.expect("cancelled: threads that were unwound",
                 len(cases["cancelled"].of("thread_exit", how="unwound")), wanted=100)
    made = collections.Counter(bare(event.get("start_routine")) for event in cases["pending"].of("thread_birth"))
    check.expect("pending: births", dict(made), wanted={"has_to_end": 1, "on_alternate_stack": 1})


def stacks(check):
    check.births({("host", "tells"): 5, ("host", "calls_back"): 2, ("host", "fills_stack"): 1, ("host", "in_c11"): 1, ("host", "in_thread"): 1})
    cases = by_case(check)
    for case, count in (("attributes", 5), ("smallest", 200), ("full", 101), ("errors", 0), ("c11", 1), ("by_libc", 1), ("flags", 3),
                        ("clones", 20000)):
        entered = cases[case].of("callback_enter")
        check.expect(f"{case}: callbacks", [len(entered), {event["depth"] for event in entered} - {1}], wanted=[count, set()])
    statuses = {event["stack_status"] for event in cases["smallest"].of("callback_enter")}
    check.expect("smallest: stacks", statuses, wanted={"complete"})
    left = collections.Counter((event["function"], event["how"]) for event in cases["clones"].of("callback_exit"))
    check.expect("clones: callbacks that returned", dict(left), wanted={("host_stacks", "return"): 20000})
    pid = cases["clones"].events[0]["pid"]
    check.expect("clones: callbacks of clones, not recorded and counted",
                 [process["reentered"] for process in check.processes if process["pid"] == pid], wanted=[20000])
    caller = cases["by_libc"].one("callback_enter")
    origins = [event["origin"] for event in cases["by_libc"].of("thread_start", tid=caller.get("tid"))]
    check.expect("by_libc: the thread that nobody announced", origins, wanted=["unknown"])


def ends(check):
    cases = by_case(check)
    check.expect("cases", len(cases), wanted=25)
    ways = ["exit", "exit_now", "exit_c99", "quick", "abort", "kill", "trap"]
    for case in ways + [f"{way}_busy" for way in ways]:
        entered = cases[case].of("callback_enter", function="host_leaves")
        check.expect(f"{case}: the callback that ends it", [event["depth"] for event in entered], wanted=[1])
        check.expect(f"{case}: it never returns", len(cases[case].of("callback_exit", function="host_leaves")), wanted=0)
        said = [event["message"] for event in cases[case].of("log", category="log")]
        last = {"exit": ["atexit", "thread"], "quick": ["at_quick_exit"]}.get(case.removesuffix("_busy"), [])
        check.expect(f"{case}: what is said at the end", said, wanted=last)
        busy = cases[case].of("callback_enter", function="host_busy")
        check.expect(f"{case}: callbacks of busy threads", len(busy), holds=(len(busy) >= 200) == case.endswith("busy"))
    said = {case: [event["message"] for event in of.of("log", category="log")] for case, of in cases.items()}
    check.expect("main_returns", said["main_returns"], wanted=["atexit", "thread"])
    check.expect("main_thread_exits", said["main_thread_exits"], wanted=["after main", "atexit", "thread"])
    check.expect("handler_exits", said["handler_exits"], wanted=["handler"])
    check.expect("quiet_children", said["quiet_children"], wanted=["parent of a quiet child"] * 4)
    check.expect("exec_fails", dict(collections.Counter(said["exec_fails"])), wanted={"before": 1, "after": 2000})
    for case in ("executes", "thread_executes"):
        images = [event["message"] for event in cases[case].of("log", category="case")]
        check.expect(f"{case}: images", images, wanted=[case, "exit_now"])
        check.expect(f"{case}: exec", len(cases[case].of("exec")), wanted=1)
    children = collections.Counter(event["message"] for event in check.of("log") if event["pid"] not in {
        event["pid"] for event in check.of("log", category="case")})
    check.expect("forked_child_exits: what the children said", (children["child"], children["thread"]), wanted=(20, 20))


    # The first process of a case; where it executes, its threads may still begin another ring of the old program's.
    cases_by_pid = {}
    for event in check.of("log", category="case"):
        cases_by_pid.setdefault(event["pid"], event["message"])
    states = collections.defaultdict(set)
    for process in check.processes:
        states[cases_by_pid.get(process["pid"], "children")].add(process["state"])
    for case in ("executes", "thread_executes"):
        found = states.pop(case, set())
        check.expect(f"{case}: the ends of its rings", sorted(found), holds="ended" in found)
    violent = {f"{way}{busy}" for way in ("abort", "kill", "trap") for busy in ("", "_busy")}
    check.expect("rings of processes that were killed", {case: states.pop(case, None) for case in violent},
                 wanted=dict.fromkeys(violent, {"ended without notice"}))
    check.expect("rings of all others", dict(states), wanted=dict.fromkeys(states, {"ended"}))


def limits(check):
    cases = by_case(check)
    check.expect("cases", len(cases), wanted=20)
    for case, count in (("locked_tight", 3), ("locked_before", 6)):
        check.expect(f"{case}: callbacks", len(cases[case].of("callback_enter")), wanted=count)
    traced = ["descriptors", "no_descriptors", "error_is_a_file", "file_size"]
    for case in traced:
        entered = collections.Counter(event["depth"] for event in cases[case].of("callback_enter"))
        check.expect(f"{case}: callbacks by depth", dict(entered), wanted={1: 101})
    check.expect("closes_all: callbacks", len(cases["closes_all"].of("callback_enter")), wanted=40 + 101)
    check.expect("closes_all: births", len(cases["closes_all"].of("thread_birth")), wanted=20 + 1)
    for case in ("small_stack_before", "unlimited_stack_before", "closed_before", "no_descriptors_before",
                 "data_before", "memory_24_before", "memory_40_before", "memory_64_before"):
        check.expect(f"{case}: callbacks", len(cases[case].of("callback_enter")), wanted=101)


def sandbox(check):
    cases = by_case(check)
    check.expect("cases", sorted(cases), wanted=sorted([
        "strict", "kills", "kills_syscall", "kills_thread", "kills_memory", "contained", "refuses", "refuses_before",
        "not_entered"]))
    wanted = {"strict": 0, "kills": 100, "kills_syscall": 100, "kills_thread": 101, "kills_memory": 101,
              "contained": 102, "refuses": 102, "not_entered": 102}
    for case, count in wanted.items():
        entered = collections.Counter(event["depth"] for event in cases[case].of("callback_enter"))
        check.expect(f"{case}: callbacks by depth", dict(entered), wanted={1: count} if count else {})
    others = collections.Counter(event["pid"] for event in check.of("callback_enter") if event["pid"] not in {
        event["pid"] for event in check.of("log", category="case")})
    check.expect("contained, not_entered: callbacks of the child", sorted(others.values()), wanted=[100, 100])


def filters(check):
    recorded = collections.Counter()
    children = collections.Counter()
    cases = {event["pid"]: event["message"] for event in check.of("log", category="case")}
    parents = {event["child_pid"]: event["pid"] for event in check.of("fork")}
    for event in check.of("callback_enter"):
        if event["pid"] in cases:
            recorded[cases[event["pid"]]] += 1
        else:
            children[cases.get(parents.get(event["pid"]))] += 1
    for case in ("contained", "contained_at_once", "contained_unseen", "unknown_tried", "again"):
        check.expect(f"{case}: callbacks, and those of the child", (recorded[f"inner_{case}"], children[f"inner_{case}"]),
                     wanted=(5, 1))
    check.expect("unknown: callbacks", recorded["inner_unknown"], wanted=0)
    # All but those that kill or fail what the tracer needs, and those that the program itself needs.
    for case, least in (("kills_each", 350), ("kills_each_at_once", 350), ("fails_each", 350)):
        check.expect(f"{case}: callbacks", recorded[case], holds=recorded[case] >= least * 5)


def spin(check):
    messages = [event["message"] for event in check.of("log", category="spin")]
    check.expect("numbers without a gap, from 0", len(messages), wanted=None,
                 holds=messages == [f"0:{number}" for number in range(len(messages))] and len(messages) > 0)
    check.expect("callback_enter", len(check.of("callback_enter", function="host_spin")), wanted=len(messages))
    check.births({("c", "c_spin_thread"): 1})
    stacks = check.tops("log", 2)
    check.expect("stacks", stacks, wanted={("host_spin < c_spin_thread", "complete"): len(messages)})


CHECKS = {
    "founding": founding, "nested": nested, "storm": storm, "names": names, "parallel": parallel, "tables": tables,
    "register": register, "hand-over": hand_over, "inline": inline, "live": live, "maps": maps, "abi": abi, "wide": wide,
    "cxxhost": cxxhost, "unwind-ways": unwind_ways, "annotate": annotate, "annotate-cxx": annotate_cxx,
    "forker": forker, "loader": loader, "shapes": shapes, "churn": churn, "leaks": leaks, "opener": opener, "versions": versions, "early": early, "signals": signals, "stacks": stacks,
    "ends": ends, "limits": limits, "sandbox": sandbox, "filters": filters, "spin": spin,
}


def main():
    fixture, flags, unwinder, *paths = sys.argv[1:]
    events, processes = ([json.loads(line) for line in open(path, encoding="utf-8")] for path in paths)
    check = Check(fixture, flags, unwinder, events, processes)
    CHECKS[fixture](check)
    check.everywhere()
    if check.failures:
        print(f"  {fixture} {flags} {unwinder}: {len(check.failures)} of {check.met + len(check.failures)} not met")
    return 1 if check.failures else 0


sys.exit(main())
