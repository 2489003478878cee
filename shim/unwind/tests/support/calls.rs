//! What `tests/c/calls.c` is asked for.

use std::ffi::{c_int, c_long, c_ulong, c_void};

/// As in `tests/c/calls.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub(crate) callback: unsafe extern "C" fn(*mut c_void),
    pub(crate) next: unsafe extern "C" fn(*mut c_void, *mut Job) -> c_int,
    pub(crate) argument: *mut c_void,
    pub(crate) depth: c_long,
    pub(crate) stacks: c_long,
    pub(crate) split: c_long,
    pub(crate) events: c_long,
    pub(crate) seed: c_ulong,
    inner: c_ulong,
    outer: c_ulong,
    sum: c_long,
}

/// Frames beside the calls that a job's depth counts: `run_job`, `thread`,
/// `start_thread`, `clone3`.
pub(crate) const AROUND: c_long = 4;

/// Runs the jobs that `next` gives, on a thread whose every frame is C.
///
/// # Safety
/// `thread` is the function of that name in `calls.c`, and `callback` and `next`
/// may be called with `argument`.
#[allow(unsafe_code)]
pub(crate) unsafe fn run(
    thread: *mut c_void,
    argument: *mut c_void,
    callback: unsafe extern "C" fn(*mut c_void),
    next: unsafe extern "C" fn(*mut c_void, *mut Job) -> c_int,
) {
    let mut job = Job {
        callback,
        next,
        argument,
        depth: 0,
        stacks: 0,
        split: 0,
        events: 0,
        seed: 0,
        inner: 0,
        outer: 0,
        sum: 0,
    };
    let mut id = 0;
    // SAFETY: the caller's promise about `thread`.
    let thread =
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void) -> *mut c_void>(thread) };
    // SAFETY: the thread gets the job that it expects.
    let made = unsafe { libc::pthread_create(&mut id, std::ptr::null(), thread, (&raw mut job).cast()) };
    assert_eq!(made, 0, "a thread");
    // SAFETY: the thread was made, and the job outlives it.
    unsafe { libc::pthread_join(id, std::ptr::null_mut()) };
}
