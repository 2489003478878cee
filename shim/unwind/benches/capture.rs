#![allow(unsafe_code)]
//! Captures on hot, mixed, changing and cold stacks, against the bare walk of
//! frame pointers, framehop, libunwind and glibc's `backtrace()`.
//!
//! All methods take turns in one run on one processor, over the same random
//! call trees in C; what the calls alone cost is subtracted. Figures are
//! minima, or medians with `--median`. `--json` prints a line per comparison.

#[path = "../tests/support/mod.rs"]
mod support;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, MustNotAllocateDuringUnwind, Unwinder};
use std::ffi::{c_int, c_long, c_ulong, c_void};
use std::hint::black_box;
use std::time::Instant;
use support::{Library, compile, output, source};
use traceshim_unwind::{Capturer, FramePointers, ModuleSet, Policy, Regs, Section, StackBounds, StackMemory};

#[repr(C)]
struct Job {
    callback: unsafe extern "C" fn(*mut c_void),
    start: extern "C" fn(*mut c_void),
    argument: *mut c_void,
    depth: c_long,
    stacks: c_long,
    split: c_long,
    events: c_long,
    seed: c_ulong,
    inner: c_ulong,
    outer: c_ulong,
    sum: c_long,
}

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
    misses: u64,
    run: extern "C" fn(*mut Job),
    median: bool,
    json: bool,
    code: &'static str,
}

