#![allow(unsafe_code)]
//! Stacks that are hard to walk, compared with glibc's `backtrace()` and, where
//! it is installed, libunwind's and (some of them) gdb's, taken at the same point: the same frames, or
//! the right first ones and the reason.

mod support;

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use support::{Library, compile, have, output, source};
use traceshim_unwind::{
    Capturer, FRAME_EXACT, FramePointers, ModuleSet, Outcome, Policy, Regs, StackBounds, StackStatus,
    Unwinder,
};

#[repr(C)]
struct Host {
    capture: unsafe extern "C" fn(*const c_char),
    stack: extern "C" fn(*const c_void, *const c_void),
}

/// What one capture found.
struct Record {
    label: String,
    ours: Vec<u64>,
    glibc: Vec<u64>,
    /// libunwind's and gdb's, where they were asked.
    others: [Option<Vec<u64>>; 2],
    status: StackStatus,
    by_frame_pointer: bool,
    wrong: Vec<String>,
}

static RECORDS: Mutex<Vec<Record>> = Mutex::new(Vec::new());
static MORE_STACK: Mutex<(u64, u64)> = Mutex::new((0, 0));
static LIBUNWIND: OnceLock<Option<support::Backtrace>> = OnceLock::new();
/// gdb takes most of a second each time.
static ASK_GDB: AtomicBool = AtomicBool::new(false);
const FOR_GDB: &[&str] = &[
    "case_qsort",
    "case_signal_odd_rbp",
    "case_signal_first_instruction",
    "case_signal_alternate_stack",
    "case_realigned",
    "case_drap",
    "case_cfa_on_register",
    "case_noreturn",
    "case_thread",
    "case_tsd_destructor",
];
static GENERATION: AtomicU64 = AtomicU64::new(1);

extern "C" fn stack(lo: *const c_void, hi: *const c_void) {
    *MORE_STACK.lock().expect("no panic") = (lo.addr() as u64, hi.addr() as u64);
}

support::stub::capture_stub!("traceshim_test_capture", capture);

unsafe extern "C" {
    fn traceshim_test_capture(label: *const c_char);
}

/// Strips the mark of exact addresses, which `backtrace` doesn't have.
fn plain(frames: &[u64]) -> Vec<u64> {
    frames.iter().map(|f| f & !FRAME_EXACT).collect()
}

unsafe extern "C" fn capture(label: *const c_char, regs: *const Regs) {
    // SAFETY: the fixture passes a string.
    let label = unsafe { CStr::from_ptr(label) };
    // SAFETY: the stub above passes the registers that it has stored.
    let regs = unsafe { *regs };
    let set =
        ModuleSet::new(support::modules(FramePointers::Detect), GENERATION.fetch_add(1, Ordering::Relaxed));
    let (lo, hi) = *MORE_STACK.lock().expect("no panic");
    // SAFETY: the fixtures' other stacks are static arrays.
    let mem = [support::own_stack(), unsafe { StackBounds::new(lo, hi) }];
    let mut capturer = Capturer::boxed();
    let mut wrong = Vec::new();
    let mut take = |policy: Policy, depth: usize| -> (Vec<u64>, Outcome) {
        let mut out = vec![0; depth];
        let outcome = capturer.capture(&set, &mem, &regs, false, policy, &mut out);
        out.truncate(outcome.len);
        (out, outcome)
    };
    let (ours, outcome) = take(Policy::Table, 512);
    let mut same = |name: &str, (frames, o): (Vec<u64>, Outcome)| {
        if (&frames, o.status) != (&ours, outcome.status) {
            wrong.push(format!("{name}: {} frames, {}", frames.len(), o.status));
        }
    };
    same("again", take(Policy::Table, 512));
    let auto = take(Policy::Auto { c_on_stack: false }, 512);
    let by_frame_pointer = auto.1.unwinder == Unwinder::FramePointer;
    same("auto", auto);
    same("auto, C on the stack", take(Policy::Auto { c_on_stack: true }, 512));
    same("just enough room", take(Policy::Table, ours.len()));
    for depth in 1..ours.len() {
        for policy in [Policy::Table, Policy::Auto { c_on_stack: false }] {
            let (frames, o) = take(policy, depth);
            if frames != ours[..depth] || o.status != StackStatus::DepthLimit {
                wrong.push(format!("{policy:?} at depth {depth}: {}", o.status));
            }
        }
    }
    let (frames, o) = take(Policy::FramePointer, 512);
    if o.status == StackStatus::Complete
        || o.unwinder != Unwinder::FramePointer
        || frames.first() != ours.first()
    {
        wrong.push(format!("forced frame pointers: {o:?}"));
    }
    let glibc = support::glibc_backtrace();
    let from = glibc.iter().position(|&a| a == regs.ip);
    let glibc = glibc[from.expect("backtrace has the capture's caller")..].to_vec();
    let libunwind = LIBUNWIND.get().copied().flatten().map(support::backtrace_by);
    let libunwind = libunwind.map(|frames| {
        let from = frames.iter().position(|&a| a == regs.ip).unwrap_or(frames.len());
        frames[from..].to_vec()
    });
    let label = label.to_string_lossy().into_owned();
    let gdb = ASK_GDB.load(Ordering::Relaxed) && FOR_GDB.contains(&label.as_str());
    let gdb = gdb.then(support::gdb_backtrace).filter(|frames| {
        // It may not be allowed to look at processes.
        let asked = !frames.is_empty();
        if !asked {
            println!("skipped: gdb for {label}");
        }
        asked
    });
    let gdb = gdb.map(|frames| {
        let from = frames.iter().position(|&a| a == regs.ip).unwrap_or(frames.len());
        frames[from..].to_vec()
    });
    RECORDS.lock().expect("no panic").push(Record {
        label,
        ours,
        glibc,
        others: [libunwind, gdb],
        status: outcome.status,
        by_frame_pointer,
        wrong,
    });
}

