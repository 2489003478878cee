//! The shell: stands between a patched function's entry and its trampoline.
//!
//! Trampolines clobber what any function may. But who calls a function through
//! no slot may be compiled together with it: compilers then keep values in
//! registers that this one function happens to leave alone (gcc's `-fipa-ra`),
//! and leave the stack unaligned where it doesn't matter to it. So the shell
//! puts every such register back, and aligns the stack.
//!
//! ```text
//!   caller's stack arguments     rbp + 16 ...
//!   return address to the caller rbp + 8
//!   caller's rbp                 rbp
//!   caller's r11                 rbp - 8, from the thunk
//!   registers                    rbp - 112
//!   copied stack arguments       rsp = rbp - 368
//! ```
//!
//! 368 + 16 is a multiple of 64: over-aligned stack arguments keep their
//! alignment.
#![allow(unsafe_code)]

use super::trampoline::TARGETS;
use crate::arguments::COPIED;
use crate::sandbox::{Call, FORBIDDEN};
use crate::state::ThreadState;
use std::arch::naked_asm;
use std::mem::offset_of;

/// The shell's address. r11: the trampoline's stub.
pub(crate) fn shell() -> u64 {
    enter_shell as *const () as u64
}

#[unsafe(naked)]
unsafe extern "C" fn enter_shell() {
    naked_asm!(
        ".cfi_startproc",
        "endbr64",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "sub rsp, 368",
        "and rsp, -16",
        "mov [rbp - 16], rcx",
        "mov [rbp - 24], rdi",
        "mov [rbp - 32], rsi",
        "mov [rbp - 40], r8",
        "mov [rbp - 48], r9",
        "mov [rbp - 56], r10",
        "mov [rbp - 64], rax",
        "mov [rbp - 72], r11",
        "mov [rbp - 80], rdx",
        // Trampolines copy through these two, and use no others.
        "movups [rbp - 96], xmm9",
        "movups [rbp - 112], xmm8",
        // The caller's stack arguments, so far as there is stack to read: all
        // of it is there on the thread's own, and within a page.
        "lea rsi, [rbp + 16]",
        "lea rdx, [rbp + 16 + {words} * 8 - 1]",
        "mov rax, rdx",
        "xor rax, rsi",
        "test rax, -4096",
        "jz 2f",
        "mov rax, [rip + traceshim_thread@GOTTPOFF]",
        "add rax, fs:[0]",
        "js 1f",
        "cmp rsi, [rax + {lo}]",
        "jb 1f",
        "cmp rdx, [rax + {hi}]",
        "jb 2f",
        // Can the next page be read? Where asking is forbidden, the function is
        // called as if we weren't there.
        "1:",
        "cmp dword ptr [rip + {forbidden} + {asking} * 4], 0",
        "jne 4f",
        "mov rsi, rdx",
        "and rsi, -4096",
        super::readable::ask!(),
        "mov r10, [rbp - 56]",
        "cmp eax, {is_readable}",
        "je 2f",
        "mov rcx, rsi",
        "lea rsi, [rbp + 16]",
        "sub rcx, rsi",
        "shr rcx, 3",
        "mov rdi, rsp",
        "rep movsq",
        "jmp 3f",
        "2:",
        ".set traceshim_word, 0",
        ".rept {words} / 2",
        "movups xmm8, [rbp + 16 + traceshim_word]",
        "movups [rsp + traceshim_word], xmm8",
        ".set traceshim_word, traceshim_word + 16",
        ".endr",
        "movups xmm8, [rbp - 112]",
        "3:",
        "mov rcx, [rbp - 16]",
        "mov rdi, [rbp - 24]",
        "mov rsi, [rbp - 32]",
        "mov r8, [rbp - 40]",
        "mov rax, [rbp - 64]",
        "mov r11, [rbp - 72]",
        "mov rdx, [rbp - 80]",
        "call r11",
        ".globl traceshim_shell_return",
        ".hidden traceshim_shell_return",
        "traceshim_shell_return:",
        // All but the results as before: a function that changes others has
        // no caller that minds.
        "mov rcx, [rbp - 16]",
        "mov rdi, [rbp - 24]",
        "mov rsi, [rbp - 32]",
        "mov r8, [rbp - 40]",
        "mov r9, [rbp - 48]",
        "mov r10, [rbp - 56]",
        "mov r11, [rbp - 8]",
        "movups xmm9, [rbp - 96]",
        "movups xmm8, [rbp - 112]",
        "leave",
        ".cfi_remember_state",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_restore_state",
        // r11 holds the stub. Every register is the caller's again, and where to
        // jump is below the stack, in the part that no signal's handler uses.
        "4:",
        "mov rax, [rip + traceshim_thread@GOTTPOFF]",
        "add rax, fs:[0]",
        "js 5f",
        "inc qword ptr [rax + {reentered}]",
        "mov qword ptr [rax + {armed}], 0",
        "5:",
        "lea rax, [rip + traceshim_stubs]",
        "sub r11, rax",
        "shr r11, 4",
        super::widen::function!(),
        "mov [rbp - 120], rax",
        "mov rcx, [rbp - 16]",
        "mov rdi, [rbp - 24]",
        "mov rsi, [rbp - 32]",
        "mov rax, [rbp - 64]",
        "mov rdx, [rbp - 80]",
        "mov r11, [rbp - 8]",
        "mov rsp, rbp",
        "mov rbp, [rbp]",
        ".cfi_def_cfa rsp, 16",
        "add rsp, 8",
        ".cfi_def_cfa rsp, 8",
        "jmp qword ptr [rsp - 128]",
        ".cfi_endproc",
        words = const COPIED,
        is_readable = const super::readable::IS,
        reentered = const offset_of!(ThreadState, reentered),
        armed = const offset_of!(ThreadState, armed),
        forbidden = sym FORBIDDEN,
        asking = const Call::RtSigprocmask as usize,
        targets = sym TARGETS,
        widen = sym super::widen::widen,
        wide = sym super::widen::WIDE,
        lo = const offset_of!(ThreadState, stack_lo),
        hi = const offset_of!(ThreadState, stack_hi),
    )
}
