//! Where threads begin: between libc's `start_thread` and the program's start
//! routine. Assembly, so that `pthread_exit` and cancellation, which unwind by
//! force, cross no Rust frame.
#![allow(unsafe_code)]

use super::gate::gate;
use crate::hooks::threads::{on_begin, on_return};
use std::arch::naked_asm;

/// The start routine that libc is given. rdi: a `StartInfo`, whose first two
/// words are the program's start routine and its argument.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn start_stub() {
    naked_asm!(
        ".cfi_startproc",
        "endbr64",
        super::context::enter!(),
        "mov rax, [rdi]",
        "mov [rbp - 24], rax",
        "mov rax, [rdi + 8]",
        "mov [rbp - 16], rax",
        "lea rdi, [rbp - 160]",
        "lea rsi, [rip + {begin}]",
        "xor edx, edx",
        "call {gate}",
        "mov rdi, [rbp - 16]",
        "call qword ptr [rbp - 24]",
        "mov [rbp - 40], rax",
        "lea rdi, [rbp - 160]",
        "lea rsi, [rip + {end}]",
        "xor edx, edx",
        "call {gate}",
        "mov rax, [rbp - 40]",
        "leave",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        frame = const 160,
        begin = sym on_begin,
        end = sym on_return,
        gate = sym gate,
    )
}
