#![allow(unsafe_code)]
//! The call frame information of an address, by gimli.

use crate::expr;
use crate::machine::{BP, Machine, saved_index};
use crate::memory::StackMemory;
use crate::module::{Bytes, Module};
use crate::rule::return_address;
use gimli::{
    BaseAddresses, CfaRule, EhFrame, Encoding, Error, FrameDescriptionEntry, Register, RegisterRule,
    UnwindContext, UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow, X86_64,
};
use std::mem::MaybeUninit;
use std::ops::Range;
use traceshim_ring::stack::StackStatus;

/// Room for the rows of one frame description: 24 registers (the signal
/// trampoline names 17), three nested `remember_state` beside the initial row
/// and the current one.
pub(crate) struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(Register, RegisterRule<usize>); 24];
    type Stack = [UnwindTableRow<usize, Self>; 5];
}

/// Rows of one function that are looked through.
const MAX_ROWS: usize = 256;

pub(crate) type Row = UnwindTableRow<usize, Storage>;

/// gimli's working memory. Valid when zeroed, and made at its first use.
pub(crate) struct Context {
    ready: bool,
    context: MaybeUninit<UnwindContext<usize, Storage>>,
}

impl Context {
    pub(crate) const fn new() -> Self {
        Context { ready: false, context: MaybeUninit::uninit() }
    }

    pub(crate) fn get(&mut self) -> &mut UnwindContext<usize, Storage> {
        if !self.ready {
            self.make();
        }
        // SAFETY: `ready` is set by nothing but `make`, after it has written the context.
        unsafe { self.context.assume_init_mut() }
    }

    // Kept apart, so that the value's way over the stack is over before a walk goes deeper.
    #[cold]
    #[inline(never)]
    fn make(&mut self) {
        self.context.write(UnwindContext::new_in());
        self.ready = true;
    }
}

/// Where a frame ends, as its call frame information says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The CFA, in bytes above rsp. Below it is the return address, and below
    /// that is all that the frame's function passes on the stack.
    FromSp(i32),
    /// The CFA, in bytes above rbp.
    FromBp(i32),
    /// The frame was moved to a greater alignment, and the CFA is found through
    /// rbp, its frame pointer. What it passes on the stack is below rbp.
    Realigned,
}

/// A row of call frame information and what is needed to evaluate it.
pub(crate) struct Found<'a> {
    pub(crate) row: &'a Row,
    pub(crate) signal: bool,
    encoding: Encoding,
    eh_frame: EhFrame<Bytes<'a>>,
}

/// The description of the function around the stated address.
fn function<'a>(
    module: &'a Module,
    bases: &BaseAddresses,
    eh_frame: &EhFrame<Bytes<'a>>,
    svma: u64,
) -> Result<FrameDescriptionEntry<Bytes<'a>>, StackStatus> {
    let hdr = module.eh_frame_hdr().ok_or(StackStatus::NoUnwindInfo)?;
    let table = hdr.table().ok_or(StackStatus::NoUnwindInfo)?;
    // Not gimli's `fde_for_address`, whose arithmetic trusts the table.
    let pointer = table.lookup(svma, bases).and_then(|p| p.direct()).map_err(status)?;
    let offset = pointer
        .checked_sub(module.desc.eh_frame_svma)
        .and_then(|offset| usize::try_from(offset).ok())
        .ok_or(StackStatus::BadUnwindInfo)?;
    let fde = eh_frame.fde_from_offset(bases, offset.into(), EhFrame::cie_from_offset).map_err(status)?;
    if !fde.contains(svma) {
        return Err(StackStatus::NoUnwindInfo);
    }
    if fde.cie().return_address_register() != X86_64::RA {
        return Err(StackStatus::UnsupportedRule);
    }
    Ok(fde)
}

/// The row for the address `avma` of `module`. An error is the status of a walk
/// that can't go on there.
pub(crate) fn find<'a>(
    context: &'a mut Context,
    module: &'a Module,
    avma: u64,
) -> Result<Found<'a>, StackStatus> {
    let (bases, eh_frame) = (module.bases(), module.eh_frame());
    let svma = avma.wrapping_sub(module.desc.bias);
    let fde = function(module, &bases, &eh_frame, svma)?;
    let signal = fde.is_signal_trampoline();
    let encoding = fde.cie().encoding();
    let row = fde.unwind_info_for_address(&eh_frame, &bases, context.get(), svma).map_err(status)?;
    Ok(Found { row, signal, encoding, eh_frame })
}

/// Whether `test` holds for every row of the function around `avma`. Not for
/// those of a signal trampoline, or where there are none.
pub(crate) fn each_row(
    context: &mut Context,
    module: &Module,
    avma: u64,
    mut test: impl FnMut(&Row) -> bool,
) -> bool {
    let (bases, eh_frame) = (module.bases(), module.eh_frame());
    let svma = avma.wrapping_sub(module.desc.bias);
    let Ok(fde) = function(module, &bases, &eh_frame, svma) else { return false };
    if fde.is_signal_trampoline() {
        return false;
    }
    let Ok(mut rows) = fde.rows(&eh_frame, &bases, context.get()) else { return false };
    // A function of more rows is no ordinary one, and would take long.
    for _ in 0..MAX_ROWS {
        match rows.next_row() {
            Ok(Some(row)) if test(row) => {}
            Ok(None) => return true,
            _ => return false,
        }
    }
    false
}

