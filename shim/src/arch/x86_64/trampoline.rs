//! Trampolines: a static pool of stubs, and what they share.
//!
//! A stub stands in a caller's slot in the host function's place. It calls
//! through, in a frame of its own with true CFI, and never touches a return
//! address: exceptions, `pthread_exit`, longjmp and debuggers all cross it.
//!
//! ```text
//!   caller's stack arguments     rbp + 16 ...
//!   return address to the caller rbp + 8
//!   caller's rbp                 rbp
//!   Context                      rbp - 160
//!   spare                        rbp - 176
//!   copied stack arguments       rsp = rbp - 432
//! ```
//!
//! Before they are copied, and after the call, xmm0 to xmm7 are kept where the
//! stack arguments go. 432 + 16 is a multiple of 64, so that over-aligned stack
//! arguments keep their alignment.
#![allow(unsafe_code)]

use super::gate::gate;
use crate::callbacks::{on_enter, on_exit};
use crate::fast;
use crate::state::ThreadState;
use std::arch::{global_asm, naked_asm};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many functions can be hooked.
pub(crate) const STUBS: usize = 8192;
/// Bytes of a trampoline's frame below its saved rbp.
pub(super) const FRAME: usize = 432;
/// Words of stack arguments that are copied: 38 integer arguments in all.
const STACK_WORDS: usize = 32;

/// Where each stub goes on.
static TARGETS: [AtomicU64; STUBS] = [const { AtomicU64::new(0) }; STUBS];

unsafe extern "C" {
    #[link_name = "traceshim_stubs"]
    static STUB_0: [u8; 16];
    #[link_name = "traceshim_return"]
    static RETURN: u8;
}

// Each stub is 16 bytes; its number follows from its address, which the
// shared part works out from r11.
global_asm!(
    ".text",
    ".p2align 6",
    ".globl traceshim_stubs",
    ".hidden traceshim_stubs",
    ".type traceshim_stubs, @function",
    "traceshim_stubs:",
    ".cfi_startproc",
    ".rept {stubs}",
    ".p2align 4, 0xcc",
    "endbr64",
    "lea r11, [rip - 11]",
    "jmp {common}",
    ".endr",
    ".p2align 4, 0xcc",
    ".cfi_endproc",
    ".size traceshim_stubs, . - traceshim_stubs",
    stubs = const STUBS,
    common = sym common,
);

/// The address of stub `n`.
pub(crate) fn stub(n: u16) -> Option<u64> {
    if usize::from(n) >= STUBS {
        return None;
    }
    Some(&raw const STUB_0 as u64 + u64::from(n) * 16)
}

/// Whether `address` is where a target returns to.
#[inline(always)]
pub(super) fn is_return(address: u64) -> bool {
    address == &raw const RETURN as u64
}

/// Whether `address` is a stub's.
pub(crate) fn is_stub(address: u64) -> bool {
    address.wrapping_sub(&raw const STUB_0 as u64) < STUBS as u64 * 16
}

/// Sets where stub `n` goes on.
pub(crate) fn retarget(n: u16, target: u64) {
    if let Some(slot) = TARGETS.get(usize::from(n)) {
        slot.store(target, Ordering::Release);
    }
}

