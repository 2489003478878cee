//! What to do at an address, in eight bytes.
//!
//! ```text
//! bits  0..3   kind
//!       7      the code is the tracer's own
//! CFA:  3..6   the register that the CFA is counted from: 0 rsp, 1.. Machine::saved
//!       6      a callee-saved register other than rbp has a rule that doesn't fit
//!       8..28  CFA - register, in words, signed
//!      28..40  rbp's slot - CFA, in words, signed; -1: rbp is unchanged; MIN: it is lost
//!      40..60  four bits each for rbx, r12..r15: 0 unchanged, 1..=13 the slot is
//!              that many words below the return address's, 15 lost
//!      60      simple: the CFA is counted from rsp or rbp, and rbp isn't lost
//!      61      plain: simple, and the frame is reported
//! STOP: 8..16  the status
//! ```

use crate::machine::{BP, Machine, SAVED, saved_index};
use crate::memory::StackMemory;
use gimli::{CfaRule, RegisterRule, UnwindContextStorage, UnwindTableRow, X86_64};
use std::hint::select_unpredictable;
use traceshim_ring::stack::StackStatus;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule(u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The CFA is a register and an offset, everything else is found from it.
    Cfa,
    /// The return address is undefined: there is no caller.
    End,
    /// The walk can't go on, for this reason.
    Stop(StackStatus),
    /// The row has to be evaluated each time.
    Evaluate,
    /// There is no unwind information, but the module keeps frame pointers.
    FramePointerOnly,
}

const CFA: u64 = 0;
const END: u64 = 1;
const STOP: u64 = 2;
const EVALUATE: u64 = 3;
const FRAME_POINTER_ONLY: u64 = 4;

const OTHERS_DONT_FIT: u64 = 1 << 6;
const HIDDEN: u64 = 1 << 7;
const SIMPLE: u64 = 1 << 60;
const PLAIN: u64 = 1 << 61;
/// Where the return address is, so that no rbp is there; and it can be read.
const BP_SAME: i64 = -1;
const BP_LOST: i64 = -2048;
const OTHER_LOST: u64 = 15;

impl Rule {
    pub(crate) const END: Rule = Rule(END);
    pub(crate) const EVALUATE: Rule = Rule(EVALUATE);
    pub(crate) const FRAME_POINTER_ONLY: Rule = Rule(FRAME_POINTER_ONLY);

    pub(crate) const fn stop(status: StackStatus) -> Rule {
        Rule(STOP | (status.code() as u64) << 8)
    }

    #[inline(always)]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// A rule from what `bits` gave.
    #[inline(always)]
    pub(crate) const fn from_bits(bits: u64) -> Rule {
        Rule(bits)
    }

    /// The same, for code whose frames aren't reported.
    pub(crate) const fn hidden(self, hidden: bool) -> Rule {
        Rule(if hidden { self.0 & !PLAIN | HIDDEN } else { self.0 })
    }

    /// Whether the frame isn't reported.
    #[inline(always)]
    pub(crate) fn is_hidden(self) -> bool {
        self.0 & HIDDEN != 0
    }

    #[inline(always)]
    pub(crate) fn kind(self) -> Kind {
        match self.0 & 7 {
            CFA => Kind::Cfa,
            END => Kind::End,
            EVALUATE => Kind::Evaluate,
            FRAME_POINTER_ONLY => Kind::FramePointerOnly,
            _ => Kind::Stop(
                StackStatus::from_code((self.0 >> 8) as u8).unwrap_or(StackStatus::UnsupportedRule),
            ),
        }
    }

    /// The rule of a row, where it is a register and offsets.
    pub(crate) fn of_row<S>(row: &UnwindTableRow<usize, S>) -> Option<Rule>
    where
        S: UnwindContextStorage<usize>,
    {
        let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else {
            return None;
        };
        let base = match register {
            X86_64::RSP => 0,
            r => 1u64.wrapping_add(saved_index(r)? as u64),
        };
        let cfa_words = words(offset)?;
        if !(-(1 << 19)..1 << 19).contains(&cfa_words)
            || row.register(X86_64::RA) != Some(RegisterRule::Offset(-8))
            || row.register(X86_64::RSP).is_some()
        {
            return None;
        }
        let bp = match row.register(X86_64::RBP) {
            None | Some(RegisterRule::SameValue) => BP_SAME,
            Some(RegisterRule::Undefined) => BP_LOST,
            Some(RegisterRule::Offset(offset)) => {
                words(offset).filter(|w| (-2047..2048).contains(w) && *w != BP_SAME)?
            }
            _ => return None,
        };
        let mut bits = CFA | base << 3 | (cfa_words as u64 & 0xf_ffff) << 8 | (bp as u64 & 0xfff) << 28;
        if base <= 1 && bp != BP_LOST {
            bits |= SIMPLE | PLAIN;
        }
        let others = [X86_64::RBX, X86_64::R12, X86_64::R13, X86_64::R14, X86_64::R15];
        for (i, register) in others.into_iter().enumerate() {
            let code = match row.register(register) {
                None | Some(RegisterRule::SameValue) => 0,
                Some(RegisterRule::Undefined) => OTHER_LOST,
                Some(RegisterRule::Offset(offset)) => match words(offset) {
                    // The return address is one word below the CFA.
                    Some(w @ -14..=-2) => w.wrapping_neg().wrapping_sub(1) as u64,
                    _ => {
                        bits |= OTHERS_DONT_FIT;
                        OTHER_LOST
                    }
                },
                _ => {
                    bits |= OTHERS_DONT_FIT;
                    OTHER_LOST
                }
            };
            bits |= code << (40 + 4 * i);
        }
        Some(Rule(bits))
    }

