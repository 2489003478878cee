//! `dump`, `stats` and `diff` on rings made by hand.

mod common;
mod traced;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{Writer, collector, events, of_kind, sample, stdout};
use traceshim_ring::record::{Origin, kind, pair};
use traceshim_ring::stack::StackStatus;

#[test]
fn json_is_that_of_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let all = events(&sample(dir.path(), 0x10_0000));
    assert!(all.iter().all(|e| e["pid"] == 4_000_000 && e["ts_ns"].as_u64().is_some()));
    let kinds: Vec<_> = all.iter().map(|e| e["kind"].as_str().unwrap()).collect();
    for kind in ["callback_enter", "callback_exit", "log", "thread_birth", "thread_start", "thread_exit"] {
        assert!(kinds.contains(&kind), "{kind} is missing of {kinds:?}");
    }

    let enter = of_kind(&all, "callback_enter")[0];
    assert_eq!((&enter["function"], &enter["depth"]), (&"host_called_from_c".into(), &1.into()));
    assert_eq!(enter["stack_status"], "complete");
    assert_eq!(enter["unwinder"], "table");
    let frame = &enter["stack"][0];
    assert_eq!(frame["addr"], "0x102000");
    assert_eq!(frame["offset"], "0x2000");
    assert_eq!(frame["module"], "app");
    assert_eq!(frame["inlined"], false);
    assert!(frame.get("symbol").is_none() && frame.get("file").is_none());
    let cut = of_kind(&all, "callback_enter")[1];
    assert_eq!(cut["stack_status"], "truncated: no unwind information");

    let exits = of_kind(&all, "callback_exit");
    assert_eq!((&exits[0]["function"], &exits[0]["duration_ns"]), (&"host_inner".into(), &2000.into()));
    assert_eq!((&exits[1]["duration_ns"], &exits[1]["how"]), (&5000.into(), &"return".into()));
    let birth = of_kind(&all, "thread_birth")[0];
    assert_eq!((&birth["child_tid"], &birth["origin"]), (&4_000_001.into(), &"c".into()));
    assert_eq!(birth["start_routine"], "app+0x6000");
    let start = of_kind(&all, "thread_start")[0];
    assert_eq!(start["name"], "thread-4000001");
    let log = of_kind(&all, "log").into_iter().find(|e| e["tid"] == 4_000_001).unwrap();
    assert_eq!(log["message"], "odd: \u{1b}[31m \\xff \"quoted\" \\");
}

#[test]
fn text_has_a_line_for_the_event_and_two_for_a_frame() {
    let dir = tempfile::tempdir().unwrap();
    let text = stdout(&[&"dump", &sample(dir.path(), 0x10_0000)]);
    assert!(text.contains("callback_enter host_called_from_c depth=1 [table]\n0x102000\n\tapp+0x2000\n"));
    assert!(text.contains("log net: in both [table]\n"));
    assert!(text.contains("\\u{1b}[31m \\xff") && !text.contains('\u{1b}'));
    assert!(text.contains("(truncated: no unwind information)\n"));
}

#[test]
fn filters() {
    let dir = tempfile::tempdir().unwrap();
    let ring = sample(dir.path(), 0x10_0000);
    let count = |args: &[&str]| {
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"dump", &"--format", &"json", &ring];
        all.extend(args.iter().map(|arg| arg as &dyn AsRef<std::ffi::OsStr>));
        stdout(&all).lines().count()
    };
    let all = count(&[]);
    assert_eq!(all, 9);
    assert_eq!(count(&["--kind", "log"]), 2);
    assert_eq!(count(&["--kind", "log,thread_exit"]), 3);
    assert_eq!(count(&["--thread", "4000001"]), 3);
    assert_eq!(count(&["--thread", "thread-*1"]), 3);
    assert_eq!(count(&["--origin", "main"]), 6);
    assert_eq!(count(&["--function", "host_in*"]), 2);
    assert_eq!(count(&["--kind", "callback_enter", "--exclude", "host_in*"]), 1);
    assert_eq!(count(&["--kind", "log", "--module", "app"]), 2);
    assert_eq!(count(&["--kind", "log", "--module", "lib*"]), 0);
    assert_eq!(count(&["--min-duration", "3us", "--kind", "callback_enter,callback_exit"]), 2);
    assert_eq!(count(&["--limit", "4"]), 4);
    assert_eq!(count(&["--time", "~1ms"]), 0);
    assert_eq!(count(&["--time", "1ms~2ms"]), all);
}

