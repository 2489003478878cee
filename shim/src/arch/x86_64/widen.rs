//! More stack arguments than every trampoline copies.
//!
//! For a function that takes so many, this stands between its trampoline and
//! it: called by the trampoline with all arguments in place, it copies the
//! caller's stack arguments once more, as many as the function takes, and
//! calls. The others pay nothing for it.
#![allow(unsafe_code)]

use super::trampoline::{STUBS, retarget};
use crate::state::ThreadState;
use std::arch::naked_asm;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

/// Each function's address, and how many words it takes in the upper 16 bits.
static WIDE: [AtomicU64; STUBS] = [const { AtomicU64::new(0) }; STUBS];

/// Has stub `n` pass on to `target` with that many words of stack arguments.
pub(crate) fn retarget_wide(n: u16, target: u64, words: u16) {
    if let Some(slot) = WIDE.get(usize::from(n)) {
        slot.store(target | u64::from(words) << 48, Ordering::Release);
        retarget(n, widen as *const () as u64);
    }
}

#[unsafe(naked)]
unsafe extern "C" fn widen() {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "sub rsp, 48",
        "mov [rbp - 8], rdi",
        "mov [rbp - 16], rsi",
        "mov [rbp - 24], rcx",
        "mov [rbp - 32], rax",
        // The trampoline's frame, and in it the hook.
        "mov rsi, [rbp]",
        "movzx eax, word ptr [rsi - 56]",
        "lea rcx, [rip + {wide}]",
        "mov rax, [rcx + rax * 8]",
        "mov rcx, rax",
        "shr rcx, 48",
        "shl rax, 16",
        "shr rax, 16",
        "mov [rbp - 40], rax",
        // What its caller passed; on the thread's own stack never from above it.
        "add rsi, 16",
        "mov rdi, [rip + traceshim_thread@GOTTPOFF]",
        "add rdi, fs:[0]",
        "mov rax, [rdi + {hi}]",
        "sub rax, rsi",
        "jb 1f",
        "cmp rsi, [rdi + {lo}]",
        "jb 1f",
        "shr rax, 3",
        "cmp rcx, rax",
        "cmova rcx, rax",
        "1:",
        // Room of the same alignment, each page of it touched from above: a
        // guard below the stack must not be stepped over.
        "lea rax, [rcx * 8]",
        "mov rdi, rsp",
        "sub rdi, rax",
        "mov eax, edi",
        "sub eax, esi",
        "and eax, 63",
        "sub rdi, rax",
        "mov rax, rsp",
        "2:",
        "sub rax, 4096",
        "cmp rax, rdi",
        "jb 3f",
        "or qword ptr [rax], 0",
        "jmp 2b",
        "3:",
        "mov rsp, rdi",
        "rep movsq",
        "mov rdi, [rbp - 8]",
        "mov rsi, [rbp - 16]",
        "mov rcx, [rbp - 24]",
        "mov rax, [rbp - 32]",
        "call [rbp - 40]",
        "leave",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        wide = sym WIDE,
        lo = const offset_of!(ThreadState, stack_lo),
        hi = const offset_of!(ThreadState, stack_hi),
    )
}
