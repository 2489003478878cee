#![allow(unsafe_code)]
//! The memo on real stacks: random recursion in C, each capture compared with
//! a walk that remembers nothing.

#[path = "support/calls.rs"]
mod calls;
mod support;

use calls::{AROUND, Job};
use std::ffi::{c_int, c_void};
use support::{Library, compile, have, output, source};
use traceshim_unwind::{Capturer, FramePointers, Kind, ModuleSet, Policy, Regs, StackStatus};

const ROOM: usize = 128;

struct State {
    set: ModuleSet,
    memo: Box<Capturer>,
    walk: Box<Capturer>,
    stacks: Vec<Vec<u64>>,
    runs: std::vec::IntoIter<(i64, i64, i64)>,
    depth: i64,
    total: u64,
    hits: u64,
    wrong: Vec<String>,
}

support::stub::capture_stub!("traceshim_test_recursion", capture);

unsafe extern "C" {
    fn traceshim_test_recursion(state: *mut c_void);
}

unsafe extern "C" fn capture(state: *mut c_void, regs: *const Regs) {
    // SAFETY: the job's argument is the state, which nothing else uses meanwhile.
    let s = unsafe { &mut *state.cast::<State>() };
    // SAFETY: the stub passes the registers that it has stored.
    let regs = unsafe { *regs };
    let bounds = support::own_stack();
    s.total += 1;
    let mut right = vec![0; ROOM];
    let o = s.walk.capture(&s.set, &bounds, &regs, false, Policy::Table, &mut right);
    right.truncate(o.len);
    if o.status != StackStatus::Complete || right.len() as i64 != s.depth + i64::from(AROUND as i32) {
        s.wrong.push(format!("walk: {o:?}"));
    }
    match s.memo.lookup(1, &bounds, &regs, Kind::new(false, Policy::Table, ROOM, 0)) {
        Some(id) => {
            s.hits += 1;
            if s.stacks[id as usize] != right {
                s.wrong.push(format!("stack {id} is another"));
            }
        }
        None => {
            let mut out = vec![0; ROOM];
            let o = s.memo.capture(&s.set, &bounds, &regs, false, Policy::Table, &mut out);
            out.truncate(o.len);
            s.memo.remember(s.stacks.len() as u32, 0);
            if out != right {
                s.wrong.push("a walk that is remembered is another".to_owned());
            }
            s.stacks.push(out);
        }
    }
}

unsafe extern "C" fn next(state: *mut c_void, job: *mut Job) -> c_int {
    // SAFETY: the job's argument is the state.
    let s = unsafe { &mut *state.cast::<State>() };
    // SAFETY: the C code passes its job.
    let job = unsafe { &mut *job };
    let Some((depth, stacks, split)) = s.runs.next() else { return 0 };
    s.depth = depth;
    (job.depth, job.stacks, job.split) = (depth, stacks, split);
    (job.events, job.seed) = (10_000, s.total + 1);
    1
}

#[test]
fn random_recursion() {
    for (compiler, level, flag) in [
        ("gcc", "-O2", "-fno-omit-frame-pointer"),
        ("gcc", "-O2", "-fomit-frame-pointer"),
        ("gcc", "-O0", "-fomit-frame-pointer"),
        ("clang", "-O2", "-fomit-frame-pointer"),
    ] {
        if !have(compiler) {
            continue;
        }
        let path = output(&format!("recursion-{compiler}{level}{flag}.so"));
        let file = path.to_str().expect("UTF-8").to_owned();
        compile(compiler, &[level, flag, "-fPIC", "-shared", "-o", &file, &source("calls.c")]);
        let thread = Library::open(&path).get("thread").expect("thread");
        let _ = std::fs::remove_file(&path);
        let runs =
            vec![(4, 16, 0), (28, 64, 0), (28, 100_000, 2), (28, 100_000, 0), (100, 8, 0), (3, 1000, 0)];
        let mut state = State {
            set: ModuleSet::new(support::modules(FramePointers::Ignore), 1),
            memo: Capturer::boxed(),
            walk: Capturer::boxed(),
            stacks: Vec::new(),
            runs: runs.into_iter(),
            depth: 0,
            total: 0,
            hits: 0,
            wrong: Vec::new(),
        };
        // SAFETY: the library defines it, and the functions take the state.
        unsafe { calls::run(thread, (&raw mut state).cast(), traceshim_test_recursion, next) };
        println!("{compiler} {level} {flag}: {} of {} stacks were known", state.hits, state.total);
        assert!(state.wrong.is_empty(), "{} {:?}", state.wrong.len(), state.wrong.first());
        assert!(state.hits * 2 > state.total, "{} of {}", state.hits, state.total);
    }
}
