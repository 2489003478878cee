//! A lock that keeps its hands off the thread: parking_lot's own notes waiting
//! threads in thread-local storage with a destructor, and to register one is to
//! wait for the loader's lock, whose owner may be waiting for us. And no handler of
//! the thread runs while it holds one ([`signals`]).
#![allow(unsafe_code)]

use crate::arch;
use crate::hooks::threads::thread_pointer;
use crate::sandbox::{self, Call};
use crate::signals;
use crate::tracer;
use parking_lot::lock_api::{GuardSend, Mutex, RawMutex};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// A mutex over the lock.
pub(crate) type Lock<T> = Mutex<RawLock, T>;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may be asleep.
const WAITED_FOR: u32 = 2;

/// The lock itself.
#[derive(Debug)]
pub(crate) struct RawLock {
    state: AtomicU32,
    /// Whether whoever has it puts off signals.
    holds: AtomicBool,
    /// The thread that has it while it forks, else 0.
    for_fork: AtomicU64,
}

impl RawLock {
    fn try_state(&self) -> bool {
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn wait(&self) {
        if tracer::forked() && tracer::is_another_process() {
            // Whoever had it when a thread forked without libc's knowledge is not here.
            // SAFETY: a child makes threads only after its first event, and then it
            // counts as forked no more.
            unsafe { tracer::forget_others() };
        }
        while self.state.swap(WAITED_FOR, Ordering::Acquire) != FREE {
            if sandbox::allows(&[Call::Futex]) {
                // SAFETY: the word is ours.
                unsafe { futex(&self.state, libc::FUTEX_WAIT, WAITED_FOR) };
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

// SAFETY: only the thread that brings the state from FREE to another one is let
// through, until it sets FREE again.
unsafe impl RawMutex for RawLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait has it so")]
    const INIT: RawLock =
        RawLock { state: AtomicU32::new(FREE), holds: AtomicBool::new(false), for_fork: AtomicU64::new(0) };
    type GuardMarker = GuardSend;

    fn lock(&self) {
        let holds = signals::hold();
        if !self.try_state() {
            self.wait();
        }
        self.holds.store(holds, Ordering::Relaxed);
    }

    fn try_lock(&self) -> bool {
        let holds = signals::hold();
        let is_ours = self.try_state();
        if is_ours {
            self.holds.store(holds, Ordering::Relaxed);
        } else if holds {
            signals::release();
        }
        is_ours
    }

    unsafe fn unlock(&self) {
        let holds = self.holds.load(Ordering::Relaxed);
        if self.state.swap(FREE, Ordering::Release) == WAITED_FOR && sandbox::allows(&[Call::Futex]) {
            // SAFETY: the word is ours; one thread is woken.
            unsafe { futex(&self.state, libc::FUTEX_WAKE, 1) };
        }
        if holds {
            signals::release();
        }
    }

    fn is_locked(&self) -> bool {
        self.state.load(Ordering::Relaxed) != FREE
    }
}

/// # Safety
/// `operation` is one that looks at the word and the value only.
unsafe fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    // Nobody wakes a waiter where a sandbox forbids it in the meantime.
    let timeout = libc::timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let operation = operation | libc::FUTEX_PRIVATE_FLAG;
    let arguments = [word.as_ptr() as u64, operation as u64, value.into(), &raw const timeout as u64, 0, 0];
    // SAFETY: the caller's promise. Past libc, since errno is the program's.
    unsafe { arch::system_call(libc::SYS_futex, arguments) };
}

/// Before a fork: nobody else is half-way through a change. A handler that forks
/// may have interrupted the very thread that holds the lock, so after so many
/// tries it goes on without.
pub(crate) fn lock_for_fork<T>(lock: &Lock<T>, tries: usize) {
    for _ in 0..tries {
        if let Some(guard) = lock.try_lock() {
            std::mem::forget(guard);
            // SAFETY: nothing is done with it but what the lock is for.
            unsafe { lock.raw() }.for_fork.store(thread_pointer(), Ordering::Relaxed);
            return;
        }
        give_way();
    }
}

/// Lets others run for a moment.
pub(crate) fn give_way() {
    if sandbox::allows(&[Call::SchedYield]) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

/// After a fork, in both processes: undoes [`lock_for_fork`].
pub(crate) fn unlock_after_fork<T>(lock: &Lock<T>) {
    // SAFETY: as there.
    let for_fork = &unsafe { lock.raw() }.for_fork;
    if for_fork.compare_exchange(thread_pointer(), 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        // SAFETY: locked by `lock_for_fork`, in this thread.
        unsafe { lock.force_unlock() };
    }
}

/// In a child, at its only thread's first event: whoever held the lock is gone.
/// Returns whether another thread had it. What this one took for the fork, whose
/// handlers aren't all through yet, is undone.
///
/// # Safety
/// The calling thread is the only one.
pub(crate) unsafe fn free_in_child<T>(lock: &Lock<T>) -> bool {
    unlock_after_fork(lock);
    // SAFETY: nobody else is there who could be let through.
    let raw = unsafe { lock.raw() };
    raw.for_fork.store(0, Ordering::Relaxed);
    raw.state.swap(FREE, Ordering::Release) != FREE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::blocked;

    #[test]
    fn a_fork_leaves_no_lock_and_no_signal_behind() {
        static LOCK: Lock<()> = Lock::new(());
        let before = blocked();
        lock_for_fork(&LOCK, 1);
        assert!(LOCK.is_locked() && blocked() != before);
        // Another thread that forks meanwhile, and got none.
        std::thread::spawn(|| unlock_after_fork(&LOCK)).join().unwrap();
        assert!(LOCK.is_locked());
        // An event comes before the handlers are through.
        // SAFETY: no other thread uses the lock.
        assert!(!unsafe { free_in_child(&LOCK) });
        assert!(!LOCK.is_locked() && blocked() == before);
        unlock_after_fork(&LOCK);
        assert_eq!(blocked(), before);

        // What a thread took for a fork of its own that isn't here.
        std::thread::spawn(|| lock_for_fork(&LOCK, 1)).join().unwrap();
        // SAFETY: as above.
        assert!(unsafe { free_in_child(&LOCK) });
        assert!(!LOCK.is_locked() && signals::hold() && blocked() != before);
        signals::release();
        assert_eq!(blocked(), before);
    }
}