#[test]
fn threads_are_found_by_the_names_that_they_get() {
    let dir = tempfile::tempdir().unwrap();
    let w = Writer::new(dir.path(), 4_000_000, 1 << 20);
    let mut main = w.thread(4_000_000, Origin::Main, 0);
    let mut child = w.thread(4_000_001, Origin::Host, main.owner.uid);
    let [by_itself, by_another] = ["by-itself", "by-another"].map(|name| w.ring().string(name.as_bytes()));
    w.put(&mut main, (kind::THREAD_NAME, 0), &[pair(by_another, child.owner.uid)]);
    let uid = main.owner.uid;
    w.put(&mut main, (kind::THREAD_NAME, 0), &[pair(by_itself, uid)]);
    w.put(&mut child, (kind::THREAD_EXIT, 0), &[]);
    let dump = |name: &str| stdout(&[&"dump", &"--thread", &name, &w.path()]);
    assert!(dump("by-another").contains("/4000001 thread_exit how=return"));
    assert_eq!(dump("by-itself").lines().count(), 2);
    assert_eq!(dump("thread-*"), "");
}

#[test]
fn stats_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let ring = sample(dir.path(), 0x10_0000);
    let text = stdout(&[&"stats", &ring]);
    for part in ["4000000 /opt/app", "main", "host_called_from_c", "5.000us", "lost: 0 events", "5 stacks"] {
        assert!(text.contains(part), "{part} is missing of\n{text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&[&"stats", &"--format", &"json", &ring])).unwrap();
    assert_eq!(json["threads"][0]["origin"], "c");
    assert_eq!(json["threads"][1]["alive_at_end"], 1);
    assert_eq!(json["callbacks"][0]["max_ns"], 5000);
    assert_eq!(json["births"][0]["start_routine"], "app+0x6000");
    assert_eq!(json["truncated_stacks"], 2);
}

#[test]
fn diff_ignores_where_code_was_loaded_and_nothing_else() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ring_a, ring_b) = (sample(a.path(), 0x10_0000), sample(b.path(), 0x70_0000));
    let same = collector(&[&"diff", &ring_a, &ring_b]);
    assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stdout));

    let c = tempfile::tempdir().unwrap();
    let w = Writer::new(c.path(), 4_000_000, 1 << 20);
    let mut main = w.thread(4_000_000, Origin::Main, 0);
    let stack = w.stack(&[0x2000, 0x4011, 0x5020], StackStatus::Complete);
    w.log(&mut main, stack, b"net", b"in both");
    let other = collector(&[&"diff", &"--kind", &"log", &ring_a, &w.path()]);
    let text = String::from_utf8_lossy(&other.stdout).into_owned();
    assert_eq!(other.status.code(), Some(1), "{text}");
    assert!(text.contains("  A app+0x4010 app+0x4010\n  B app+0x4011 app+0x4011\n"), "{text}");
    assert!(text.contains("1 events in A, 0 in B"), "{text}");
}

#[test]
fn several_inputs_are_merged_by_time() {
    let dir = tempfile::tempdir().unwrap();
    for pid in [4_000_100, 4_000_200] {
        let w = Writer::new(dir.path(), pid, 1 << 20);
        let mut thread = w.thread(pid, Origin::Main, 0);
        thread.now_ns += u64::from(pid);
        for _ in 0..100 {
            let stack = w.stack(&[], StackStatus::Off);
            w.log(&mut thread, stack, b"c", b"m");
        }
    }
    let all = events(dir.path());
    assert_eq!(all.len(), 200);
    assert!(all.is_sorted_by_key(|event| event["ts_ns"].as_u64()));
    assert_eq!(all[0]["stack_status"], "truncated: stacks are off");
}

#[test]
fn strict_is_an_exit_status_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let ring = sample(dir.path(), 0x10_0000);
    let code = |command: &str, kind: &str| {
        collector(&[&command, &"--strict", &"--kind", &kind, &ring]).status.code()
    };
    for command in ["dump", "stats"] {
        assert_eq!(code(command, "thread_birth"), Some(0));
        assert_eq!(code(command, "callback_enter"), Some(3));
    }
}

#[test]
fn a_cut_trace_is_not_strict_and_an_input_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let status = Command::new(env!("CARGO_BIN_EXE_collector"))
        .args(["record", "-o"])
        .arg(&whole)
        .args(["--", "true"])
        .env("TRACESHIM_LIBRARY", traced::library())
        .env("TMPDIR", dir.path())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let mut bytes = std::fs::read(&whole).unwrap();
    bytes.extend_from_slice(b"what was still being written");
    let cut = dir.path().join("cut");
    std::fs::write(&cut, &bytes).unwrap();
    for command in ["dump", "stats"] {
        assert_eq!(collector(&[&command, &"--strict", &whole]).status.code(), Some(0), "{command}");
        assert_eq!(collector(&[&command, &"--strict", &cut]).status.code(), Some(3), "{command}");
        let output = collector(&[&command, &"-o", &cut, &cut]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("it is an input, too"));
        assert_eq!(std::fs::read(&cut).unwrap(), bytes);
    }
}

