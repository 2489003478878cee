//! Programs under the shim, recorded and read: the founding check, and what
//! must hold when things go wrong.

mod common;
mod traced;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{collector, events, of_kind, stdout};
use serde_json::Value;
use traced::{fixture, library, preloaded};

fn recorded(dir: &Path, name: &str, options: &[&str], command: &[&str]) -> (PathBuf, Output) {
    let trace = dir.join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_collector"))
        .arg("record")
        .args(options)
        .arg("-o")
        .arg(&trace)
        .arg("--")
        .args(command)
        .env("TRACESHIM_LIBRARY", library())
        .env("TRACESHIM_DIR", dir)
        .output()
        .unwrap();
    (trace, output)
}

fn symbols(event: &Value) -> Vec<&str> {
    let frames = event["stack"].as_array().expect("a stack");
    frames.iter().map(|frame| frame["symbol"].as_str().unwrap_or("?")).collect()
}

fn log<'e>(events: &'e [Value], message: &str) -> &'e Value {
    let mut found = of_kind(events, "log").into_iter().filter(|event| event["message"] == message);
    let one = found.next().unwrap_or_else(|| panic!("no log {message:?}"));
    assert!(found.next().is_none(), "several logs {message:?}");
    one
}

#[test]
fn the_founding_check() {
    let dir = tempfile::tempdir().unwrap();
    let program = fixture("founding", "O2-fp");
    let program = program.to_str().unwrap();
    let plain = Command::new(program).output().unwrap();
    let mut traces = BTreeMap::new();
    for unwinder in ["auto", "table", "frame-pointer"] {
        let (trace, output) = recorded(dir.path(), unwinder, &["--unwinder", unwinder], &[program]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), plain.status.code(), "{stderr}");
        assert_eq!(output.stdout, plain.stdout);
        assert!(stderr.contains("1 c, 1 main"), "{stderr}");
        traces.insert(unwinder, trace);
    }

    for unwinder in ["auto", "table"] {
        let all = events(&traces[unwinder]);
        let first = log(&all, "host_called_from_c");
        let expected =
            ["host_called_from_c", "c_step", "c_called_from_host", "host_called_from_host", "main"];
        assert_eq!(symbols(first)[..5], expected);
        let second = log(&all, "host_called_from_c_thread");
        assert_eq!(symbols(second)[..3], ["host_called_from_c_thread", "c_thread_step", "c_thread"]);
        let alone = log(&all, "host_alone");
        assert_eq!(symbols(alone)[..2], ["host_alone", "main"]);
        for event in [first, second, alone] {
            assert_eq!(event["stack_status"], "complete", "{event}");
        }
        assert_eq!(first["unwinder"], "table");
        assert_eq!(alone["unwinder"], if unwinder == "auto" { "frame-pointer" } else { "table" });
        let starts: BTreeMap<_, _> = of_kind(&all, "thread_start")
            .into_iter()
            .map(|event| (event["tid"].as_u64(), event["origin"].as_str()))
            .collect();
        assert_eq!(starts[&second["tid"].as_u64()], Some("c"));
        assert_eq!(starts[&first["tid"].as_u64()], Some("main"));
    }

    let same = collector(&[&"diff", &traces["auto"], &traces["table"]]);
    assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stdout));
    // Without this control the comparison would have no teeth.
    let forced = collector(&[&"diff", &traces["table"], &traces["frame-pointer"]]);
    assert_eq!(forced.status.code(), Some(1), "{}", String::from_utf8_lossy(&forced.stdout));
}

#[test]
fn the_trace_says_the_same_as_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let program = fixture("nested", "O2-fp");
    let program = program.to_str().unwrap();
    let (trace, output) = recorded(dir.path(), "t", &[], &[program]);
    assert!(output.status.success());
    let rings = dir.path().join("rings");
    std::fs::create_dir(&rings).unwrap();
    assert!(preloaded(program, &rings).output().unwrap().status.success());
    let same = collector(&[&"diff", &trace, &rings]);
    assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stdout));
    let kinds = |input: &Path| {
        let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
        for event in events(input) {
            let what = format!("{} {} {}", event["kind"], event["function"], event["module"]);
            *kinds.entry(what).or_default() += 1;
        }
        kinds
    };
    assert_eq!(kinds(&trace), kinds(&rings));
}

