"""What the fixtures about libraries, processes, signals and limits must yield: for smoke_check.py."""

import collections

from smoke_events import after, bare, by_case


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


def signals(check):
    cases = by_case(check)
    check.expect("cases", sorted(cases), wanted=sorted(
        ["nested", "alternate", "storm", "storm_within", "jumps", "first_calls", "forks", "forks_plainly", "forks_at_first", "cancelled", "pending"]))
    depths = [event["depth"] for event in cases["nested"].of("callback_enter", function="host_handles")]
    check.expect("nested: depths", depths, wanted=[1, 2])

    handled = cases["alternate"].of("callback_enter", function="host_handles")
    tops = collections.Counter(" < ".join(bare(frame.get("symbol")) for frame in event["stack"][:2]) for event in handled)
    check.expect("alternate: callbacks", dict(tops), wanted={"host_handles < c_calls_host_handles": 200})
    check.expect("alternate: stacks", {event["stack_status"] for event in handled}, wanted={"complete"})

    for case, said in (("storm", "after the storm"), ("storm_within", "after the storm"), ("jumps", "after the jumps")):
        counts = collections.Counter(
            (event["function"], event["depth"]) for event in after(cases[case], said).of("callback_enter"))
        check.expect(f"{case}: callbacks afterwards, by depth", dict(counts), wanted={("host_counts", 1): 1000})
    for case in ("storm", "storm_within"):
        counted = cases[case].of("log", category="counted")[0]["message"]
        check.expect(f"{case}: callbacks of main's and of its threads",
                     len(cases[case].of("callback_enter", function="host_counts")) - 1000, wanted=int(counted))
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
    check.births({("host", "tells"): 5, ("host", "from_large_frame"): 2, ("host", "calls_back"): 2, ("host", "fills_stack"): 1, ("host", "in_c11"): 1, ("host", "in_thread"): 1})
    cases = by_case(check)
    for case, count in (("attributes", 7), ("smallest", 200), ("full", 101), ("errors", 0), ("c11", 1), ("by_libc", 1), ("flags", 3),
                        ("clones", 20000), ("no_pointer", 10), ("coroutine", 1), ("windows", 3)):
        entered = cases[case].of("callback_enter")
        check.expect(f"{case}: callbacks", [len(entered), {event["depth"] for event in entered} - {1}], wanted=[count, set()])
    for case in ("attributes", "smallest"):
        statuses = {event["stack_status"] for event in cases[case].of("callback_enter")}
        check.expect(f"{case}: stacks", statuses, wanted={"complete"})
    # libc's own first function on such a stack has no unwind information.
    names = [bare(frame.get("symbol")) for frame in cases["coroutine"].one("callback_enter")["stack"][:3]]
    check.expect("coroutine: frames", names, wanted=["host_stacks", "c_calls_from_large_frame", "on_coroutine"])
    left = collections.Counter((event["function"], event["how"]) for event in cases["clones"].of("callback_exit"))
    check.expect("clones: callbacks that returned", dict(left), wanted={("host_stacks", "return"): 20000})
    # The second's are four more: what it logs, and what passes on.
    for case, count in (("clones", 20000), ("no_pointer", 2504)):
        pid = cases[case].events[0]["pid"]
        check.expect(f"{case}: events of clones, not recorded and counted",
                     [process["reentered"] for process in check.processes if process["pid"] == pid], wanted=[count])
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