#[test]
fn losses_are_events_too() {
    let dir = tempfile::tempdir().unwrap();
    let w = Writer::new(dir.path(), 4_000_000, 64 << 10);
    let mut main = w.thread(4_000_000, Origin::Main, 0);
    let stack = w.stack(&[0x2000], StackStatus::Complete);
    let put = (0..10_000).filter(|_| w.enter(&mut main, 0, stack) | w.exit(&mut main, 0)).count();
    assert!(put < 10_000);
    let all = events(w.path());
    let lost = of_kind(&all, "lost");
    let count: u64 = lost.iter().map(|e| e["count"].as_u64().unwrap()).sum();
    assert_eq!(count as usize + all.len() - lost.len(), 20_000);
    assert!(lost[0]["from_ns"].as_u64() <= lost[0]["to_ns"].as_u64());
    assert_eq!(lost[0]["tid"], 4_000_000);
    assert!(stdout(&[&"stats", &w.path()]).contains(&format!("lost: {count} events")));
}

#[test]
fn long_texts_are_put_together() {
    let dir = tempfile::tempdir().unwrap();
    let w = Writer::new(dir.path(), 4_000_000, 1 << 20);
    let mut main = w.thread(4_000_000, Origin::Main, 0);
    let category = w.ring().string(b"c");
    const MORE: u16 = 1 << 15;
    let word = u64::from_le_bytes(*b"abcdefgh");
    w.put(&mut main, (kind::LOG, 8 | MORE), &[pair(0, category), word]);
    for _ in 0..600 {
        w.put(&mut main, (kind::TEXT, 8 | MORE), &[word]);
    }
    w.put(&mut main, (kind::TEXT, 3), &[word]);
    w.put(&mut main, (kind::THREAD_EXIT, 0), &[]);
    let all = events(w.path());
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["message"].as_str().unwrap(), "abcdefgh".repeat(601) + "abc");
    assert!(all[0].get("stack").is_none());
    assert!(all[0]["ts_ns"].as_u64() < all[1]["ts_ns"].as_u64());
}

#[test]
fn a_damaged_ring_is_an_error_or_readable_and_never_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let ring = sample(dir.path(), 0x10_0000);
    let whole = std::fs::read(&ring).unwrap();
    let path = dir.path().join("damaged");
    let check = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        for command in [&["dump", "--format", "json"][..], &["stats"]] {
            let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = Vec::new();
            args.extend(command.iter().map(|arg| arg as &dyn AsRef<std::ffi::OsStr>));
            args.push(&path);
            let output = collector(&args);
            let code = output.status.code();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(code, Some(0 | 1)) && !stderr.contains("panicked"), "{code:?} {stderr}");
        }
    };
    for len in [0, 7, 8, 100, 4095, 4096, 4097, 8192, 10_000, 12_288, 20_000] {
        check(&whole[..len]);
    }
    let used = whole.len().min(8 * 4096);
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    for _ in 0..60 {
        let mut bytes = whole[..used].to_vec();
        for _ in 0..40 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize % (used - 8);
            bytes[at.max(8)] = (random >> 20) as u8;
        }
        check(&bytes);
    }
}

#[test]
fn errors_name_what_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = |args: &[&dyn AsRef<std::ffi::OsStr>], code| {
        let output = collector(args);
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let missing = dir.path().join("missing");
    assert_eq!(
        error(&[&"dump", &missing], 1),
        format!("collector: {}: No such file or directory (os error 2)\n", missing.display())
    );
    assert!(error(&[&"stats", &dir.path()], 1).ends_with(": no rings in it\n"));
    let other = dir.path().join("other");
    std::fs::write(&other, "this is a text").unwrap();
    assert!(error(&[&"dump", &other], 1).ends_with(": neither a ring nor a trace\n"));
    assert!(error(&[&"dump", &"/dev/null"], 1).ends_with(": neither a file nor a directory\n"));
    assert!(error(&[&"dump", &"--kind", &"birth"], 2).contains("thread_birth"));
    error(&[&"no-such-command"], 2);
    assert!(stdout(&[&"--version"]).starts_with("collector "));
    assert!(stdout(&[&"dump", &"--help"]).contains("Examples:"));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let w = Writer::new(dir.path(), 4_000_000, 4 << 20);
    let mut main = w.thread(4_000_000, Origin::Main, 0);
    let stack = w.stack(&[0x2000; 40], StackStatus::Complete);
    for _ in 0..5000 {
        w.enter(&mut main, 0, stack);
        w.exit(&mut main, 0);
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_collector"))
        .args([Path::new("dump"), Path::new("--no-symbols"), w.path()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
