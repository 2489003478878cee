//! The thread's state in static TLS.
//!
//! The initial-exec model costs one load and never calls `__tls_get_addr`,
//! which may allocate. Stable Rust has no way to ask for it, so the variable is
//! made in assembly. A preloaded library is loaded at the program's start, so
//! the space is part of the initial image and no surplus is used up.
//!
//! The word that `fs` points to is its own address. Not so where a clone was made
//! with a thread pointer that is good for nothing (Chromium gives a child's zeros, so
//! that libc doesn't know it): the sum of it and the variable's place, below it, is
//! negative then, and the clone has no state.
#![allow(unsafe_code)]

use crate::signals::Held;
use crate::state::ThreadState;
use std::arch::{asm, global_asm};

global_asm!(
    ".section .tbss, \"awT\", @nobits",
    ".p2align 6",
    ".globl traceshim_thread",
    ".hidden traceshim_thread",
    ".type traceshim_thread, @object",
    ".size traceshim_thread, {size}",
    "traceshim_thread:",
    ".zero {size}",
    ".p2align 3",
    ".hidden traceshim_held",
    ".type traceshim_held, @object",
    ".size traceshim_held, {held}",
    "traceshim_held:",
    ".zero {held}",
    ".text",
    size = const size_of::<ThreadState>(),
    held = const size_of::<Held>(),
);

/// The state of another thread: a `pthread_t` is its thread pointer in glibc,
/// and static TLS lies at the same distance from it in every thread.
pub(crate) fn state_of_thread(thread: u64) -> *const ThreadState {
    let offset: u64;
    // SAFETY: reads the GOT.
    unsafe {
        asm!(
            "mov {offset}, [rip + traceshim_thread@GOTTPOFF]",
            offset = out(reg) offset,
            options(pure, nomem, nostack),
        );
    }
    thread.wrapping_add(offset) as *const ThreadState
}

/// Which signals the calling thread puts off. Apart from the rest of its state,
/// which only one of its handlers may touch at a time. `None`: it has no state.
pub(crate) fn held() -> Option<&'static Held> {
    let at: i64;
    // SAFETY: reads the GOT and the thread pointer.
    unsafe {
        asm!(
            "mov {at}, [rip + traceshim_held@GOTTPOFF]",
            "add {at}, fs:[0]",
            at = out(reg) at,
            options(readonly, nostack),
        );
    }
    // SAFETY: in this thread's static TLS, which is there as long as it runs
    // anything; all of it is atomic.
    (at >= 0).then(|| unsafe { &*(at as *const Held) })
}