/// The cases that can't be complete, and why.
fn expected(label: &str) -> StackStatus {
    match label {
        "case_no_cfi_frame_pointer" | "case_no_cfi_no_frame_pointer" => StackStatus::NoUnwindInfo,
        // Its outermost return address is the first byte of `__start_context`, so
        // the byte before, which is looked up, belongs to nothing.
        "case_coroutine" => StackStatus::NoUnwindInfo,
        "case_jit" => StackStatus::NoModule,
        "case_signal_unknown_stack" | "case_coroutine_unknown_stack" => StackStatus::UnknownStack,
        _ => StackStatus::Complete,
    }
}

const CASES: &[&str] = &[
    "case_qsort",
    "case_bsearch",
    "case_signal_raise",
    "case_signal_trap",
    "case_signal_odd_rbp",
    "case_signal_first_instruction",
    "case_signal_alternate_stack",
    "case_signal_unknown_stack",
    "case_signal_nested",
    "case_alloca",
    "case_realigned",
    "case_drap",
    "case_large_frame",
    "case_cfa_on_register",
    "case_tail_call",
    "case_noreturn",
    "case_no_cfi_frame_pointer",
    "case_no_cfi_no_frame_pointer",
    "case_jit",
    "case_thread",
    "case_coroutine",
    "case_coroutine_unknown_stack",
    "case_once",
    "case_dl_iterate_phdr",
    "case_tsd_destructor",
    "case_pthread_exit",
    "case_lazy_binding",
];
const CXX_CASES: &[&str] = &["case_catch_handler", "case_destructor_in_unwinding"];

fn build(cc: &str, cxx: &str, level: &str, frame_pointers: bool) -> (PathBuf, PathBuf) {
    let fp = if frame_pointers { "-fno-omit-frame-pointer" } else { "-fomit-frame-pointer" };
    let name = format!("{cc}{level}{fp}");
    let file = |ext: &str| output(&format!("{name}{ext}"));
    let object = |kind: &str, keep: &str| {
        let o = file(&format!("-{kind}.o")).display().to_string();
        let define = format!("-DNAME=no_cfi_{kind}");
        compile(
            cc,
            &[
                level,
                "-fPIC",
                keep,
                "-fno-asynchronous-unwind-tables",
                "-fno-unwind-tables",
                &define,
                "-c",
                &source("no_cfi.c"),
                "-o",
                &o,
            ],
        );
        o
    };
    let with = object("frame_pointer", "-fno-omit-frame-pointer");
    let without = object("no_frame_pointer", "-fomit-frame-pointer");
    let (c, cpp) = (file("-c.so"), file("-cxx.so"));
    let common = [level, fp, "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wl,-z,lazy", "-o"];
    let run = |compiler: &str, rest: &[&str]| compile(compiler, &[&common, rest].concat());
    run(cc, &[c.to_str().expect("UTF-8"), &source("cases.c"), &with, &without, "-pthread"]);
    run(cxx, &[cpp.to_str().expect("UTF-8"), &source("exceptions.cc")]);
    (c, cpp)
}