    /// Whether the frame is kept by the frame pointer as compilers do it: the
    /// CFA two words above rbp, where the caller's rbp is.
    #[inline(always)]
    pub(crate) fn is_frame_pointer(self) -> bool {
        const FIELDS: u64 = 7 | 7 << 3 | 0xf_ffff << 8 | 0xfff << 28;
        self.0 & FIELDS == CFA | 1 << 3 | 2 << 8 | 0xffe << 28
    }

    /// Whether the CFA is counted from rsp or rbp.
    pub(crate) fn is_from_sp_or_bp(self) -> bool {
        self.kind() == Kind::Cfa && self.base() <= 1
    }

    /// Whether rbx or r12 to r15 can only be had by evaluating the row.
    #[inline(always)]
    pub(crate) fn others_dont_fit(self) -> bool {
        self.0 & OTHERS_DONT_FIT != 0
    }

    #[inline(always)]
    fn base(self) -> u64 {
        self.0 >> 3 & 7
    }

    #[inline(always)]
    fn cfa_words(self) -> i64 {
        (self.0 << 36) as i64 >> 44
    }

    #[inline(always)]
    fn bp_words(self) -> i64 {
        (self.0 << 24) as i64 >> 52
    }

    /// Where the return address is, for a `Cfa` rule on rsp or rbp.
    #[inline(always)]
    pub(crate) fn return_slot(self, sp: u64, bp: u64) -> Option<u64> {
        if self.kind() != Kind::Cfa {
            return None;
        }
        let base = match self.base() {
            0 => sp,
            1 => bp,
            _ => return None,
        };
        let words = (self.cfa_words() as u64).wrapping_sub(1);
        Some(base.wrapping_add(words.wrapping_mul(8)))
    }

    /// The rule as the hot loops take it, where it is simple.
    #[inline(always)]
    pub(crate) fn simple(self) -> Option<Simple> {
        (self.0 & SIMPLE != 0).then_some(Simple(self.0))
    }

    /// The same, where the frame is reported too.
    #[inline(always)]
    pub(crate) fn plain(self) -> Option<Simple> {
        (self.0 & PLAIN != 0).then_some(Simple(self.0))
    }

    /// Takes the step of a `Cfa` rule. `ALL`: rbx and r12 to r15 are followed too.
    #[inline(always)]
    pub(crate) fn step<const ALL: bool, M: StackMemory>(
        self,
        m: &mut Machine,
        mem: &M,
    ) -> Result<(), StackStatus> {
        let base = match self.base() {
            0 => m.sp,
            b => m.saved(b.wrapping_sub(1) as usize).ok_or(StackStatus::UnknownRegister)?,
        };
        let cfa = base.wrapping_add((self.cfa_words() as u64).wrapping_mul(8));
        if cfa <= m.sp {
            return Err(StackStatus::NotUpwards);
        }
        let ip = return_address(mem.read(cfa.wrapping_sub(8)))?;
        match self.bp_words() {
            BP_SAME => {}
            BP_LOST => m.set_saved(BP, None),
            w => m.set_saved(BP, mem.read(cfa.wrapping_add((w as u64).wrapping_mul(8)))),
        }
        if ALL {
            for i in 1..SAVED {
                match self.0.wrapping_shr(36u32.wrapping_add(4 * i as u32)) & 15 {
                    0 => {}
                    OTHER_LOST => m.set_saved(i, None),
                    w => {
                        let below = w.wrapping_add(1).wrapping_mul(8);
                        m.set_saved(i, mem.read(cfa.wrapping_sub(below)));
                    }
                }
            }
        }
        m.ip = ip;
        m.sp = cfa;
        m.exact = false;
        Ok(())
    }
}

/// A rule that needs and changes rsp and rbp only.
#[derive(Clone, Copy)]
pub(crate) struct Simple(u64);

impl Simple {
    /// The CFA, from the frame's rsp and rbp.
    #[inline(always)]
    pub(crate) fn cfa(self, sp: u64, bp: u64) -> u64 {
        let base = select_unpredictable(self.is_from_bp(), bp, sp);
        base.wrapping_add(((self.0 << 36) as i64 >> 44 << 3) as u64)
    }

    #[inline(always)]
    pub(crate) fn is_from_bp(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    /// Whether the caller's rbp is the frame's.
    #[inline(always)]
    pub(crate) fn keeps_bp(self) -> bool {
        self.0 & 0xfff << 28 == (BP_SAME as u64 & 0xfff) << 28
    }

    /// Where the caller's rbp is, unless it is the frame's.
    #[inline(always)]
    pub(crate) fn bp_slot(self, cfa: u64) -> u64 {
        cfa.wrapping_add(((self.0 << 24) as i64 >> 52 << 3) as u64)
    }
}

/// Addresses are 1 to this: no user-space address has more than 57 bits.
pub(crate) const ADDRESSES: u64 = (1 << 57) - 1;

/// Checks a return address that was read from the stack.
#[inline(always)]
pub(crate) fn return_address(word: Option<u64>) -> Result<u64, StackStatus> {
    match word {
        None => Err(StackStatus::OutOfBounds),
        Some(0) => Err(StackStatus::NullReturn),
        Some(ip) if ip > ADDRESSES => Err(StackStatus::NoModule),
        Some(ip) => Ok(ip),
    }
}

fn words(bytes: i64) -> Option<i64> {
    (bytes & 7 == 0).then_some(bytes >> 3)
}
