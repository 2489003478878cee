//! The thread's state in static TLS.
//!
//! The initial-exec model costs one load and never calls `__tls_get_addr`,
//! which may allocate. Stable Rust has no way to ask for it, so the variable is
//! made in assembly. A preloaded library is loaded at the program's start, so
//! the space is part of the initial image and no surplus is used up.
#![allow(unsafe_code)]

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
    ".text",
    size = const size_of::<ThreadState>(),
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
