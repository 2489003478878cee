//! The registers at an entry, as the assembly stores them.

use traceshim_unwind::Regs;

/// What every entry saves, right below its saved rbp. The last two fields are
/// that rbp and the return address, and behind them is the caller's stack.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) rax: u64,
    /// rdi, rsi, rdx, rcx, r8, r9: the six arguments.
    pub(crate) args: [u64; 6],
    pub(crate) r10: u64,
    rbx: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    /// Trampolines: the number of the stub.
    pub(crate) id: u64,
    /// Whether the entry was recorded, so that its end is to be, too; around
    /// entries: whether the real function is called from our frame.
    pub(crate) live: u64,
    /// What the entry returns.
    pub(crate) result: u64,
    /// The second half of what a trampoline's target returned.
    pub(crate) result2: u64,
    /// Whatever the first handler wants to tell the second.
    pub(crate) note: [u64; 3],
    rbp: u64,
    return_address: u64,
}

/// Bytes of a [`Context`] below the saved rbp.
pub(super) const BELOW_RBP: usize = size_of::<Context>() - 16;

const _: () = assert!(BELOW_RBP == 160 && BELOW_RBP.is_multiple_of(16));

impl Context {
    /// The caller, as an unwinder starts with it.
    pub(crate) fn caller(&self) -> Regs {
        Regs {
            ip: self.return_address,
            sp: self.frame() + 16,
            bp: self.rbp,
            bx: self.rbx,
            r12: self.r12,
            r13: self.r13,
            r14: self.r14,
            r15: self.r15,
        }
    }

    /// What tells a trampoline's frame from whatever may lie at its place after
    /// it was left without returning: the hook (low 16 bits) and the caller.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u64 {
        self.return_address << 16 | self.id & 0xffff
    }

    /// Whether the trampoline whose frame was at `frame` is still waiting there
    /// for its target to return.
    ///
    /// # Safety
    /// `frame` was a trampoline's, on a stack that is still mapped above the
    /// current stack pointer, which is below it.
    #[inline(always)]
    pub(crate) unsafe fn is_waiting(frame: u64, mark: u64) -> bool {
        let context = (frame - BELOW_RBP as u64) as *const Context;
        // SAFETY: the caller's promise; what is read may be anything.
        let Context { id, return_address: caller, .. } = unsafe { &*context };
        // SAFETY: as above: the word that calling the target pushed.
        let pushed = unsafe { ((frame - super::trampoline::FRAME as u64 - 8) as *const u64).read() };
        *caller << 16 | *id & 0xffff == mark && super::trampoline::is_return(pushed)
    }

    /// Where the entry's own frame is: the address of the saved rbp.
    pub(crate) fn frame(&self) -> u64 {
        std::ptr::from_ref(&self.rbp) as u64
    }

    /// An entry that no assembly made, for code that is called by libc.
    pub(crate) fn empty() -> Context {
        Context {
            rax: 0,
            args: [0; 6],
            r10: 0,
            rbx: 0,
            r12: 0,
            r13: 0,
            r14: 0,
            r15: 0,
            id: 0,
            live: 0,
            result: 0,
            result2: 0,
            note: [0; 3],
            rbp: 0,
            return_address: 0,
        }
    }
}

/// The prologue that every entry shares: a frame with true CFI, all argument
/// and callee-saved registers stored. `$extra` bytes more are reserved below.
macro_rules! enter {
    () => {
        "push rbp
        .cfi_def_cfa_offset 16
        .cfi_offset rbp, -16
        mov rbp, rsp
        .cfi_def_cfa_register rbp
        sub rsp, {frame}
        mov [rbp - 160], rax
        mov [rbp - 152], rdi
        mov [rbp - 144], rsi
        mov [rbp - 136], rdx
        mov [rbp - 128], rcx
        mov [rbp - 120], r8
        mov [rbp - 112], r9
        mov [rbp - 104], r10
        mov [rbp - 96], rbx
        mov [rbp - 88], r12
        mov [rbp - 80], r13
        mov [rbp - 72], r14
        mov [rbp - 64], r15
        mov qword ptr [rbp - 48], 0
        mov qword ptr [rbp - 40], 0"
    };
}
/// The arguments and rax as they were, or as a handler changed them.
macro_rules! reload {
    () => {
        "mov rax, [rbp - 160]
        mov rdi, [rbp - 152]
        mov rsi, [rbp - 144]
        mov rdx, [rbp - 136]
        mov rcx, [rbp - 128]
        mov r8, [rbp - 120]
        mov r9, [rbp - 112]
        mov r10, [rbp - 104]"
    };
}
pub(crate) use {enter, reload};

const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Context, args) == 160 - 152);
    assert!(offset_of!(Context, r10) == 160 - 104);
    assert!(offset_of!(Context, rbx) == 160 - 96);
    assert!(offset_of!(Context, r15) == 160 - 64);
    assert!(offset_of!(Context, id) == 160 - 56);
    assert!(offset_of!(Context, live) == 160 - 48);
    assert!(offset_of!(Context, result) == 160 - 40);
    assert!(offset_of!(Context, result2) == 160 - 32);
    assert!(offset_of!(Context, rbp) == 160);
};
