//! Rings that somebody ruins, and files that are no rings: what is wrong is
//! said, and nothing crashes, hangs, or costs another ring's events.

mod common;
mod traced;

use std::fs::File;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Writer, collector, events, of_kind, sample};
use traced::{fixture, library, preloaded};
use traceshim_ring::drain::Drain;
use traceshim_ring::layout::header;
use traceshim_ring::record::{Origin, kind, pair};
use traceshim_ring::stack::StackStatus;

/// A generator whose sequence is the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Changes a word: of the header (but for what makes it this process's), of a
    /// chunk's own header, or any.
    fn scribble(&mut self, file: &File) {
        let (at, value) = (self.next(), self.next());
        let word = match at % 4 {
            0 => 16 + at % 496,
            1 => (1 + (at >> 8) % 63) * 512 + (at >> 32 & 1),
            _ => 512 + (at >> 8 & 0x7fff),
        };
        let value = if value & 1 == 0 { value >> 58 } else { value };
        file.write_at(&value.to_le_bytes(), word * 8).unwrap();
    }
}

/// Ends the other thread, also where this one fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a command that reads rings: it may find fault with them, no more. Whether
/// it could read something.
fn read(args: &[&str], input: &Path) -> bool {
    let output = Command::new(env!("CARGO_BIN_EXE_collector")).args(args).arg(input).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{args:?}: {}: {stderr}", output.status);
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    output.status.success()
}

/// The session directory that `record` makes in `dir`, and its first ring.
fn wait_for_ring(dir: &Path, record: &mut Child) -> (PathBuf, PathBuf) {
    loop {
        assert!(record.try_wait().unwrap().is_none(), "no ring was seen");
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        for session in entries.filter(|path| path.is_dir()) {
            let files = std::fs::read_dir(&session).into_iter().flatten().flatten();
            if let Some(ring) = files.map(|entry| entry.path()).find(|path| path.extension().is_some()) {
                return (session, ring);
            }
        }
        std::thread::yield_now();
    }
}

/// Writes over a ring while its program fills it and a collector drains it, and
/// others read it, and lets it grow to a terabyte. How often they could.
fn scribble(policy: &str, seed: u64) -> u32 {
    let dir = tempfile::tempdir().unwrap();
    let program = fixture("spin", "O2-fp");
    let mut record = Command::new(env!("CARGO_BIN_EXE_collector"))
        .args(["record", "--ring-size", "256K", "--overflow", policy, "-o"])
        .arg(dir.path().join("t"))
        .arg("--")
        .arg(program)
        .args(["400", "-", "4"])
        .env("TRACESHIM_LIBRARY", library())
        .env("TRACESHIM_DIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (session, ring) = wait_for_ring(dir.path(), &mut record);
    let file = File::options().write(true).open(&ring).unwrap();
    let (over, mut readable) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(seed);
            while !over.load(Ordering::Relaxed) {
                random.scribble(&file);
            }
        });
        let _over = SetAtEnd(&over);
        for round in 0.. {
            let is_read = match round % 4 {
                0 => read(&["dump", "--format", "json", "--no-symbols", "-o", "/dev/null"], &session),
                1 => read(&["stats", "--no-symbols"], &session),
                2 => read(&["follow", "--no-symbols", "--limit", "100"], &session),
                _ => file.set_len(1 << 40).is_err(),
            };
            readable += u32::from(is_read);
            if record.try_wait().unwrap().is_some() {
                break;
            }
        }
    });
    let output = record.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    // What the program printed and how it ended: it never noticed.
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"time is up\n"[..]), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(read(&["stats", "--no-symbols"], &dir.path().join("t")));
    readable
}

#[test]
fn a_ring_that_is_scribbled_on_disturbs_neither_its_program_nor_the_collector() {
    let runs = [("drop", 11), ("overwrite", 12), ("drop", 13), ("overwrite", 14)];
    let readable: u32 = runs.into_iter().map(|(policy, seed)| scribble(policy, seed)).sum();
    assert!(readable > 0, "nothing was ever readable");
}

