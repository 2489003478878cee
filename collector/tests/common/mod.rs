//! Rings made by hand, and the program that reads them.
#![allow(dead_code)] // Each test binary uses its part.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use traceshim_ring::layout::header;
use traceshim_ring::mapping::{NewRing, RingMap};
use traceshim_ring::record::{Origin, StackRef, kind, pair};
use traceshim_ring::ring::{Clock, Cursor, Owner, Ring};
use traceshim_ring::stack::{StackStatus, Unwinder};
use traceshim_ring::stamp::FileStamp;
use traceshim_ring::table::ModuleEntry;

/// Ticks are nanoseconds in these rings, also where the header says that they
/// are the TSC's.
struct Now(u64);
impl Clock for Now {
    fn sync(&self) -> (u64, u64) {
        (self.0, self.0)
    }
}

/// A ring, and what writes into it.
pub(crate) struct Writer {
    pub(crate) map: RingMap,
}

/// A thread that writes.
pub(crate) struct Thread {
    pub(crate) owner: Owner,
    pub(crate) cursor: Cursor,
    pub(crate) now_ns: u64,
}

impl Writer {
    /// A ring of a process that is long dead.
    pub(crate) fn new(dir: &Path, pid: u32, bytes: u64) -> Writer {
        Writer::with(dir, pid, bytes, 1_000_000, 0)
    }

    /// A ring whose process began at `start_ns`, with its code loaded at `bias`.
    pub(crate) fn with(dir: &Path, pid: u32, bytes: u64, start_ns: u64, bias: u64) -> Writer {
        let new = NewRing {
            bytes,
            overwrite: false,
            tsc: true,
            pid,
            ppid: 1,
            uuid: [u64::from(pid), bias],
            start_mono_ns: start_ns,
            start_real_ns: 6,
            stack_depth: 128,
        };
        let map = RingMap::create(dir, b"app", &new).expect("a ring");
        let writer = Writer { map };
        let ring = writer.ring();
        ring.set_header(header::EXE, ring.string(b"/opt/app").into());
        ring.module(&ModuleEntry {
            start: bias + 0x1000,
            end: bias + 0x9000,
            bias,
            load_ticks: start_ns,
            is_host: true,
            build_id: &[1, 2, 3],
            path: b"/nowhere/app",
            file: FileStamp::default(),
        });
        ring.hook(0, bias + 0x2000, b"host_called_from_c");
        ring.hook(1, bias + 0x3000, b"host_inner");
        writer
    }

    pub(crate) fn ring(&self) -> Ring<'_> {
        self.map.ring().expect("a header")
    }

    pub(crate) fn path(&self) -> &Path {
        self.map.path()
    }

    pub(crate) fn thread(&self, tid: u32, origin: Origin, creator: u32) -> Thread {
        let name = self.ring().string(format!("thread-{tid}").as_bytes());
        let owner = Owner { uid: self.ring().next_uid(), tid, origin, creator, name, depth: 0 };
        Thread { owner, cursor: Cursor::default(), now_ns: 2_000_000 }
    }

    /// A stack of return addresses in the host.
    pub(crate) fn stack(&self, frames: &[u64], status: StackStatus) -> StackRef {
        StackRef::new(self.ring().stack(frames, status), Unwinder::Table)
    }

    /// Writes a record one microsecond after the thread's last.
    pub(crate) fn put(&self, thread: &mut Thread, head: (u8, u16), body: &[u64]) -> bool {
        thread.now_ns += 1000;
        self.ring().put(&mut thread.cursor, &thread.owner, &Now(thread.now_ns), thread.now_ns, head, body)
    }

    pub(crate) fn enter(&self, thread: &mut Thread, hook: u16, stack: StackRef) -> bool {
        thread.owner.depth += 1;
        let depth = thread.owner.depth;
        self.put(thread, (kind::CALLBACK_ENTER, hook), &[pair(stack.0, depth.into())])
    }

    pub(crate) fn exit(&self, thread: &mut Thread, hook: u16) -> bool {
        thread.owner.depth -= 1;
        self.put(thread, (kind::CALLBACK_EXIT, hook), &[])
    }

    pub(crate) fn log(&self, thread: &mut Thread, stack: StackRef, category: &[u8], text: &[u8]) -> bool {
        let category = self.ring().string(category);
        let mut body = vec![pair(stack.0, category)];
        body.extend(text.chunks(8).map(|part| {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            u64::from_le_bytes(word)
        }));
        self.put(thread, (kind::LOG, text.len() as u16), &body)
    }
}

/// One ring with a main thread that is called back, and a thread born in C.
pub(crate) fn sample(dir: &Path, bias: u64) -> PathBuf {
    let w = Writer::with(dir, 4_000_000, 1 << 20, 1_000_000, bias);
    let mut main = w.thread(4_000_000, Origin::Main, 0);
    let mut child = w.thread(4_000_001, Origin::C, main.owner.uid);
    let stack = w.stack(&[bias + 0x2000, bias + 0x4010, bias + 0x5020], StackStatus::Complete);
    let cut = w.stack(&[bias + 0x3000], StackStatus::NoUnwindInfo);
    w.enter(&mut main, 0, stack);
    w.enter(&mut main, 1, cut);
    w.log(&mut main, stack, b"net", b"in both");
    w.exit(&mut main, 1);
    let birth = [pair(stack.0, child.owner.uid), bias + 0x6000];
    w.put(&mut main, (kind::THREAD_BIRTH, Origin::C as u16), &birth);
    w.exit(&mut main, 0);
    let start = [pair(child.owner.name, main.owner.uid), bias + 0x6000];
    w.put(&mut child, (kind::THREAD_START, Origin::C as u16), &start);
    w.log(&mut child, cut, b"net", b"odd: \x1b[31m \xff \"quoted\" \\");
    w.put(&mut child, (kind::THREAD_EXIT, 0), &[]);
    w.path().to_owned()
}

/// Says that a check can't run here. CI has what scripts/setup.sh installs, so
/// there it is a failure.
pub(crate) fn skip(what: &str, why: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{what}: {why}");
    eprintln!("skipped: {what}: {why}");
}

/// Runs the collector.
pub(crate) fn collector(args: &[&dyn AsRef<OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collector"));
    command.args(args.iter().map(|arg| arg.as_ref())).output().expect("the collector runs")
}

/// Its standard output, where it must succeed.
pub(crate) fn stdout(args: &[&dyn AsRef<OsStr>]) -> String {
    let output = collector(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The events that `dump` prints of `input`.
pub(crate) fn events(input: &Path) -> Vec<Value> {
    let text = stdout(&[&"dump", &"--format", &"json", &input]);
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Those of one kind.
pub(crate) fn of_kind<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["kind"] == kind).collect()
}