#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        ".cfi_startproc",
        super::context::enter!(),
        "lea rax, [rip + traceshim_stubs]",
        "sub r11, rax",
        "shr r11, 4",
        "mov [rbp - 56], r11",
        "movaps [rbp - 432], xmm0",
        "movaps [rbp - 416], xmm1",
        "movaps [rbp - 400], xmm2",
        "movaps [rbp - 384], xmm3",
        "movaps [rbp - 368], xmm4",
        "movaps [rbp - 352], xmm5",
        "movaps [rbp - 336], xmm6",
        "movaps [rbp - 320], xmm7",
        "lea rdi, [rbp - 160]",
        "mov rsi, [rip + traceshim_thread@GOTTPOFF]",
        "add rsi, fs:[0]",
        "call {fast_enter}",
        // The upper parts of wider registers are as they were: neither the fast
        // path nor these loads touch them.
        "movaps xmm0, [rbp - 432]",
        "movaps xmm1, [rbp - 416]",
        "movaps xmm2, [rbp - 400]",
        "movaps xmm3, [rbp - 384]",
        "movaps xmm4, [rbp - 368]",
        "movaps xmm5, [rbp - 352]",
        "movaps xmm6, [rbp - 336]",
        "movaps xmm7, [rbp - 320]",
        "test eax, eax",
        "jnz 1f",
        "lea rdi, [rbp - 160]",
        "lea rsi, [rip + {enter}]",
        "mov edx, 1",
        "call {gate}",
        "1:",
        // The caller's stack arguments, if it passed any: as many words as a
        // function may have, so far as there is stack to read.
        "lea rsi, [rbp + 16]",
        "mov ecx, {words}",
        "lea rdx, [rsi + {last_byte}]",
        "mov rax, rdx",
        "xor rax, rsi",
        "test rax, -4096",
        "jz 3f",
        "mov r8, [rip + traceshim_thread@GOTTPOFF]",
        "add r8, fs:[0]",
        "cmp rsi, [r8 + {lo}]",
        "jb 2f",
        "cmp rdx, [r8 + {hi}]",
        "jb 3f",
        // Not the thread's own stack, and the words go beyond a page: is the
        // next page there? mincore says so without touching it.
        "2:",
        "mov r9, rsi",
        "mov rdi, rdx",
        "and rdi, -4096",
        "mov r8, rdi",
        "mov esi, 1",
        "lea rdx, [rbp - 176]",
        "mov eax, 27",
        "syscall",
        "mov rsi, r9",
        "mov ecx, {words}",
        "test rax, rax",
        "jns 3f",
        "mov rcx, r8",
        "sub rcx, rsi",
        "shr rcx, 3",
        "3:",
        "mov rdi, rsp",
        "cmp ecx, {words}",
        "jne 5f",
        "xor eax, eax",
        "4:",
        "movups xmm8, [rsi + rax]",
        "movups xmm9, [rsi + rax + 16]",
        "movaps [rdi + rax], xmm8",
        "movaps [rdi + rax + 16], xmm9",
        "add eax, 32",
        "cmp eax, {words} * 8",
        "jne 4b",
        "jmp 6f",
        "5:",
        "rep movsq",
        "6:",
        super::context::reload!(),
        "mov r11, [rbp - 56]",
        "lea rax, [rip + {targets}]",
        "mov r11, [rax + r11 * 8]",
        "mov rax, [rbp - 160]",
        "call r11",
        ".globl traceshim_return",
        ".hidden traceshim_return",
        "traceshim_return:",
        "mov [rbp - 40], rax",
        "mov [rbp - 32], rdx",
        "cmp qword ptr [rbp - 48], 0",
        "je 7f",
        "movaps [rbp - 432], xmm0",
        "movaps [rbp - 416], xmm1",
        "lea rdi, [rbp - 160]",
        "mov rsi, [rip + traceshim_thread@GOTTPOFF]",
        "add rsi, fs:[0]",
        "call {fast_exit}",
        "movaps xmm0, [rbp - 432]",
        "movaps xmm1, [rbp - 416]",
        "test eax, eax",
        "jnz 8f",
        "lea rdi, [rbp - 160]",
        "lea rsi, [rip + {exit}]",
        "mov edx, 1",
        "call {gate}",
        "8:",
        "mov rax, [rbp - 40]",
        "mov rdx, [rbp - 32]",
        "7:",
        "leave",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        frame = const FRAME,
        fast_enter = sym fast::enter,
        fast_exit = sym fast::exit,
        words = const STACK_WORDS,
        last_byte = const STACK_WORDS * 8 - 1,
        lo = const offset_of!(ThreadState, stack_lo),
        hi = const offset_of!(ThreadState, stack_hi),
        targets = sym TARGETS,
        enter = sym on_enter,
        exit = sym on_exit,
        gate = sym gate,
    )
}
