"""What the fixtures about calls and their stacks must yield: for smoke_check.py."""

import collections

from smoke_events import LIBC_MODULES, bare, short


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
    check.callbacks({function: {"return": 1} for function in (*functions, "host_tail", "host_compared")} |
                    {"host_jumped_to": {"return": 3}})
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