/// A `spin` that calls back for ever, with the file in which it counts.
struct Spin {
    child: Child,
    progress: PathBuf,
    rings: PathBuf,
}

impl Spin {
    const THREADS: usize = 2;

    fn start(dir: &Path) -> Spin {
        let rings = dir.join("rings");
        std::fs::create_dir_all(&rings).unwrap();
        let progress = dir.join("progress");
        let child = preloaded(fixture("spin", "O2-fp"), &rings)
            .arg("forever")
            .arg(&progress)
            .arg(Spin::THREADS.to_string())
            .env("TRACESHIM_RING_BYTES", "256M")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Spin { child, progress, rings }
    }

    /// How many callbacks each thread has published.
    fn published(&self) -> Vec<u64> {
        let bytes = std::fs::read(&self.progress).unwrap_or_default();
        bytes.as_chunks::<8>().0.iter().map(|&word| u64::from_ne_bytes(word)).collect()
    }

    /// Waits until every thread has published something.
    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.published().len() < Spin::THREADS || self.published().contains(&0) {
            assert!(Instant::now() < deadline, "spin doesn't spin");
            std::thread::yield_now();
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Spin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many logs each thread of a `spin` left; they must be without a gap and
/// without doubles.
fn contiguous(lines: impl Iterator<Item = String>) -> BTreeMap<u64, u64> {
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for line in lines {
        let event: Value = serde_json::from_str(&line).unwrap();
        let (thread, number) = event["message"].as_str().unwrap().split_once(':').unwrap();
        let expected = next.entry(thread.parse().unwrap()).or_default();
        assert_eq!(number.parse::<u64>().unwrap(), *expected, "thread {thread}");
        *expected += 1;
    }
    next
}

fn logs(inputs: &[&Path]) -> BTreeMap<u64, u64> {
    let mut dump = Command::new(env!("CARGO_BIN_EXE_collector"))
        .args(["dump", "--format", "json", "--kind", "log", "--no-symbols", "--depth", "0"])
        .args(inputs)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let found = contiguous(BufReader::new(dump.stdout.take().unwrap()).lines().map(Result::unwrap));
    // What it says is short.
    let mut said = String::new();
    dump.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(dump.wait().unwrap().success(), "dump of {inputs:?} failed: {said}");
    found
}

/// Not the same moments in every run, and no dependency for it.
fn random_below(limit: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) % limit
}

#[test]
fn what_was_published_survives_a_kill_at_any_moment() {
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let mut spin = Spin::start(dir.path());
        spin.wait();
        std::thread::sleep(Duration::from_micros(random_below(3000)));
        spin.kill();
        let found = logs(&[&spin.rings]);
        for (thread, published) in spin.published().into_iter().enumerate() {
            let found = found.get(&(thread as u64)).copied().unwrap_or(0);
            assert!(found >= published, "thread {thread}: {found} of {published}");
        }
    }
}

