#![allow(unsafe_code)]
//! Captures on hot, mixed, changing and cold stacks, against the bare walk of
//! frame pointers, framehop, libunwind and glibc's `backtrace()`.
//!
//! All methods take turns in one run on one processor, over the same random
//! call trees in C; what the calls alone cost is subtracted. Figures are
//! minima, or medians with `--median`. `--json` prints a line per comparison; an
//! argument picks benchmarks by a part of their name.

#[path = "../tests/support/calls.rs"]
mod calls;
#[path = "../tests/support/mod.rs"]
mod support;

use calls::{AROUND, Job};
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, MustNotAllocateDuringUnwind, Unwinder};
use std::ffi::{c_int, c_long, c_ulong, c_void};
use std::hint::black_box;
use support::{Library, compile, output, source};
use traceshim_unwind::{
    Capturer, FramePointers, Kind, ModuleSet, Policy, Regs, Section, StackBounds, StackMemory,
};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Method {
    Nothing,
    /// The memo, and on a miss a walk that is remembered.
    Ours,
    /// A walk by learned rules each time.
    OursWalk,
    /// Everything for the first time.
    OursCold,
    FramePointer,
    Framehop,
    FramehopCold,
    Libunwind,
    Glibc,
}

const ROOM: usize = 256;
type Backtrace = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;
type Cache = CacheX86_64<MustNotAllocateDuringUnwind>;

struct Bench {
    set: ModuleSet,
    capturer: Box<Capturer>,
    cold: Vec<Box<Capturer>>,
    framehop: UnwinderX86_64<Section, MustNotAllocateDuringUnwind>,
    cache: Cache,
    cold_caches: Vec<Cache>,
    libunwind: Option<Backtrace>,
    bounds: StackBounds,
    method: Method,
    out: Vec<u64>,
    frames: u64,
    next_id: u32,
}

support::stub::capture_stub!("traceshim_bench_capture", capture);

unsafe extern "C" {
    fn traceshim_bench_capture(bench: *mut c_void);
    fn backtrace(buffer: *mut *mut c_void, size: c_int) -> c_int;
}

unsafe extern "C" fn capture(bench: *mut c_void, regs: *const Regs) {
    // SAFETY: the job's argument is the bench, which nothing else uses meanwhile.
    let b = unsafe { &mut *bench.cast::<Bench>() };
    // SAFETY: the stub passes the registers that it has stored.
    let regs = unsafe { &*regs };
    b.frames += match b.method {
        Method::Nothing => 0,
        Method::Ours => {
            let known = b.capturer.lookup(
                b.set.generation(),
                &b.bounds,
                regs,
                Kind::new(false, Policy::Table, ROOM, 0),
            );
            match known {
                Some(id) => u64::from(black_box(id) != u32::MAX),
                None => {
                    let o = b.capturer.capture(&b.set, &b.bounds, regs, false, Policy::Table, &mut b.out);
                    b.next_id += 1;
                    b.capturer.remember(b.next_id, 0);
                    o.len as u64
                }
            }
        }
        Method::OursWalk => {
            b.capturer.capture(&b.set, &b.bounds, regs, false, Policy::Table, &mut b.out).len as u64
        }
        Method::OursCold => match b.cold.pop() {
            Some(mut c) => {
                let n = c.capture(&b.set, &b.bounds, regs, false, Policy::Table, &mut b.out).len;
                std::mem::forget(c);
                n as u64
            }
            None => 0,
        },
        Method::FramePointer => frame_pointers(regs, &b.bounds, &mut b.out),
        Method::Framehop => framehop(&b.framehop, &mut b.cache, regs, &b.bounds, &mut b.out),
        Method::FramehopCold => match b.cold_caches.pop() {
            Some(mut cache) => {
                let n = framehop(&b.framehop, &mut cache, regs, &b.bounds, &mut b.out);
                std::mem::forget(cache);
                n
            }
            None => 0,
        },
        Method::Libunwind => match b.libunwind {
            // SAFETY: the buffer has room for that many addresses.
            Some(f) => unsafe { f(b.out.as_mut_ptr().cast(), ROOM as c_int) as u64 },
            None => 0,
        },
        // SAFETY: the buffer has room for that many addresses.
        Method::Glibc => unsafe { backtrace(b.out.as_mut_ptr().cast(), ROOM as c_int) as u64 },
    };
    black_box(&b.out);
}

/// The walk to beat: bounded, upwards, each frame stored.
#[inline(never)]
fn frame_pointers(regs: &Regs, bounds: &StackBounds, out: &mut [u64]) -> u64 {
    let mut n = 1;
    out[0] = regs.ip;
    let mut bp = regs.bp;
    while let (Some(slot), Some(next)) = (out.get_mut(n), bounds.read(bp)) {
        let Some(ip) = bounds.read(bp.wrapping_add(8)) else { break };
        *slot = ip;
        n += 1;
        if next <= bp {
            break;
        }
        bp = next;
    }
    n as u64
}

