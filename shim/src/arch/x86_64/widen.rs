//! More stack arguments than every trampoline copies.
//!
//! For a function that takes so many, or of which it isn't known, this stands
//! between its trampoline and it. Called by the trampoline with all arguments in
//! place, it copies the caller's stack arguments once more, as many as there
//! are, and calls; where the trampoline's are enough, it jumps. The others pay
//! nothing for it.
#![allow(unsafe_code)]

use super::context::Context;
use super::gate::gate;
use super::trampoline::{STUBS, retarget};
use crate::arguments::{CALLERS, COPIED, Reach};
use crate::callbacks::on_wide;
use crate::state::ThreadState;
use std::arch::naked_asm;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

/// Each function's address, and how many words it takes in the upper 16 bits.
pub(super) static WIDE: [AtomicU64; STUBS] = [const { AtomicU64::new(0) }; STUBS];

/// rax: the function behind stub number r11, for whoever calls it past all of
/// this. Changes rsi.
macro_rules! function {
    () => {
        "lea rax, [rip + {targets}]
        mov rax, [rax + r11 * 8]
        lea rsi, [rip + {widen}]
        cmp rax, rsi
        jne 60f
        lea rax, [rip + {wide}]
        mov rax, [rax + r11 * 8]
        shl rax, 16
        shr rax, 16
        60:"
    };
}
pub(super) use function;

/// Instead of a number: as many as the caller's frame has, and: nobody has
/// looked yet.
const UNKNOWN: u16 = 0;
const UNSEEN: u16 = u16::MAX;

/// Has stub `n` pass on to `target` with all that it takes. `None`: that isn't
/// known yet, and the first call asks.
pub(crate) fn pass_on(n: u16, target: u64, takes: Option<Reach>) {
    let words = match takes {
        Some(Reach::Copied) => return retarget(n, target),
        Some(Reach::Words(words)) => words,
        Some(Reach::Unknown) => UNKNOWN,
        None => UNSEEN,
    };
    if let Some(slot) = WIDE.get(usize::from(n)) {
        slot.store(target | u64::from(words) << 48, Ordering::Release);
        retarget(n, entry());
    }
}

/// Whether nobody has looked yet what the function of stub `n` takes.
pub(crate) fn is_unseen(n: u16) -> bool {
    WIDE.get(usize::from(n)).is_some_and(|slot| slot.load(Ordering::Acquire) >> 48 == u64::from(UNSEEN))
}

/// What such a trampoline calls.
pub(super) fn entry() -> u64 {
    widen as *const () as u64
}

/// What a caller of a function passes to it on the stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    /// The number of the function's hook.
    pub(crate) hook: u16,
    /// Where the call returns to, and the caller's rbp.
    pub(crate) back: u64,
    pub(crate) bp: u64,
    /// Where its stack arguments begin.
    pub(crate) arguments: u64,
}

impl Passed {
    /// # Safety
    /// `context` is what [`on_wide`] was called with.
    pub(crate) unsafe fn of(context: &Context) -> Passed {
        let frame = context.note[0];
        let word = |at: u64| {
            // SAFETY: frames of the trampoline and of whoever called it, which
            // are above us.
            unsafe { (at as *const u64).read() }
        };
        let hook = word(context.caller().bp - 56) as u16;
        Passed { hook, bp: word(frame), back: word(frame + 8), arguments: frame + 16 }
    }
}

