//! No handler runs while something of ours is locked: it might jump away
//! (`longjmp`, `pthread_exit`, cancellation, whose signal libc lets nobody block)
//! and leave it locked for good, half-way through a change; or wait, in a call of
//! its own, for what its own thread holds.
#![allow(unsafe_code)]

use crate::arch;
use crate::sandbox::{self, Call};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The kernel's signal set: bit n - 1 is for signal n.
type Signals = u64;

/// What a thread holds back, in its static TLS. All zero is valid: nothing.
#[repr(C)]
pub(crate) struct Held {
    /// What was blocked before.
    before: AtomicU64,
    /// How many times it is to be [`release`]d.
    times: AtomicU32,
}

/// All but those that an instruction of the thread itself raises: where one of
/// them is blocked, the kernel ends the process.
pub(crate) static PUT_OFF: Signals = !(bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGFPE)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGSYS));

const fn bit(signal: libc::c_int) -> Signals {
    1 << (signal - 1)
}

/// Puts the calling thread's signals off until it [`release`]s them; the two nest.
/// Returns whether there is anything to release: not where a sandbox forbids it, nor
/// in a clone without a state.
pub(crate) fn hold() -> bool {
    if !sandbox::allows(&[Call::RtSigprocmask]) {
        return false;
    }
    // A handler that comes before the call leaves the count as it found it, or
    // zero, if it jumps away; behind the call there is none.
    let Some(held) = arch::held() else { return false };
    if held.times.load(Ordering::Relaxed) == 0 {
        set_mask(libc::SIG_BLOCK, &raw const PUT_OFF, held.before.as_ptr());
    }
    held.times.fetch_add(1, Ordering::Relaxed);
    true
}

/// After a [`hold`] that returned true.
pub(crate) fn release() {
    let Some(held) = arch::held() else { return };
    if held.times.fetch_sub(1, Ordering::Relaxed) == 1 && sandbox::allows(&[Call::RtSigprocmask]) {
        set_mask(libc::SIG_SETMASK, held.before.as_ptr(), std::ptr::null_mut());
    }
}

/// The system call: libc's functions leave its own signals alone.
fn set_mask(how: libc::c_int, new: *const Signals, old: *mut Signals) {
    let arguments = [how as u64, new as u64, old as u64, size_of::<Signals>() as u64, 0, 0];
    // SAFETY: two valid places for a set, or none. It can't fail.
    unsafe { arch::system_call(libc::SYS_rt_sigprocmask, arguments) };
}

/// What is blocked in the calling thread.
#[cfg(test)]
pub(crate) fn blocked() -> Signals {
    let mut now = 0;
    set_mask(libc::SIG_BLOCK, std::ptr::null(), &raw mut now);
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_put_off_until_the_last_release() {
        let before = blocked();
        assert!(hold() && hold());
        assert_eq!(blocked(), before | PUT_OFF & !(bit(libc::SIGKILL) | bit(libc::SIGSTOP)));
        release();
        assert_ne!(blocked(), before);
        release();
        assert_eq!(blocked(), before);
    }
}