#[inline(never)]
fn framehop(
    unwinder: &UnwinderX86_64<Section, MustNotAllocateDuringUnwind>,
    cache: &mut Cache,
    regs: &Regs,
    bounds: &StackBounds,
    out: &mut [u64],
) -> u64 {
    let mut read = |a| bounds.read(a).ok_or(());
    let start = UnwindRegsX86_64::new(regs.ip, regs.sp, regs.bp);
    let mut frames = unwinder.iter_frames(regs.ip, start, cache, &mut read);
    let mut n = 0;
    for slot in out {
        match frames.next() {
            Ok(Some(frame)) => *slot = frame.address(),
            _ => break,
        }
        n += 1;
    }
    n
}

/// One run of one method, and when it is due.
#[derive(Clone, Copy)]
struct Run {
    method: Method,
    depth: c_long,
    stacks: c_long,
    split: c_long,
    events: c_long,
    seed: c_ulong,
    /// Index into the figures; `None`: only to learn.
    figure: Option<usize>,
}

/// The runs, given out one by one to the C code, which is the outermost frame.
#[repr(C)]
struct Plan {
    bench: Bench,
    runs: std::vec::IntoIter<Run>,
    current: Option<(Run, u64)>,
    times: Vec<Vec<f64>>,
}

/// Many short runs: on a busy machine some of them aren't disturbed.
const REPEATS: u64 = 100;

unsafe extern "C" fn next(plan: *mut c_void, job: *mut Job) -> c_int {
    // SAFETY: the job's argument is the bench, the first field of a plan, which nothing else uses.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: the C code passes its job.
    let job = unsafe { &mut *job };
    if let Some((run, start)) = plan.current.take() {
        let time = (cpu_ns() - start) as f64 / run.events as f64;
        match run.figure {
            Some(i) => plan.times[i].push(time),
            // The depth is what was asked for.
            None if run.method == Method::OursWalk => {
                assert_eq!(plan.bench.frames, (run.depth + AROUND) as u64 * run.events as u64);
            }
            None => {}
        }
    }
    let Some(run) = plan.runs.next() else { return 0 };
    let b = &mut plan.bench;
    b.bounds = support::whole_stack();
    b.method = run.method;
    b.frames = 0;
    if run.method == Method::OursCold {
        b.cold = (0..run.events).map(|_| touched()).collect();
    }
    if run.method == Method::FramehopCold {
        b.cold_caches = (0..run.events).map(|_| Cache::new_in()).collect();
    }
    (job.depth, job.stacks, job.split) = (run.depth, run.stacks, run.split);
    (job.events, job.seed) = (run.events, run.seed);
    plan.current = Some((run, cpu_ns()));
    1
}

/// The processor time of this thread, in nanoseconds.
fn cpu_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A new capturer whose pages are there, as framehop's cache is written when it is made.
fn touched() -> Box<Capturer> {
    let mut capturer = Capturer::boxed();
    let bytes = std::ptr::from_mut(&mut *capturer).cast::<u8>();
    for at in (0..size_of::<Capturer>()).step_by(4096) {
        // SAFETY: inside the capturer, and zero is what is there.
        unsafe { bytes.wrapping_add(at).write_volatile(0) };
    }
    capturer
}

