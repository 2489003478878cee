//! The registers of the frame that a walk has reached.

use gimli::{Register, X86_64};

/// Registers at the point where a walk starts: the callee-saved ones of the
/// frame whose instruction pointer is `ip`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Regs {
    /// The address in the frame's code.
    pub ip: u64,
    /// The stack pointer while the frame was at `ip`.
    pub sp: u64,
    /// rbp.
    pub bp: u64,
    /// rbx.
    pub bx: u64,
    /// r12.
    pub r12: u64,
    /// r13.
    pub r13: u64,
    /// r14.
    pub r14: u64,
    /// r15.
    pub r15: u64,
}

/// Index of a callee-saved register in [`Machine::saved`].
pub(crate) const BP: usize = 0;
/// How many callee-saved registers there are beside the stack pointer.
pub(crate) const SAVED: usize = 6;

/// The index in [`Machine::saved`] of a DWARF register, where it is one of them.
pub(crate) fn saved_index(register: Register) -> Option<usize> {
    match register {
        X86_64::RBP => Some(BP),
        X86_64::RBX => Some(1),
        X86_64::R12 => Some(2),
        X86_64::R13 => Some(3),
        X86_64::R14 => Some(4),
        X86_64::R15 => Some(5),
        _ => None,
    }
}

/// A frame's registers during a walk. One that the walk has lost track of is
/// unknown, and never guessed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) ip: u64,
    pub(crate) sp: u64,
    /// rbp, rbx, r12, r13, r14, r15.
    pub(crate) saved: [u64; SAVED],
    /// Bit `i`: `saved[i]` is known.
    pub(crate) known: u8,
    /// `ip` is that of the instruction itself, not a return address.
    pub(crate) exact: bool,
}

impl Machine {
    /// The start of a walk. `all`: follow every callee-saved register, not only rbp.
    #[inline(always)]
    pub(crate) fn new(regs: &Regs, exact: bool, all: bool) -> Self {
        Machine {
            ip: regs.ip,
            sp: regs.sp,
            saved: [regs.bp, regs.bx, regs.r12, regs.r13, regs.r14, regs.r15],
            known: if all { 0x3f } else { 1 << BP },
            exact,
        }
    }

    /// The address that unwind information is looked up for: the byte before a
    /// return address, which still belongs to the call.
    #[inline(always)]
    pub(crate) fn lookup_address(&self) -> u64 {
        if self.exact { self.ip } else { self.ip.wrapping_sub(1) }
    }

    /// The value of `saved[index]`, where it is known.
    #[inline(always)]
    pub(crate) fn saved(&self, index: usize) -> Option<u64> {
        if self.known >> (index & 7) & 1 == 0 {
            return None;
        }
        self.saved.get(index).copied()
    }

    /// Sets `saved[index]`, or forgets it.
    #[inline(always)]
    pub(crate) fn set_saved(&mut self, index: usize, value: Option<u64>) {
        let bit = 1u8.wrapping_shl(index as u32);
        match (self.saved.get_mut(index), value) {
            (Some(slot), Some(value)) => {
                *slot = value;
                self.known |= bit;
            }
            _ => self.known &= !bit,
        }
    }

    /// The value of a register that unwind information may name.
    pub(crate) fn register(&self, register: Register) -> Option<u64> {
        match register {
            X86_64::RSP => Some(self.sp),
            X86_64::RA => Some(self.ip),
            r => self.saved(saved_index(r)?),
        }
    }
}
