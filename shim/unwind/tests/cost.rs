#![allow(unsafe_code)]
//! What a capture may not cost: an allocation, or more stack than promised.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use traceshim_unwind::{Capturer, FramePointers, ModuleSet, Outcome, Policy, Regs, StackBounds, StackStatus};

struct Counting;
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A capture, its stack's bounds, and what is found out about it.
struct Job {
    set: ModuleSet,
    capturer: Box<Capturer>,
    bounds: (u64, u64),
    out: Vec<u64>,
    outcomes: [Option<Outcome>; 4],
    allocations: usize,
    start: u64,
}

support::stub::capture_stub!("traceshim_test_cost", captures);

unsafe extern "C" {
    fn traceshim_test_cost(job: *mut c_void);
}

unsafe extern "C" fn captures(job: *mut c_void, regs: *const Regs) {
    // SAFETY: the thread below passes its job, which nothing else uses meanwhile.
    let job = unsafe { &mut *job.cast::<Job>() };
    // SAFETY: the stub above passes the registers that it has stored.
    let regs = unsafe { *regs };
    job.start = (&raw const job).addr() as u64;
    // SAFETY: the thread runs on this stack.
    let mem = unsafe { StackBounds::new(job.bounds.0, job.bounds.1) };
    let policies = [Policy::Table, Policy::Table, Policy::Auto { c_on_stack: false }, Policy::FramePointer];
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for (policy, outcome) in policies.into_iter().zip(&mut job.outcomes) {
        *outcome = Some(job.capturer.capture(&job.set, &mem, &regs, false, policy, &mut job.out));
    }
    job.allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
}

extern "C" fn thread(job: *mut c_void) -> *mut c_void {
    // SAFETY: the stub calls `captures` with the job.
    unsafe { traceshim_test_cost(job) };
    std::ptr::null_mut()
}

#[test]
fn a_capture_neither_allocates_nor_uses_much_stack() {
    const STACK: usize = 1 << 18;
    let mut stack = vec![0u128; STACK / 16];
    let lo = stack.as_mut_ptr();
    let mut job = Job {
        set: ModuleSet::new(support::modules(FramePointers::Detect), 1),
        capturer: Capturer::boxed(),
        bounds: (lo.addr() as u64, (lo.addr() + STACK) as u64),
        out: vec![0; 64],
        outcomes: [None; 4],
        allocations: 0,
        start: 0,
    };
    // One sequence of calls, for one reason.
    // SAFETY: a thread on a stack that outlives it, with the contract's types.
    #[allow(clippy::multiple_unsafe_ops_per_block)]
    unsafe {
        let mut attr: libc::pthread_attr_t = std::mem::zeroed();
        let mut id = 0;
        libc::pthread_attr_init(&mut attr);
        assert_eq!(libc::pthread_attr_setstack(&mut attr, lo.cast(), STACK), 0);
        assert_eq!(libc::pthread_create(&mut id, &attr, thread, (&raw mut job).cast()), 0);
        libc::pthread_join(id, std::ptr::null_mut());
    }
    let untouched = stack.iter().take_while(|w| **w == 0).count() * 16;
    let used = (job.start - lo.addr() as u64) as usize - untouched;
    println!("a capturer is {} bytes; captures used {used} bytes of stack", size_of::<Capturer>());
    let status = job.outcomes.map(|o| o.expect("captured").status);
    assert_eq!(status[..3], [StackStatus::Complete; 3]);
    assert_eq!(job.allocations, 0);
    // The shim gives a capture 16 KB. (`Cargo.toml` has what keeps a debug build below.)
    assert!(used < 12 << 10, "{used}");
}
