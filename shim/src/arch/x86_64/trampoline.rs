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
//!   the caller's xmm8 and xmm9   rbp - 208
//!   copied stack arguments       rsp = rbp - 496
//! ```
//!
//! 496 + 16 is a multiple of 64, so that over-aligned stack arguments keep their
//! alignment.
//!
//! Almost every callback is recorded right here (see [`crate::fast`] for what
//! that rests on), in registers that are stored anyway, and in xmm8 and xmm9,
//! which no argument is in; what is wider than 16 bytes isn't touched. The rest
//! is out of line, behind the gate.
#![allow(unsafe_code)]

use super::gate::gate;
use crate::arguments::COPIED;
use crate::block::{Block, SHADOW_LEN, Shadow};
use crate::callbacks::{on_enter, on_exit};
use crate::sandbox::{Call, FORBIDDEN};
use crate::state::ThreadState;
use crate::tracer::PULSE;
use std::arch::{global_asm, naked_asm};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};
use traceshim_ring::layout::{CHUNK_BYTES, CHUNK_COMMITTED, CHUNK_END_WORDS, header, ledger};
use traceshim_ring::record::{Head, kind};
use traceshim_ring::ring::Cursor;
use traceshim_unwind::find_remembered;

/// How many functions can be hooked.
pub(crate) const STUBS: usize = 8192;
/// Bytes of a trampoline's frame below its saved rbp.
pub(super) const FRAME: usize = 496;

/// Where each stub goes on.
pub(super) static TARGETS: [AtomicU64; STUBS] = [const { AtomicU64::new(0) }; STUBS];

unsafe extern "C" {
    #[link_name = "traceshim_stubs"]
    static STUB_0: [u8; 16];
    #[link_name = "traceshim_trampoline_end"]
    static END: u8;
}