#[unsafe(naked)]
pub(super) unsafe extern "C" fn widen() {
    naked_asm!(
        ".cfi_startproc",
        "endbr64",
        super::context::enter!(),
        // The trampoline's frame, and in it the hook.
        "mov rsi, [rbp]",
        "movzx eax, word ptr [rsi - 56]",
        "lea rcx, [rip + {wide}]",
        "mov rax, [rcx + rax * 8]",
        "mov rcx, rax",
        "shr rcx, 48",
        "shl rax, 16",
        "shr rax, 16",
        "mov [rbp - 168], rax",
        // Whoever the function was called by: behind the shell it is the shell's
        // caller.
        "lea rdx, [rip + traceshim_shell_return]",
        "cmp rdx, [rsi + 8]",
        "jne 1f",
        "mov rsi, [rsi]",
        "1:",
        "mov [rbp - 24], rsi",
        "test ecx, ecx",
        "jz 2f",
        "cmp ecx, {unseen}",
        "je 3f",
        "jmp 5f",
        // Is it known where such a caller's frame ends? See `arguments::frames`.
        "2:",
        "mov rax, [rsi + 8]",
        "mov edx, eax",
        "and edx, 1023",
        "lea rdi, [rip + {callers}]",
        "mov rdx, [rdi + rdx * 8]",
        "mov rdi, rdx",
        "shr rdi, 27",
        "shr rax, 10",
        "cmp rdi, rax",
        "jne 3f",
        "mov ecx, edx",
        "shl ecx, 6",
        "sar ecx, 6",
        "movsxd rcx, ecx",
        "bt edx, 26",
        "jnc 5f",
        "mov rax, [rsi]",
        "sub rax, rsi",
        "sub rax, 16",
        "sar rax, 3",
        "add rcx, rax",
        "cmp rcx, {most}",
        "jbe 5f",
        // Not known. Where nobody can be asked now, as much as there is of the
        // thread's own stack, within reason.
        "3:",
        "xor ecx, ecx",
        "mov rdi, [rip + traceshim_thread@GOTTPOFF]",
        "add rdi, fs:[0]",
        "js 4f",
        "cmp rsi, [rdi + {lo}]",
        "jb 4f",
        "cmp rsi, [rdi + {hi}]",
        "jae 4f",
        "mov ecx, {unasked}",
        "4:",
        "mov [rbp - 40], rcx",
        "lea rdi, [rbp - 160]",
        "lea rsi, [rip + {on_wide}]",
        "mov edx, 1",
        "call {gate}",
        // No event was lost with it: the callback's own was counted already.
        "test eax, eax",
        "jnz 10f",
        "lock dec qword ptr [rdx]",
        "10:",
        "mov rsi, [rbp - 24]",
        "mov rcx, [rbp - 40]",
        "5:",
        "cmp rcx, {copied}",
        "jbe 9f",
        // On the thread's own stack never from above it.
        "add rsi, 16",
        "mov rdi, [rip + traceshim_thread@GOTTPOFF]",
        "add rdi, fs:[0]",
        "js 6f",
        "mov rax, [rdi + {hi}]",
        "sub rax, rsi",
        "jb 6f",
        "cmp rsi, [rdi + {lo}]",
        "jb 6f",
        "shr rax, 3",
        "cmp rcx, rax",
        "cmova rcx, rax",
        "6:",
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
        "7:",
        "sub rax, 4096",
        "cmp rax, rdi",
        "jb 8f",
        "or qword ptr [rax], 0",
        "jmp 7b",
        "8:",
        "mov rsp, rdi",
        "rep movsq",
        super::context::reload!(),
        "call [rbp - 168]",
        "leave",
        ".cfi_remember_state",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_restore_state",
        // The trampoline's copy is enough.
        "9:",
        super::context::reload!(),
        "mov r11, [rbp - 168]",
        "leave",
        ".cfi_def_cfa rsp, 8",
        "jmp r11",
        ".cfi_endproc",
        frame = const 176,
        wide = sym WIDE,
        callers = sym CALLERS,
        unseen = const UNSEEN,
        unasked = const UNASKED,
        most = const MOST,
        copied = const COPIED,
        on_wide = sym on_wide,
        gate = sym gate,
        lo = const offset_of!(ThreadState, stack_lo),
        hi = const offset_of!(ThreadState, stack_hi),
    )
}

/// Words that are copied where a handler of the gate can't be asked: in a signal
/// handler that came in the middle of one.
const UNASKED: u32 = 2048;
/// More words than that are no frame.
const MOST: u32 = 8 << 20;