/// Runs the cases of a library; returns how many captures were compared, and
/// how many of them may go by frame pointers.
fn run(path: &std::path::Path, cases: &[&str], failures: &mut Vec<String>) -> (usize, usize) {
    let library = Library::open(path);
    let host = Host { capture: traceshim_test_capture, stack };
    let use_host = library.get("use_host").expect("use_host");
    // SAFETY: the fixtures define it so.
    let use_host: extern "C" fn(*const Host) = unsafe { std::mem::transmute(use_host) };
    use_host(&host);
    let (mut compared, mut by_frame_pointer) = (0, 0);
    for case in cases {
        let function = library.get(case).unwrap_or_else(|| panic!("{case} is missing"));
        // SAFETY: every case is a function without arguments.
        let function: extern "C" fn() = unsafe { std::mem::transmute(function) };
        function();
        let records = std::mem::take(&mut *RECORDS.lock().expect("no panic"));
        if records.is_empty() {
            failures.push(format!("{}: {case}: nothing was captured", path.display()));
        }
        for r in records {
            compared += 1;
            let (ours, want) = (plain(&r.ours), expected(&r.label));
            let frames_right = match want {
                StackStatus::Complete => ours == r.glibc,
                _ => r.glibc.starts_with(&ours),
            };
            let others_agree = r.others.iter().flatten().all(|other| match want {
                StackStatus::Complete => ours == *other,
                _ => other.starts_with(&ours),
            });
            by_frame_pointer += usize::from(r.by_frame_pointer);
            // The case itself is on the stack, unless it is another thread's, or in
            // a part of the function (`.cold`) that has no exported name.
            let unnamed = ["case_thread", "case_tsd_destructor", "case_pthread_exit", "case_catch_handler"];
            let named = unnamed.contains(case)
                || case.contains("coroutine")
                || want != StackStatus::Complete
                || ours.iter().any(|&a| support::symbol(a).starts_with(&format!("{case}@")));
            if r.status != want || !frames_right || !others_agree || !named || !r.wrong.is_empty() {
                let names =
                    |v: &[u64]| v.iter().map(|&a| support::symbol(a)).collect::<Vec<_>>().join("\n      ");
                failures.push(format!(
                    "{}: {}: {} (expected {want}), {:?}\n    ours:\n      {}\n    glibc:\n      {}\n    others: {:x?}",
                    path.display(),
                    r.label,
                    r.status,
                    r.wrong,
                    names(&ours),
                    names(&r.glibc),
                    r.others
                ));
            }
        }
    }
    (compared, by_frame_pointer)
}

#[test]
fn every_stack_is_right_or_says_why_not() {
    let mut failures = Vec::new();
    let _ = LIBUNWIND.set(support::libunwind());
    let gdb = have("gdb");
    for (cc, cxx) in [("gcc", "g++"), ("clang", "clang++")] {
        if !have(cc) {
            continue;
        }
        for level in ["-O0", "-O2"] {
            for frame_pointers in [true, false] {
                let (c, cpp) = build(cc, cxx, level, frame_pointers);
                let ask = gdb && cc == "gcc" && level == "-O2" && !frame_pointers;
                ASK_GDB.store(ask, Ordering::Relaxed);
                let (n, by_fp) = run(&c, CASES, &mut failures);
                let (cxx_n, _) = run(&cpp, CXX_CASES, &mut failures);
                // gdb has read them.
                let _ = (std::fs::remove_file(c), std::fs::remove_file(cpp));
                println!("{cc} {level} {frame_pointers}: {n} and {cxx_n} stacks, {by_fp} by frame pointers");
                assert!(n >= CASES.len() && cxx_n >= CXX_CASES.len());
                // Without them, functions with `alloca` keep one all the same.
                let expected = if frame_pointers { CASES.len() / 2..CASES.len() + 1 } else { 0..5 };
                assert!(expected.contains(&by_fp), "{by_fp} by frame pointers");
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
