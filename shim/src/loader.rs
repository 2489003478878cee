//! Holding the loader's lock, so that what is loaded stays as it is.
//!
//! The order of locks is the loader's (both of its, in its own order), then the
//! registry's, then those of hooks. Whoever has one takes none that comes
//! earlier: a constructor of the program's runs under the loader's.
#![allow(unsafe_code)]

use crate::signals;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

/// How often something was loaded and unloaded, in all namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) loads: u64,
    pub(crate) unloads: u64,
}

/// Threads that have the loader's lock or are about to. The loader leaves that
/// lock as it is in a forked child, where nobody would ever give it back.
static HOLDING: AtomicU32 = AtomicU32::new(0);
static FORKING: AtomicU32 = AtomicU32::new(0);

struct Held<F, T> {
    run: Option<F>,
    result: Option<Result<T, Box<dyn Any + Send>>>,
}

/// Runs `f` while nothing can be added to or taken from what is loaded. `None`:
/// the loader has no list.
pub(crate) fn hold<T>(f: impl FnOnce(Counts) -> T) -> Option<T> {
    let mut held = Held { run: Some(f), result: None };
    let callback = callback_for(&held);
    let holds = signals::hold();
    while !enter() {
        crate::lock::give_way();
    }
    // SAFETY: the callback is made for this very place.
    unsafe { libc::dl_iterate_phdr(Some(callback), (&raw mut held).cast()) };
    HOLDING.fetch_sub(1, Ordering::SeqCst);
    if holds {
        signals::release();
    }
    match held.result? {
        Ok(result) => Some(result),
        Err(panic) => resume_unwind(panic),
    }
}

fn enter() -> bool {
    HOLDING.fetch_add(1, Ordering::SeqCst);
    let may = FORKING.load(Ordering::SeqCst) == 0;
    if !may {
        HOLDING.fetch_sub(1, Ordering::SeqCst);
    }
    may
}

type Callback = unsafe extern "C" fn(*mut libc::dl_phdr_info, libc::size_t, *mut libc::c_void) -> libc::c_int;

fn callback_for<F: FnOnce(Counts) -> T, T>(_: &Held<F, T>) -> Callback {
    first::<F, T>
}

/// At the first module: the lock is taken, and that is all that is wanted.
unsafe extern "C" fn first<F: FnOnce(Counts) -> T, T>(
    info: *mut libc::dl_phdr_info,
    _: libc::size_t,
    held: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: what `hold` passes, and keeps until this is back.
    let held = unsafe { &mut *held.cast::<Held<F, T>>() };
    // SAFETY: the loader's, with these counters since glibc 2.4.
    let info = unsafe { &*info };
    let counts = Counts { loads: info.dlpi_adds, unloads: info.dlpi_subs };
    // No unwinding through the loader.
    held.result = held.run.take().map(|f| catch_unwind(AssertUnwindSafe(|| f(counts))));
    1
}

/// Before a fork: nobody has the loader's lock on our behalf. One of those who
/// do may be the thread itself, which a signal's handler interrupted, so after
/// so many tries it goes on.
pub(crate) fn keep_free_for_fork(tries: usize) {
    FORKING.fetch_add(1, Ordering::SeqCst);
    for _ in 0..tries {
        if HOLDING.load(Ordering::SeqCst) == 0 {
            return;
        }
        crate::lock::give_way();
    }
}

/// After a fork, in both processes.
pub(crate) fn after_fork() {
    let _ = FORKING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |forks| forks.checked_sub(1));
}

/// In a forked child, at its only thread's first event.
pub(crate) fn forget_others() {
    FORKING.store(0, Ordering::SeqCst);
    HOLDING.store(0, Ordering::SeqCst);
}