/// Where the code of the function around `avma` is.
pub(crate) fn extent(module: &Module, avma: u64) -> Option<Range<u64>> {
    let (bases, eh_frame) = (module.bases(), module.eh_frame());
    let fde = function(module, &bases, &eh_frame, avma.wrapping_sub(module.desc.bias)).ok()?;
    let start = fde.initial_address().wrapping_add(module.desc.bias);
    Some(start..start.checked_add(fde.len())?)
}

fn status(error: Error) -> StackStatus {
    match error {
        Error::NoUnwindInfoForAddress => StackStatus::NoUnwindInfo,
        // Legal, and more than `Storage` has room for.
        Error::StackFull | Error::TooManyRegisterRules => StackStatus::UnsupportedRule,
        Error::UnsupportedPointerEncoding(_)
        | Error::UnsupportedIndirectPointer
        | Error::UnknownAugmentation => StackStatus::UnsupportedRule,
        _ => StackStatus::BadUnwindInfo,
    }
}

impl Found<'_> {
    /// Where the frame ends, where it is one of the usual ways.
    pub(crate) fn frame(&self) -> Option<Frame> {
        const DW_OP_BREG6: u8 = 0x76;
        match self.row.cfa() {
            CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } => {
                Some(Frame::FromSp(i32::try_from(*offset).ok()?))
            }
            CfaRule::RegisterAndOffset { register: X86_64::RBP, offset } => {
                Some(Frame::FromBp(i32::try_from(*offset).ok()?))
            }
            CfaRule::Expression(e) => {
                let from_bp = e.get(&self.eh_frame).ok()?.0.first() == Some(&DW_OP_BREG6);
                from_bp.then_some(Frame::Realigned)
            }
            CfaRule::RegisterAndOffset { .. } => None,
        }
    }

    /// Whether the row says that there is no caller.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self.row.register(X86_64::RA), Some(RegisterRule::Undefined))
    }

    /// Takes the step by evaluating the whole row.
    #[inline(never)]
    pub(crate) fn step(&self, m: &mut Machine, mem: &dyn StackMemory) -> Result<(), StackStatus> {
        let cfa = match self.row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => match *register {
                X86_64::RSP => m.sp,
                r => {
                    let index = saved_index(r).ok_or(StackStatus::UnsupportedRule)?;
                    m.saved(index).ok_or(StackStatus::UnknownRegister)?
                }
            }
            .wrapping_add_signed(*offset),
            CfaRule::Expression(e) => self.evaluate(e, m, mem, None)?,
        };
        let ip = return_address(self.value(X86_64::RA, m, mem, cfa)?)?;
        // Where nothing is said about rsp, the caller's is the CFA.
        let sp = match self.row.register(X86_64::RSP) {
            None => cfa,
            Some(_) => self.value(X86_64::RSP, m, mem, cfa)?.ok_or(StackStatus::UnknownRegister)?,
        };
        // A signal handler may run on a stack of its own; nothing else moves down.
        if !self.signal && sp <= m.sp {
            return Err(StackStatus::NotUpwards);
        }
        let before = *m;
        for register in [X86_64::RBP, X86_64::RBX, X86_64::R12, X86_64::R13, X86_64::R14, X86_64::R15] {
            let value = self.value(register, &before, mem, cfa).unwrap_or(None);
            m.set_saved(saved_index(register).unwrap_or(BP), value);
        }
        m.ip = ip;
        m.sp = sp;
        // What a signal interrupted is an instruction, not a call.
        m.exact = self.signal;
        Ok(())
    }

    /// The caller's value of a register; `None` where it is lost or can't be read.
    fn value(
        &self,
        register: Register,
        m: &Machine,
        mem: &dyn StackMemory,
        cfa: u64,
    ) -> Result<Option<u64>, StackStatus> {
        Ok(match self.row.register(register) {
            // By the ABI, what isn't mentioned is preserved; a return address never is.
            None if register == X86_64::RA => return Err(StackStatus::UnsupportedRule),
            None | Some(RegisterRule::SameValue) => m.register(register),
            Some(RegisterRule::Undefined) => None,
            Some(RegisterRule::Offset(offset)) => mem.read(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::Register(other)) => m.register(other),
            Some(RegisterRule::Expression(e)) => mem.read(self.evaluate(&e, m, mem, Some(cfa))?),
            Some(RegisterRule::ValExpression(e)) => Some(self.evaluate(&e, m, mem, Some(cfa))?),
            _ => return Err(StackStatus::UnsupportedRule),
        })
    }

    fn evaluate(
        &self,
        expression: &UnwindExpression<usize>,
        m: &Machine,
        mem: &dyn StackMemory,
        initial: Option<u64>,
    ) -> Result<u64, StackStatus> {
        let bytes = expression.get(&self.eh_frame).map_err(|_| StackStatus::BadUnwindInfo)?;
        expr::evaluate(bytes, self.encoding, m, mem, initial)
    }
}