/// A comparison: ours first.
struct Case {
    name: String,
    methods: Vec<(Method, &'static str)>,
    depth: c_long,
    stacks: c_long,
    split: c_long,
}

fn cases(frame_pointers: bool, libunwind: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for frames in [8, 32, 128] {
        let depth = frames - AROUND;
        for (name, stacks, split, ours) in [
            ("hot", 1, 0, Method::Ours),
            ("mixed", 64, 0, Method::Ours),
            ("leaf", 100_000, depth.min(8), Method::Ours),
            ("miss", 100_000, 0, Method::OursWalk),
            ("cold", 1, 0, Method::OursCold),
        ] {
            let mut methods = vec![(ours, "")];
            if ours == Method::OursCold {
                methods.push((Method::FramehopCold, "framehop"));
            } else {
                methods.push((Method::Framehop, "framehop"));
                methods.push((Method::Glibc, "backtrace"));
                if frame_pointers {
                    methods.push((Method::FramePointer, "frame-pointer"));
                }
                if libunwind {
                    methods.push((Method::Libunwind, "libunwind"));
                }
            }
            let name = format!("capture/{name}/{frames}");
            cases.push(Case { name, methods, depth, stacks, split });
        }
    }
    cases
}

/// All runs, case by case; within one the methods take turns.
fn plan(cases: &[Case]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut figure = 0;
    for case in cases {
        let (depth, stacks, split) = (case.depth, case.stacks, case.split);
        let many = 100_000 / (depth + 60);
        let run = |method, events, seed, figure| Run { method, depth, stacks, split, events, seed, figure };
        runs.push(run(Method::OursWalk, 1000, 5, None));
        runs.push(run(case.methods[0].0, 1000, 5, None));
        for repeat in 0..REPEATS {
            let seed = repeat * 77 + 5;
            runs.push(run(Method::Nothing, many, seed, Some(figure)));
            for (i, (method, _)) in case.methods.iter().enumerate() {
                let events = match method {
                    Method::Glibc => 50,
                    Method::OursCold | Method::FramehopCold => 20,
                    _ => many,
                };
                runs.push(run(*method, events, seed, Some(figure + 1 + i)));
            }
        }
        figure += 1 + case.methods.len();
    }
    runs
}

impl Plan {
    fn report(&mut self, cases: &[Case], median: bool, json: bool, code: &str) {
        for t in &mut self.times {
            t.sort_by(f64::total_cmp);
        }
        let pick = |t: &Vec<f64>| if median { t[t.len() / 2] } else { t[0] };
        let mut times = self.times.iter();
        for case in cases {
            let bench = &case.name;
            let nothing = times.next().map_or(0.0, pick);
            let mut figure = || times.next().map_or(0.0, pick) - nothing;
            let ours = figure();
            for (_, against) in &case.methods[1..] {
                let theirs = figure();
                let ratio = ours / theirs;
                if json {
                    println!(
                        "{{\"bench\":\"{bench}\",\"code\":\"{code}\",\"ours_ns\":{ours:.1},\
                         \"against\":\"{against}\",\"theirs_ns\":{theirs:.1},\"ratio\":{ratio:.3}}}"
                    );
                } else {
                    println!("{bench:17} {code:20} {ours:9.1} ns   {against:13} {theirs:9.1} ns {ratio:6.2}");
                }
            }
        }
    }
}

fn framehop_over(set: &ModuleSet) -> UnwinderX86_64<Section, MustNotAllocateDuringUnwind> {
    let mut unwinder = UnwinderX86_64::new();
    for m in set.modules() {
        let m = m.desc();
        if m.eh_frame.is_empty() {
            continue;
        }
        let range = |svma: u64, bytes: &Section| Some(svma..svma + bytes.len() as u64);
        let sections = ExplicitModuleSectionInfo {
            base_svma: m.avma_start - m.bias,
            eh_frame_hdr_svma: range(m.eh_frame_hdr_svma, &m.eh_frame_hdr),
            eh_frame_hdr: Some(m.eh_frame_hdr.clone()),
            eh_frame_svma: range(m.eh_frame_svma, &m.eh_frame),
            eh_frame: Some(m.eh_frame.clone()),
            ..Default::default()
        };
        unwinder.add_module(Module::new(String::new(), m.avma_start..m.avma_end, m.avma_start, sections));
    }
    unwinder
}

fn main() {
    let asked = |flag: &str| std::env::args().any(|a| a == flag);
    // One sequence of calls, for one reason.
    // SAFETY: plain calls on a set of processors of our own.
    #[allow(clippy::multiple_unsafe_ops_per_block)]
    unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut one);
        libc::sched_setaffinity(0, size_of_val(&one), &one);
        // The first call loads libgcc.
        let mut buffer = [std::ptr::null_mut(); 4];
        backtrace(buffer.as_mut_ptr(), 4);
    }
    let libunwind = Library::find("libunwind.so.8").and_then(|l| l.get("unw_backtrace"));
    if libunwind.is_none() {
        eprintln!("skipped: libunwind.so.8 is not installed");
    }
    for (flag, code) in
        [("-fno-omit-frame-pointer", "frame pointers kept"), ("-fomit-frame-pointer", "no frame pointers")]
    {
        let path = output(&format!("calls{flag}.so"));
        let file = path.to_str().expect("UTF-8").to_owned();
        compile("cc", &["-O2", flag, "-fPIC", "-shared", "-o", &file, &source("calls.c")]);
        let thread = Library::open(&path).get("thread").expect("thread");
        let _ = std::fs::remove_file(&path);
        let set = ModuleSet::new(support::modules(FramePointers::Ignore), 1);
        let bench = Bench {
            framehop: framehop_over(&set),
            set,
            capturer: Capturer::boxed(),
            cold: Vec::new(),
            cache: Cache::new_in(),
            cold_caches: Vec::new(),
            // SAFETY: `unw_backtrace` has the type of `backtrace`.
            libunwind: libunwind.map(|f| unsafe { std::mem::transmute::<*mut c_void, Backtrace>(f) }),
            bounds: support::own_stack(),
            method: Method::Nothing,
            out: vec![0; ROOM],
            frames: 0,
            next_id: 0,
        };
        let mut cases = cases(code == "frame pointers kept", libunwind.is_some());
        let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-'));
        cases.retain(|case| wanted.as_ref().is_none_or(|w| case.name.contains(w)));
        let figures = cases.iter().map(|c| 1 + c.methods.len()).sum();
        let mut plan =
            Plan { bench, runs: plan(&cases).into_iter(), current: None, times: vec![Vec::new(); figures] };
        // SAFETY: the library defines it, and the functions take the plan, which
        // starts with the bench.
        unsafe { calls::run(thread, (&raw mut plan).cast(), traceshim_bench_capture, next) };
        plan.report(&cases, asked("--median"), asked("--json"), code);
    }
}