std::arch::global_asm!(
    ".globl traceshim_bench_capture",
    ".type traceshim_bench_capture,@function",
    "traceshim_bench_capture:",
    ".cfi_startproc",
    "sub rsp, 72",
    ".cfi_adjust_cfa_offset 72",
    "mov rax, [rsp + 72]",
    "mov [rsp], rax",
    "lea rax, [rsp + 80]",
    "mov [rsp + 8], rax",
    "mov [rsp + 16], rbp",
    "mov [rsp + 24], rbx",
    "mov [rsp + 32], r12",
    "mov [rsp + 40], r13",
    "mov [rsp + 48], r14",
    "mov [rsp + 56], r15",
    "mov rsi, rsp",
    "call {to}",
    "add rsp, 72",
    ".cfi_adjust_cfa_offset -72",
    "ret",
    ".cfi_endproc",
    ".size traceshim_bench_capture, . - traceshim_bench_capture",
    to = sym capture,
);

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
            let known = b.capturer.lookup(b.set.generation(), &b.bounds, regs, false, Policy::Table, ROOM);
            match known {
                Some(id) => u64::from(black_box(id) != u32::MAX),
                None => {
                    b.misses += 1;
                    let o = b.capturer.capture(&b.set, &b.bounds, regs, false, Policy::Table, &mut b.out);
                    b.next_id += 1;
                    b.capturer.remember(b.next_id);
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

impl Bench {
    /// Nanoseconds an event, of one run.
    fn once(&mut self, method: Method, job: &Job, seed: u64) -> f64 {
        self.method = method;
        self.frames = 0;
        let mut job = Job { seed, argument: std::ptr::from_mut(self).cast(), ..*job };
        let run = self.run;
        let start = Instant::now();
        run(&mut job);
        start.elapsed().as_nanos() as f64 / job.events as f64
    }

    /// The figures of some methods on one kind of stack, without the calls.
    fn measure(&mut self, methods: &[Method], job: &Job, repeats: usize) -> Vec<f64> {
        let mut times = vec![Vec::new(); methods.len() + 1];
        for repeat in 0..repeats {
            for (i, &method) in [Method::Nothing].iter().chain(methods).enumerate() {
                let events = match method {
                    Method::Glibc => job.events.min(200),
                    Method::OursCold | Method::FramehopCold => 40,
                    _ => job.events,
                };
                if method == Method::OursCold {
                    self.cold = (0..40).map(|_| Capturer::boxed()).collect();
                }
                if method == Method::FramehopCold {
                    self.cold_caches = (0..40).map(|_| Cache::new_in()).collect();
                }
                let seed = repeat as u64 * 77 + 5;
                times[i].push(self.once(method, &Job { events, ..*job }, seed));
            }
        }
        for t in &mut times {
            t.sort_by(f64::total_cmp);
        }
        let median = self.median;
        let pick = |t: &Vec<f64>| if median { t[t.len() / 2] } else { t[0] };
        let nothing = pick(&times[0]);
        times[1..].iter().map(|t| (pick(t) - nothing).max(0.1)).collect()
    }

    fn report(&self, bench: &str, ours: f64, against: &str, theirs: f64) {
        let ratio = ours / theirs;
        if self.json {
            println!(
                "{{\"bench\":\"{bench}\",\"code\":\"{}\",\"ours_ns\":{ours:.1},\"against\":\"{against}\",\"theirs_ns\":{theirs:.1},\"ratio\":{ratio:.3}}}",
                self.code
            );
        } else {
            println!(
                "{bench:20} {:22} {ours:9.1} ns   {against:14} {theirs:9.1} ns   {ratio:6.2}",
                self.code
            );
        }
    }

    fn suite(&mut self) {
        let frame_pointers = self.code == "frame pointers kept";
        let job = Job {
            callback: traceshim_bench_capture,
            start: on_thread,
            argument: std::ptr::null_mut(),
            depth: 1,
            stacks: 1,
            split: 0,
            events: 1,
            seed: 0,
            inner: 0,
            outer: 0,
            sum: 0,
        };
        // The frames around those that the depth counts.
        self.once(Method::OursWalk, &job, 1);
        let around = self.frames as c_long - 1;
        for frames in [8, 32, 128] {
            let job = Job { depth: frames - around, events: 1_000_000 / (frames + 60) as c_long, ..job };
            self.once(Method::OursWalk, &Job { events: 1, ..job }, 1);
            assert_eq!(self.frames, frames as u64, "the stacks have the stated depth");
            let cases = [
                ("hot", Job { stacks: 1, ..job }, Method::Ours),
                ("mixed", Job { stacks: 64, ..job }, Method::Ours),
                ("leaf", Job { stacks: 100_000, split: 2.min(job.depth), ..job }, Method::Ours),
                ("miss", Job { stacks: 100_000, ..job }, Method::OursWalk),
            ];
            for (name, job, ours) in cases {
                let mut methods = vec![ours, Method::Framehop, Method::Glibc];
                let mut names = vec!["", "framehop", "backtrace"];
                if frame_pointers {
                    methods.push(Method::FramePointer);
                    names.push("frame-pointer");
                }
                if self.libunwind.is_some() {
                    methods.push(Method::Libunwind);
                    names.push("libunwind");
                }
                // Learn first; a capture that missed the memo isn't part of hot stacks.
                self.once(ours, &job, 5);
                self.misses = 0;
                let figures = self.measure(&methods, &job, 15);
                let bench = format!("capture/{name}/{frames}");
                for (name, theirs) in names.iter().zip(&figures).skip(1) {
                    self.report(&bench, figures[0], name, *theirs);
                }
            }
            let figures =
                self.measure(&[Method::OursCold, Method::FramehopCold], &Job { stacks: 1, ..job }, 15);
            self.report(&format!("capture/cold/{frames}"), figures[0], "framehop", figures[1]);
        }
    }
}

extern "C" fn on_thread(bench: *mut c_void) {
    // SAFETY: the thread is given the bench, and nothing else uses it until the thread ends.
    let bench = unsafe { &mut *bench.cast::<Bench>() };
    bench.bounds = support::whole_stack();
    bench.suite();
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
        let library = Library::open(&path);
        let run = library.get("run_job").expect("run_job");
        let thread = library.get("thread").expect("thread");
        let set = ModuleSet::new(support::modules(FramePointers::Ignore), 1);
        let mut bench = Bench {
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
            misses: 0,
            // SAFETY: `calls.c` defines it so.
            run: unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut Job)>(run) },
            median: asked("--median"),
            json: asked("--json"),
            code,
        };
        let mut job = Job {
            callback: traceshim_bench_capture,
            start: on_thread,
            argument: (&raw mut bench).cast(),
            depth: 0,
            stacks: 0,
            split: 0,
            events: 0,
            seed: 0,
            inner: 0,
            outer: 0,
            sum: 0,
        };
        // SAFETY: `calls.c` defines it so.
        let thread =
            unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void) -> *mut c_void>(thread) };
        // SAFETY: the thread gets what it expects, and is waited for.
        #[allow(clippy::multiple_unsafe_ops_per_block)]
        unsafe {
            let mut id = 0;
            libc::pthread_create(&mut id, std::ptr::null(), thread, (&raw mut job).cast());
            libc::pthread_join(id, std::ptr::null_mut());
        }
    }
}