#[test]
fn files_that_are_no_rings_are_named_and_hide_no_ring() {
    let dir = tempfile::tempdir().unwrap();
    let good = sample(dir.path(), 0x10_0000);
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let empty = put("empty.1.ring", b"");
    let text = put("text.1.ring", b"no ring, but a text that is long enough for a magic word");
    let mut header = std::fs::read(&good).unwrap()[..4096].to_vec();
    let sparse = put("sparse.1.ring", &header);
    File::options().write(true).open(&sparse).unwrap().set_len(1 << 40).unwrap();
    header[header::HIGH_WATER * 8..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
    header[header::CHUNKS * 8..][..4].copy_from_slice(&(1u32 << 22).to_le_bytes());
    let claims = put("claims.1.ring", &header);
    let fifo = dir.path().join("fifo.1.ring");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let directory = dir.path().join("directory.1.ring");
    std::fs::create_dir(&directory).unwrap();
    symlink(&fifo, dir.path().join("link.1.ring")).unwrap();
    symlink("/dev/zero", dir.path().join("zero.1.ring")).unwrap();

    for (path, why) in [
        (&empty, "0 bytes are too short for a ring"),
        (&text, "neither a ring nor a trace"),
        (&dir.path().join("zero.1.ring"), "neither a file nor a directory"),
        (&directory, "no rings in it"),
    ] {
        let output = collector(&[&"dump", &path]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stderr, format!("collector: {}: {why}\n", path.display()));
    }
    // These are rings, of which little or nothing is there.
    for path in [&sparse, &claims] {
        read(&["dump"], path);
        read(&["stats"], path);
    }
    let output = collector(&[&"dump", &"--format", &"json", &dir.path()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert_eq!(output.stdout.split(|&b| b == b'\n').count() - 1, events(&good).len());
    for name in ["empty.1.ring", "text.1.ring", "claims.1.ring"] {
        assert!(stderr.contains(name), "{name} isn't named in\n{stderr}");
    }
}

#[test]
fn a_ring_is_drained_by_one_collector_at_a_time_and_read_by_any() {
    let dir = tempfile::tempdir().unwrap();
    let ring = sample(dir.path(), 0x10_0000);
    let all = events(&ring).len();
    let _drain = Drain::open(&ring).unwrap();
    let second = Drain::open(&ring).unwrap_err();
    assert_eq!(second.to_string(), "another collector drains it");
    assert_eq!(events(&ring).len(), all);
}

/// What a terminal would act on: control characters, those of Unicode's too.
fn harmful(text: &str) -> Option<char> {
    text.chars().find(|&c| c.is_control() && c != '\n' && c != '\t')
}

const EVIL: &[u8] = b"\x1b]0;owned\x07\x9b31m\xc2\x9b\xff\r</script><!--\xe2\x80\xae";

#[test]
fn nothing_that_a_program_says_reaches_the_terminal_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let w = Writer::new(dir.path(), 4_000_000, 1 << 20);
    let ring = w.ring();
    let evil = ring.string(EVIL);
    ring.set_header(header::EXE, evil.into());
    let stack = w.stack(&[0x2000, 0x7000_0000], StackStatus::Complete);
    let mut main = w.thread(4_000_000, Origin::Main, 0);
    main.owner.name = evil;
    let module = traceshim_ring::table::ModuleEntry {
        start: 0x7000_0000,
        end: 0x7001_0000,
        bias: 0x7000_0000,
        load_ticks: 1,
        path: &[b"/tmp/", EVIL].concat(),
        ..Default::default()
    };
    let module = ring.module(&module);
    ring.hook(2, 0x3000, EVIL);
    w.log(&mut main, stack, EVIL, EVIL);
    w.enter(&mut main, 2, stack);
    w.exit(&mut main, 2);
    for kind in [kind::REGION_BEGIN, kind::REGION_END, kind::TASK_BEGIN] {
        w.put(&mut main, (kind, 0), &[pair(stack.0, evil), 1, 0]);
    }
    let uid = main.owner.uid;
    w.put(&mut main, (kind::THREAD_NAME, 0), &[pair(evil, uid)]);
    w.put(&mut main, (kind::THREAD_BIRTH, 3), &[pair(stack.0, 9), 0x7000_1000]);
    w.put(&mut main, (kind::MODULE_LOAD, 0), &[module.into()]);
    w.put(&mut main, (kind::EXEC, 0), &[evil.into()]);

    let other = tempfile::tempdir().unwrap();
    let other = sample(other.path(), 0x10_0000);
    for args in [
        &["dump", "--color", "never"][..],
        &["dump", "--format", "json"],
        &["stats"],
        &["stats", "--format", "json"],
        &["follow"],
        &["diff", other.to_str().unwrap()],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_collector")).args(args).arg(w.path()).output().unwrap();
        let stdout = String::from_utf8(output.stdout).expect("UTF-8");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(stdout.contains("owned"), "{args:?}: {stdout}");
        assert_eq!(harmful(&stdout).or(harmful(&stderr)), None, "{args:?}: {stdout}{stderr}");
        if args.contains(&"json") {
            // As it stands, it may be put into a page.
            assert!(!stdout.contains("</") && !stdout.contains("<!"), "{stdout}");
            for line in stdout.lines() {
                serde_json::from_str::<serde_json::Value>(line).expect(line);
            }
        } else {
            assert!(!stdout.contains('\u{202e}'), "{args:?}: {stdout}");
        }
    }
    // What was text is text again, and what wasn't is written out.
    let text = "\u{1b}]0;owned\u{7}\\x9b31m\u{9b}\\xff\r</script><!--\u{202e}";
    let all = events(w.path());
    let log = of_kind(&all, "log")[0];
    assert_eq!((log["message"].as_str(), log["category"].as_str()), (Some(text), Some(text)));
}

#[test]
fn nothing_on_the_command_line_reaches_the_terminal_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "\u{1b}[31mred\u{9b}";
    let trace = dir.path().join("t");
    let trace = trace.to_str().unwrap();
    for args in [
        &["dump", evil][..],
        &["dump", "--kind", evil],
        &["dump", "--color", evil],
        &["dump", "--limit", evil],
        &[evil],
        &["stats", &format!("--{evil}")],
        &["record", "-o", evil, "--unwinder", evil, "--", "true"],
        &["record", "-o", trace, "--callback-arg", evil, "--", "true"],
        &["record", "-o", trace, "--", evil],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_collector"))
            .args(args)
            .env("TRACESHIM_LIBRARY", library())
            .env("TRACESHIM_DIR", dir.path())
            .current_dir(dir.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(!output.status.success() && stderr.contains("red"), "{args:?}: {stderr}");
        assert_eq!(harmful(&stderr), None, "{args:?}: {stderr:?}");
    }
}

#[test]
fn nothing_that_the_shim_is_told_reaches_the_terminal_as_it_is() {
    let program = fixture("founding", "O2-fp");
    for (name, value) in
        [("TRACESHIM_UNWINDER", "\u{1b}[31mred\u{9b}"), ("TRACESHIM_DIR", "/proc/\u{9b}red\n")]
    {
        let dir = tempfile::tempdir().unwrap();
        let output = preloaded(&program, dir.path()).env(name, value).output().unwrap();
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.status.success());
        assert!(stderr.contains("red") && stderr.lines().count() == 1, "{stderr}");
        assert_eq!(harmful(&stderr), None, "{stderr:?}");
    }
}