// Each stub is 16 bytes, and passes its number in r11.
global_asm!(
    ".text",
    ".p2align 6",
    ".globl traceshim_stubs",
    ".hidden traceshim_stubs",
    ".type traceshim_stubs, @function",
    "traceshim_stubs:",
    ".cfi_startproc",
    ".set traceshim_stub_number, 0",
    ".rept {stubs}",
    ".p2align 4, 0xcc",
    "endbr64",
    "mov r11d, traceshim_stub_number",
    "jmp {common}",
    ".set traceshim_stub_number, traceshim_stub_number + 1",
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

/// Whether `address`, which was pushed right below a trampoline's frame, shows
/// that the frame is in use: the trampoline's target returns there, or what it
/// calls itself before and afterwards.
#[inline(always)]
pub(super) fn is_return(address: u64) -> bool {
    (common as *const () as u64..&raw const END as u64).contains(&address)
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

/// The first word of an enter's and of an exit's record, less hook and time.
const ENTER: u64 = Head { kind: kind::CALLBACK_ENTER, len: 2, arg: 0, delta: 0 }.word();
const EXIT: u64 = Head { kind: kind::CALLBACK_EXIT, len: 1, arg: 0, delta: 0 }.word();

/// Copies 32 bytes of the caller's stack arguments.
macro_rules! copy {
    ($($at:literal)*) => {
        concat!($(
            "movups xmm8, [rbp + 16 + ", $at, "]\n",
            "movups xmm9, [rbp + 32 + ", $at, "]\n",
            "movaps [rsp + ", $at, "], xmm8\n",
            "movaps [rsp + 16 + ", $at, "], xmm9\n",
        )*)
    };
}

/// The callback is in progress: its place among those that are is at `rdx`. A
/// signal handler that comes before the call finds what the call will push.
macro_rules! in_progress {
    () => {
        concat!(
            "lea rax, [rip + traceshim_return]\n",
            "mov [rsp - 8], rax\n",
            "mov [rdx + {shadow}], rbp\n",
            "mov rax, [rbp + 8]\n",
            "shl rax, 16\n",
            "movzx r11d, word ptr [rbp - 56]\n",
            "or rax, r11\n",
            "mov [rdx + {shadow} + 8], rax\n",
        )
    };
}

/// Counts an event that is lost at `rax`, or leaves it to `$else`.
macro_rules! lose {
    ($else:literal) => {
        concat!(
            "mov rdi, [rcx + {losses}]\n",
            "test rdi, rdi\n",
            concat!("jz ", $else, "\n"),
            // Nothing was given back since the last search.
            "mov rsi, [rcx + {ring}]\n",
            "mov r11, [rsi + {freed_epoch}]\n",
            "add r11, 1\n",
            "cmp r11, [rsi + {full_epoch}]\n",
            concat!("jne ", $else, "\n"),
            "cmp rax, [rdi + {line_to}]\n",
            "cmovb rax, [rdi + {line_to}]\n",
            "mov [rdi + {line_to}], rax\n",
            "add qword ptr [rdi + {line_count}], 1\n",
        )
    };
}

#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "sub rsp, {frame}",
        "mov [rbp - 160], rax",
        "mov [rbp - 152], rdi",
        "mov [rbp - 144], rsi",
        "mov [rbp - 136], rdx",
        "mov [rbp - 128], rcx",
        "mov [rbp - 120], r8",
        "mov [rbp - 112], r9",
        "mov [rbp - 104], r10",
        "mov [rbp - 56], r11",
        "mov qword ptr [rbp - 48], {is_inside}",
        // On the thread's own stack, and so is all that may be an argument. Else
        // it may be another one's state, which isn't to be touched.
        "mov rcx, [rip + traceshim_thread@GOTTPOFF]",
        "add rcx, fs:[0]",
        "js 30f",
        "cmp rbp, [rcx + {lo}]",
        "jb 30f",
        "lea rax, [rbp + 16 + {words} * 8]",
        "cmp rax, [rcx + {hi}]",
        "ja 30f",
        // Inside, before anything else is looked at: a handler that comes now
        // finds everything as it will be when it is back.
        "cmp qword ptr [rcx + {inside}], 0",
        "jne 30f",
        // Nor where others share the state: they may be on the thread's own stack.
        "cmp qword ptr [rcx + {armed}], 0",
        "je 30f",
        "lea rax, [rbp - 48]",
        "mov [rcx + {inside}], rax",
        "mov rax, [rip + {pulse}]",
        "mov rax, [rax]",
        "add rax, 1",
        "cmp rax, [rcx + {armed}]",
        "jne 29f",
        // rdx: the place of this callback among those in progress.
        "mov eax, [rcx + {depth}]",
        "cmp eax, {shadow_len}",
        "jae 29f",
        "mov edx, eax",
        "shl edx, 4",
        "add rdx, [rcx + {block}]",
        "test eax, eax",
        "jz 1f",
        // The one outside must be above, and still be waiting there (see
        // `Context::is_waiting`): else it was left without returning.
        "mov rax, [rdx + {shadow} - 16]",
        "cmp rax, rbp",
        "jbe 29f",
        "cmp rax, [rcx + {hi}]",
        "jae 29f",
        "mov rsi, [rax + 8]",
        "shl rsi, 16",
        "movzx edi, word ptr [rax - 56]",
        "or rsi, rdi",
        "cmp rsi, [rdx + {shadow} - 8]",
        "jne 29f",
        "lea rsi, [rip + traceshim_return]",
        "cmp rsi, [rax - {frame} - 8]",
        "jne 29f",
        "1:",
        // Without a chunk there is nothing to write in.
        "cmp dword ptr [rcx + {chunk}], 0",
        "je 22f",
        // The stack.
        "mov rax, [rcx + {kind}]",
        "mov rdi, [rcx + {memo}]",
        "test rdi, rdi",
        "jz 2f",
        "mov r8, [rbp + 8]",
        "lea r9, [rbp + 16]",
        "mov r10, [rbp]",
        "shl r11, 32",
        "add r11, rax",
        "mov rsi, [rcx + {hi}]",
        "mov [rbp - 176], rdx",
        "call {find}",
        "mov rcx, [rip + traceshim_thread@GOTTPOFF]",
        "add rcx, fs:[0]",
        "test rax, rax",
        "js 29f",
        "mov rdx, [rbp - 176]",
        "2:",
        "mov r10d, eax",
        // Room for the record: rsi is its chunk, rdi its place there in words.
        "mov esi, [rcx + {chunk}]",
        "mov edi, [rcx + {pos}]",
        "lea r8d, [rdi + 2]",
        "cmp r8d, {end_words}",
        "ja 29f",
        in_progress!(),
        "shl rsi, {chunk_shift}",
        "mov r9, rsi",
        "add rsi, [rcx + {ring}]",
        "shl r11d, 16",
        "or r11d, {enter_head}",
        // Late, so that our own time doesn't count as the callback's.
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov rdx, rax",
        "sub rdx, [rcx + {last_ticks}]",
        "mov r8, rdx",
        "shr r8, 32",
        "jnz 29f",
        "mov [rcx + {last_ticks}], rax",
        "shl rdx, 32",
        "or rdx, r11",
        "mov [rsi + rdi * 8], rdx",
        "mov eax, [rcx + {depth}]",
        "add eax, 1",
        "mov [rsi + rdi * 8 + 8], r10d",
        "mov [rsi + rdi * 8 + 12], eax",
        "add edi, 2",
        "mov [rcx + {pos}], edi",
        "lea r9, [r9 + rdi * 8]",
        "mov [rsi + {committed}], r9",
        "mov [rcx + {depth}], eax",
        "mov qword ptr [rbp - 48], 1",
        "mov qword ptr [rcx + {inside}], 0",
        // As many words as a function may have for arguments.
        "2:",
        "movups [rbp - 208], xmm8",
        "movups [rbp - 192], xmm9",
        copy!(0 32 64 96 128 160 192 224),
        // A caller that keeps something there (ms_abi) finds it again.
        "movups xmm8, [rbp - 208]",
        "movups xmm9, [rbp - 192]",
        "3:",
        "mov r11d, [rbp - 56]",
        "lea rax, [rip + {targets}]",
        "mov r11, [rax + r11 * 8]",
        super::context::reload!(),
        "call r11",
        ".globl traceshim_return",
        ".hidden traceshim_return",
        "traceshim_return:",
        "cmp qword ptr [rbp - 48], 0",
        "je 4f",
        // The results stay in r8 and r9, xmm0, xmm1 and the x87 registers.
        "mov r8, rax",
        "mov r9, rdx",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov rcx, [rip + traceshim_thread@GOTTPOFF]",
        "add rcx, fs:[0]",
        "cmp qword ptr [rcx + {inside}], 0",
        "jne 40f",
        "cmp qword ptr [rcx + {armed}], 0",
        "je 40f",
        "mov qword ptr [rbp - 48], {is_inside}",
        "lea rdx, [rbp - 48]",
        "mov [rcx + {inside}], rdx",
        "mov rdx, [rip + {pulse}]",
        "mov rdx, [rdx]",
        "add rdx, 1",
        "cmp rdx, [rcx + {armed}]",
        "jne 39f",
        // Ours is the last one in progress.
        "mov r10d, [rcx + {depth}]",
        "sub r10d, 1",
        "cmp r10d, {shadow_len}",
        "jae 39f",
        "mov edx, r10d",
        "shl edx, 4",
        "add rdx, [rcx + {block}]",
        "cmp [rdx + {shadow}], rbp",
        "jne 39f",
        "mov esi, [rcx + {chunk}]",
        "test esi, esi",
        "jz 12f",
        "mov edi, [rcx + {pos}]",
        "lea r11d, [rdi + 1]",
        "cmp r11d, {end_words}",
        "ja 39f",
        "mov rdx, rax",
        "sub rdx, [rcx + {last_ticks}]",
        "mov r11, rdx",
        "shr r11, 32",
        "jnz 39f",
        "mov [rcx + {last_ticks}], rax",
        "shl rdx, 32",
        "movzx eax, word ptr [rbp - 56]",
        "shl eax, 16",
        "or eax, {exit_head}",
        "or rdx, rax",
        "shl rsi, {chunk_shift}",
        "mov r11, rsi",
        "add rsi, [rcx + {ring}]",
        "mov [rsi + rdi * 8], rdx",
        "add edi, 1",
        "mov [rcx + {pos}], edi",
        "lea r11, [r11 + rdi * 8]",
        "mov [rsi + {committed}], r11",
        "9:",
        "mov [rcx + {depth}], r10d",
        "mov qword ptr [rcx + {inside}], 0",
        "mov rax, r8",
        "mov rdx, r9",
        // Functions with the calling convention of Windows (ms_abi) keep these.
        "mov rdi, [rbp - 152]",
        "mov rsi, [rbp - 144]",
        "4:",
        "leave",
        ".cfi_remember_state",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_restore_state",
        // An exit that finds the ring full.
        "12:",
        lose!("39f"),
        "jmp 9b",
        // An enter that does.
        "22:",
        "mov r10, rdx",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov rdx, r10",
        lose!("29f"),
        in_progress!(),
        "add dword ptr [rcx + {depth}], 1",
        "mov qword ptr [rbp - 48], 1",
        "mov qword ptr [rcx + {inside}], 0",
        "jmp 2b",
        // An enter that isn't usual. What the walk starts with is as it was.
        "29:",
        "mov qword ptr [rcx + {inside}], 0",
        "30:",
        "mov qword ptr [rbp - 48], 0",
        "cmp dword ptr [rip + {forbidden} + {asking} * 4], 0",
        "jne 50f",
        "31:",
        "mov [rbp - 96], rbx",
        "mov [rbp - 88], r12",
        "mov [rbp - 80], r13",
        "mov [rbp - 72], r14",
        "mov [rbp - 64], r15",
        "lea rdi, [rbp - 160]",
        "lea rsi, [rip + {on_enter}]",
        "mov edx, 1",
        "call {gate}",
        // The caller's stack arguments, so far as there is stack to read.
        "lea rsi, [rbp + 16]",
        "mov ecx, {words}",
        "lea rdx, [rsi + {words} * 8 - 1]",
        "mov rax, rdx",
        "xor rax, rsi",
        "test rax, -4096",
        "jz 33f",
        "mov r8, [rip + traceshim_thread@GOTTPOFF]",
        "add r8, fs:[0]",
        "js 32f",
        "cmp rsi, [r8 + {lo}]",
        "jb 32f",
        "cmp rdx, [r8 + {hi}]",
        "jb 33f",
        // Not the thread's own stack, and the words go beyond a page: can the
        // next page be read?
        "32:",
        "mov rsi, rdx",
        "and rsi, -4096",
        super::readable::ask!(),
        "mov rcx, rsi",
        "lea rsi, [rbp + 16]",
        "sub rcx, rsi",
        "shr rcx, 3",
        "cmp eax, {is_readable}",
        "jne 33f",
        "mov ecx, {words}",
        "33:",
        "mov rdi, rsp",
        "rep movsq",
        "jmp 3b",
        // An exit that isn't usual.
        "39:",
        "mov qword ptr [rcx + {inside}], 0",
        "40:",
        "mov [rbp - 40], r8",
        "mov [rbp - 32], r9",
        "lea rdi, [rbp - 160]",
        "lea rsi, [rip + {on_exit}]",
        "mov edx, 1",
        "call {gate}",
        "mov rax, [rbp - 40]",
        "mov rdx, [rbp - 32]",
        "mov rdi, [rbp - 152]",
        "mov rsi, [rbp - 144]",
        "leave",
        ".cfi_remember_state",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_restore_state",
        // An enter in a sandbox in which it is forbidden to ask what can be read:
        // where it would be asked, this call passes on as if we weren't there.
        "50:",
        "lea rsi, [rbp + 16]",
        "lea rdx, [rsi + {words} * 8 - 1]",
        "mov rax, rdx",
        "xor rax, rsi",
        "test rax, -4096",
        "jz 31b",
        "mov rcx, [rip + traceshim_thread@GOTTPOFF]",
        "add rcx, fs:[0]",
        "js 52f",
        "cmp rsi, [rcx + {lo}]",
        "jb 51f",
        "cmp rdx, [rcx + {hi}]",
        "jb 31b",
        "51:",
        "inc qword ptr [rcx + {reentered}]",
        "mov qword ptr [rcx + {armed}], 0",
        "52:",
        "mov r11d, [rbp - 56]",
        super::widen::function!(),
        "mov r11, rax",
        super::context::reload!(),
        "leave",
        ".cfi_def_cfa rsp, 8",
        "jmp r11",
        ".globl traceshim_trampoline_end",
        ".hidden traceshim_trampoline_end",
        "traceshim_trampoline_end:",
        ".cfi_endproc",
        frame = const FRAME,
        words = const COPIED,
        is_readable = const super::readable::IS,
        pulse = sym PULSE,
        is_inside = const super::gate::IS_INSIDE,
        inside = const offset_of!(ThreadState, inside),
        armed = const offset_of!(ThreadState, armed),
        reentered = const offset_of!(ThreadState, reentered),
        forbidden = sym FORBIDDEN,
        asking = const Call::RtSigprocmask as usize,
        widen = sym super::widen::widen,
        wide = sym super::widen::WIDE,
        lo = const offset_of!(ThreadState, stack_lo),
        hi = const offset_of!(ThreadState, stack_hi),
        depth = const offset_of!(ThreadState, depth),
        block = const offset_of!(ThreadState, block),
        kind = const offset_of!(ThreadState, kind),
        memo = const offset_of!(ThreadState, memo),
        ring = const offset_of!(ThreadState, ring),
        losses = const offset_of!(ThreadState, losses),
        freed_epoch = const header::FREED_EPOCH * 8,
        full_epoch = const header::FULL_EPOCH * 8,
        line_count = const ledger::COUNT * 8,
        line_to = const ledger::TO * 8,
        chunk = const offset_of!(ThreadState, cursor) + Cursor::CHUNK,
        pos = const offset_of!(ThreadState, cursor) + Cursor::POS,
        last_ticks = const offset_of!(ThreadState, cursor) + Cursor::LAST_TICKS,
        shadow = const offset_of!(Block, shadow),
        shadow_len = const SHADOW_LEN,
        find = sym find_remembered,
        end_words = const CHUNK_END_WORDS,
        chunk_shift = const CHUNK_BYTES.trailing_zeros(),
        committed = const CHUNK_COMMITTED * 8,
        enter_head = const ENTER,
        exit_head = const EXIT,
        targets = sym TARGETS,
        on_enter = sym on_enter,
        on_exit = sym on_exit,
        gate = sym gate,
    )
}

const _: () = assert!(COPIED == 32 && size_of::<Shadow>() == 16 && offset_of!(Shadow, mark) == 8);