#[test]
fn killed_while_it_begins_or_before() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let mut spin = Spin::start(dir.path());
        std::thread::sleep(Duration::from_micros(random_below(4000)));
        spin.kill();
        let output = collector(&[&"dump", &"--no-symbols", &spin.rings]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        // Where there is no ring yet, there is none to read.
        let any = std::fs::read_dir(&spin.rings).unwrap().next().is_some();
        assert!(output.status.success() || !any || stderr.contains("no ring"), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn a_live_process_can_be_read_and_followed() {
    let dir = tempfile::tempdir().unwrap();
    let spin = Spin::start(dir.path());
    spin.wait();
    let once: u64 = logs(&[&spin.rings]).values().sum();
    let again: u64 = logs(&[&spin.rings]).values().sum();
    assert!(once > 0 && again > once);
    assert!(stdout(&[&"stats", &spin.rings]).contains(": running, "));
    let text = stdout(&[&"follow", &"--kind", &"log", &"--limit", &"20", &spin.rings]);
    assert_eq!(text.lines().filter(|line| line.contains(" log spin: ")).count(), 20);
}

#[test]
fn a_killed_recording_goes_on_in_the_next_collector() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let (trace, progress) = (dir.path().join("t"), dir.path().join("progress"));
        let mut record = Command::new(env!("CARGO_BIN_EXE_collector"))
            .args(["record", "--ring-size", "64M", "-o"])
            .arg(&trace)
            .arg("--")
            .arg(fixture("spin", "O2-fp"))
            .args(["150", progress.to_str().unwrap(), "1"])
            .env("TRACESHIM_LIBRARY", library())
            .env("TRACESHIM_DIR", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while trace.metadata().map_or(0, |m| m.len()) < 1 << 16 {
            assert!(Instant::now() < deadline, "nothing is drained");
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(random_below(20_000)));
        let pid = record.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        record.kill().unwrap();
        record.wait().unwrap();
        // The app never notices; nobody of ours can wait for it any more.
        for app in children.split_whitespace() {
            while Path::new(&format!("/proc/{app}/maps")).exists()
                && std::fs::read_to_string(format!("/proc/{app}/stat")).is_ok_and(|s| !s.contains(") Z"))
            {
                assert!(Instant::now() < deadline + Duration::from_secs(20), "spin doesn't end");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let session = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.is_dir())
            .expect("the session is left");
        let found = logs(&[&trace, &session]);
        let published = u64::from_ne_bytes(std::fs::read(&progress).unwrap()[..8].try_into().unwrap());
        assert!(found[&0] >= published, "{} of {published}", found[&0]);
    }
}

#[test]
fn every_event_is_drained_or_counted_as_lost() {
    // Events of `spin` that aren't of its callbacks: as many in every run.
    let mut others = None;
    for policy in ["drop", "overwrite"] {
        for size in ["64K", "512K", "32M"] {
            let dir = tempfile::tempdir().unwrap();
            let progress = dir.path().join("progress");
            let program = fixture("spin", "O2-fp");
            let command = [program.to_str().unwrap(), "100", progress.to_str().unwrap(), "4"];
            let options = ["--ring-size", size, "--overflow", policy];
            let (trace, output) = recorded(dir.path(), "t", &options, &command);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let stats = stdout(&[&"stats", &"--no-symbols", &"--format", &"json", &trace]);
            let stats: Value = serde_json::from_str(&stats).unwrap();
            let published = std::fs::read(&progress).unwrap();
            let calls: u64 = published.as_chunks::<8>().0.iter().map(|&word| u64::from_ne_bytes(word)).sum();
            // Each entered, logged and was left.
            let accounted = stats["events"].as_u64().unwrap() + stats["lost"].as_u64().unwrap();
            let rest = accounted - 3 * calls;
            assert_eq!(*others.get_or_insert(rest), rest, "{policy} {size}: {stats}");
            assert!(rest < 100, "{rest}");
            assert_eq!(stats["damaged"], 0);
        }
    }
}

#[test]
fn however_a_callback_ends_it_is_recorded_or_counted_as_lost() {
    let program = fixture("unwind-ways", "O2-fp");
    let mut accounted = None;
    // Trampolines count what is lost in a full ring; in the last one nothing is.
    for options in [["64K", "drop"], ["64K", "overwrite"], ["256K", "drop"], ["32M", "drop"]] {
        let dir = tempfile::tempdir().unwrap();
        let output = preloaded(&program, dir.path())
            .arg("40000")
            .env("TRACESHIM_RING_BYTES", options[0])
            .env("TRACESHIM_OVERFLOW", options[1])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let stats = stdout(&[&"stats", &"--no-symbols", &"--format", &"json", &dir.path()]);
        let stats: Value = serde_json::from_str(&stats).unwrap();
        let lost = stats["lost"].as_u64().unwrap();
        let all = stats["events"].as_u64().unwrap() + lost;
        assert_eq!(*accounted.get_or_insert(all), all, "{options:?}: {stats}");
        assert_eq!(lost == 0, options[0] == "32M", "{options:?}: {stats}");
        assert_eq!(stats["damaged"], 0);
    }
    // Enter and exit of each jump, and of both callbacks of each hundredth.
    assert!(accounted.is_some_and(|all| all > 2 * 40_000 + 4 * 400));
}

#[test]
fn record_survives_the_kill_of_its_command() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        format!("{} forever - 1 >/dev/null & sleep 0.1; kill -9 $!", fixture("spin", "O2-fp").display());
    let (trace, output) = recorded(dir.path(), "t", &[], &["sh", "-c", &script]);
    assert!(output.status.success());
    assert!(logs(&[&trace])[&0] > 0);
}

#[test]
fn a_ring_that_its_program_ruins_costs_no_other() {
    // One program overwrites its own ring with nonsense; its neighbour is fine.
    let dir = tempfile::tempdir().unwrap();
    let spin = fixture("spin", "O2-fp");
    let script = format!(
        "sh -c '{spin} forever >/dev/null & sleep 0.1; \
           for r in \"$TRACESHIM_DIR\"/spin.$!.ring; do \
             head -c 65536 /dev/urandom | dd of=\"$r\" conv=notrunc bs=4096 2>/dev/null; sleep 0.1; \
             : >\"$r\"; \
           done; kill -9 $!'; {founding}",
        spin = spin.display(),
        founding = fixture("founding", "O2-fp").display(),
    );
    let (trace, output) = recorded(dir.path(), "t", &[], &["sh", "-c", &script]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !stderr.contains("panicked"), "{stderr}");
    let all = events(&trace);
    log(&all, "host_called_from_c_thread");
    assert!(stdout(&[&"stats", &"--no-symbols", &trace]).contains("founding: ended"));
}

#[test]
fn a_bad_variable_is_one_clear_line_and_the_program_runs() {
    let program = fixture("founding", "O2-fp");
    let plain = Command::new(&program).output().unwrap();
    for (name, value) in [
        ("TRACESHIM_UNWINDER", "magic"),
        ("TRACESHIM_RING_BYTES", "many"),
        ("TRACESHIM_STACK_DEPTH", "-1"),
        ("TRACESHIM_DIR", "relative/dir"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let output = preloaded(&program, dir.path()).env(name, value).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status, &output.stdout), (plain.status, &plain.stdout));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(name) && stderr.contains(value), "{stderr}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_one_clear_line_and_the_program_runs() {
    let program = fixture("founding", "O2-fp");
    let plain = Command::new(&program).output().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for bad in [&file, Path::new("/proc/nowhere")] {
        let output = preloaded(&program, bad).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status, &output.stdout), (plain.status, &plain.stdout));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(&*bad.to_string_lossy()), "{stderr}");
    }
}

#[test]
fn a_full_disk_is_one_clear_line_and_the_program_runs() {
    let program = fixture("founding", "O2-fp");
    let plain = Command::new(&program).output().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mount =
        |args: &[&str]| Command::new("mount").args(args).arg(dir.path()).stderr(Stdio::null()).status();
    if !mount(&["-t", "tmpfs", "-o", "size=1M,mode=700", "none"]).is_ok_and(|status| status.success()) {
        eprintln!("skipped: no tmpfs can be mounted here (not root, or no CAP_SYS_ADMIN)");
        return;
    }
    let output = preloaded(&program, dir.path()).output().unwrap();
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    let unmounted = Command::new("umount").arg(dir.path()).status().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(unmounted.success());
    assert_eq!((output.status, &output.stdout), (plain.status, &plain.stdout), "{stderr}");
    assert_eq!((stderr.lines().count(), left), (1, 0), "{stderr}");
    assert!(stderr.contains("No space left"), "{stderr}");
}
