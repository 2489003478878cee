//! What to do at an address, in eight bytes.
//!
//! ```text
//! bits  0..3   kind
//!       3      CFA: counted from rbp, not from rsp
//!       4      the frame isn't reported
//!       5      plain: CFA, and the frame is reported
//!       6      CFA: the function keeps a frame pointer throughout
//!       7      plain, and the frame is kept by the frame pointer
//!       8..20  CFA: rbp's slot - CFA, in words, signed; -1: rbp is unchanged
//!              STOP: the status
//!      32..64  CFA: CFA - register, in bytes, signed
//! ```

use crate::machine::{BP, Machine};
use crate::memory::StackMemory;
use gimli::{CfaRule, RegisterRule, UnwindContextStorage, UnwindTableRow, X86_64};
use std::hint::select_unpredictable;
use traceshim_ring::stack::StackStatus;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule(u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The CFA is rsp or rbp and an offset, the return address is below it, and
    /// rbp is unchanged or at an offset from it.
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

const FROM_BP: u64 = 1 << 3;
const HIDDEN: u64 = 1 << 4;
const PLAIN: u64 = 1 << 5;
const KEPT: u64 = 1 << 6;
const FRAME_POINTER: u64 = 1 << 7;
const BP_SLOT: u64 = 0xfff << 8;
/// Where the return address is, so that no rbp is there; and it can be read.
const BP_SAME: i64 = -1;

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
        Rule(if hidden { self.0 & !(PLAIN | FRAME_POINTER) | HIDDEN } else { self.0 })
    }

    /// Whether the frame isn't reported.
    #[inline(always)]
    pub(crate) fn is_hidden(self) -> bool {
        self.0 & HIDDEN != 0
    }

    /// The same, in a function that keeps a frame pointer throughout.
    pub(crate) const fn kept(self) -> Rule {
        Rule(self.0 | KEPT)
    }

    /// Whether a walk from here may be called one by frame pointers.
    #[inline(always)]
    pub(crate) fn is_kept(self) -> bool {
        self.0 & KEPT != 0
    }

    /// A `Cfa` rule whose frame is reported.
    #[inline(always)]
    pub(crate) fn is_plain(self) -> bool {
        self.0 & PLAIN != 0
    }

    /// A plain rule of a frame that is kept by the frame pointer.
    #[inline(always)]
    pub(crate) fn is_plain_frame_pointer(self) -> bool {
        self.0 & FRAME_POINTER != 0
    }

    #[inline(always)]
    pub(crate) fn kind(self) -> Kind {
        match self.0 & 7 {
            CFA => Kind::Cfa,
            END => Kind::End,
            EVALUATE => Kind::Evaluate,
            FRAME_POINTER_ONLY => Kind::FramePointerOnly,
            _ => {
                let status = StackStatus::from_code((self.0 >> 8) as u8);
                Kind::Stop(status.unwrap_or(StackStatus::UnsupportedRule))
            }
        }
    }

    /// The rule of a row: `Cfa` where it is of that kind, else to evaluate it.
    pub(crate) fn of_row<S>(row: &UnwindTableRow<usize, S>) -> Rule
    where
        S: UnwindContextStorage<usize>,
    {
        Self::cfa_of_row(row).unwrap_or(Rule::EVALUATE)
    }

    fn cfa_of_row<S>(row: &UnwindTableRow<usize, S>) -> Option<Rule>
    where
        S: UnwindContextStorage<usize>,
    {
        let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else {
            return None;
        };
        let from_bp = match register {
            X86_64::RSP => 0,
            X86_64::RBP => FROM_BP,
            _ => return None,
        };
        let cfa = i32::try_from(offset).ok().filter(|offset| offset & 7 == 0)?;
        let bp = match row.register(X86_64::RBP) {
            None | Some(RegisterRule::SameValue) => BP_SAME,
            Some(RegisterRule::Offset(offset)) if offset & 7 == 0 => {
                Some(offset >> 3).filter(|words| (-2048..2048).contains(words) && *words != BP_SAME)?
            }
            _ => return None,
        };
        if row.register(X86_64::RA) != Some(RegisterRule::Offset(-8)) || row.register(X86_64::RSP).is_some() {
            return None;
        }
        let slot = (bp as u64) << 8 & BP_SLOT;
        let rule = Rule(CFA | from_bp | PLAIN | slot | u64::from(cfa as u32) << 32);
        Some(if rule.is_frame_pointer() { Rule(rule.0 | FRAME_POINTER) } else { rule })
    }

    /// Whether the frame is kept by the frame pointer as compilers do it: the
    /// CFA two words above rbp, where the caller's rbp is.
    #[inline(always)]
    pub(crate) fn is_frame_pointer(self) -> bool {
        const FIELDS: u64 = 7 | FROM_BP | BP_SLOT | 0xffff_ffff << 32;
        self.0 & FIELDS == CFA | FROM_BP | 0xffe << 8 | 16 << 32
    }

    /// Of a `Cfa` rule: whether rbp is needed for the CFA.
    #[inline(always)]
    pub(crate) fn is_from_bp(self) -> bool {
        self.0 & FROM_BP != 0
    }

    /// Of a `Cfa` rule: the CFA, from the frame's rsp and rbp.
    #[inline(always)]
    pub(crate) fn cfa(self, sp: u64, bp: u64) -> u64 {
        let base = select_unpredictable(self.is_from_bp(), bp, sp);
        base.wrapping_add((self.0 as i64 >> 32) as u64)
    }

    /// Of a `Cfa` rule: whether the caller's rbp is the frame's.
    #[inline(always)]
    pub(crate) fn keeps_bp(self) -> bool {
        self.0 & BP_SLOT == BP_SLOT
    }

    /// Of a `Cfa` rule: where the caller's rbp is, unless it is the frame's.
    #[inline(always)]
    pub(crate) fn bp_slot(self, cfa: u64) -> u64 {
        cfa.wrapping_add(((self.0 << 44) as i64 >> 52 << 3) as u64)
    }

    /// Takes the step of a `Cfa` rule. Registers other than rsp and rbp are
    /// forgotten.
    pub(crate) fn step<M: StackMemory>(self, m: &mut Machine, mem: &M) -> Result<(), StackStatus> {
        let bp = match m.saved(BP) {
            None if self.is_from_bp() => return Err(StackStatus::UnknownRegister),
            bp => bp.unwrap_or(0),
        };
        let cfa = self.cfa(m.sp, bp);
        if cfa <= m.sp {
            return Err(StackStatus::NotUpwards);
        }
        let ip = return_address(mem.read(cfa.wrapping_sub(8)))?;
        if !self.keeps_bp() {
            m.set_saved(BP, mem.read(self.bp_slot(cfa)));
        }
        m.known &= 1 << BP;
        (m.ip, m.sp, m.exact) = (ip, cfa, false);
        Ok(())
    }
}

/// Addresses are 1 to this: no user-space address has more than 57 bits.
pub(crate) const ADDRESSES: u64 = (1 << 57) - 1;

/// Checks a return address that was read from the stack.
pub(crate) fn return_address(word: Option<u64>) -> Result<u64, StackStatus> {
    match word {
        None => Err(StackStatus::OutOfBounds),
        Some(0) => Err(StackStatus::NullReturn),
        Some(ip) if ip > ADDRESSES => Err(StackStatus::NoModule),
        Some(ip) => Ok(ip),
    }
}
