//! Memory near a module for what its patched functions need: a thunk that their
//! entries jump to, and their first instructions, moved.
//!
//! A cell for each:
//! ```text
//!   0   what the thunk, and what it leads to, reads
//!   72  the thunk
//!   128 endbr64, the first instructions, and a jump to the rest
//! ```
//! The memory is written before it can be executed, and never again.
#![allow(unsafe_code)]

use super::prologue::Prologue;
use super::refusal::Refusal;
use crate::arch;
use crate::decoder::can_encode;
use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, FlowControl, IcedError, Instruction, InstructionBlock,
    MemoryOperand, Register,
};
use std::io::Error;
use std::mem::offset_of;
use std::ops::Range;
use traceshim_unwind::Moved;

const CELL: u64 = 256;
const THUNK: u64 = 72;
const COPY: u64 = 128;
/// How far away memory is looked for, in which steps, and how far from a
/// module: some heaps begin right behind one.
const REACH: u64 = 1 << 30;
const STEP: u64 = 1 << 21;
const GAP: u64 = 1 << 16;
const PAGE: u64 = 4096;
/// In no module.
const NOWHERE: u64 = 0;

/// Which calls of a patched function go through its trampoline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// All of them. The caller may be compiled together with the function, and
    /// so know which registers it leaves alone.
    All,
    /// Those that come from outside of the module that the function is in: from
    /// outside of this code, or by way of another module.
    FromOutside { code: Range<u64>, own_slots: [u64; 2] },
}

/// What a thunk, and what it leads to, reads.
#[repr(C)]
pub(crate) struct Words {
    /// The trampoline's stub.
    pub(crate) stub: u64,
    /// The first instructions, moved.
    pub(crate) copy: u64,
    /// What the thunk leads to.
    next: u64,
    /// The function's own code, less a margin in front; a call that doesn't return
    /// may be its last instruction.
    pub(crate) code: u64,
    pub(crate) code_bytes: u64,
    /// Where the module has the function's address for its own calls.
    pub(crate) own_slots: [u64; 2],
    /// Where a call among the first instructions returns to.
    back: u64,
    /// The function.
    pub(crate) address: u64,
}

const _: () = assert!(size_of::<Words>() as u64 <= THUNK);

/// Return addresses have at least so much code before them.
const MARGIN: u64 = 16;

/// Cells that are being written.
#[derive(Debug)]
pub(super) struct Island {
    start: u64,
    bytes: usize,
}

/// Where a patched function's entry goes on, and its trampoline.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) thunk: u64,
    pub(super) copy: u64,
    /// What of it stands for what is elsewhere.
    pub(super) moved: Vec<Moved>,
}

impl Island {
    /// Maps room for `cells` near a module.
    pub(super) fn near(module: &Range<u64>, cells: usize) -> Result<Island, Refusal> {
        let bytes = (cells as u64 * CELL).next_multiple_of(PAGE);
        let below = (module.start & !(PAGE - 1)).checked_sub(GAP + bytes);
        let below = below
            .into_iter()
            .flat_map(|first| (0..REACH / STEP).map_while(move |n| first.checked_sub(n * STEP)));
        let above = (module.end.next_multiple_of(PAGE) + GAP).checked_add(0);
        let above = above.into_iter().flat_map(|first| (1..REACH / STEP).map(move |n| first + n * STEP));
        for at in below.chain(above) {
            match map_at(at, bytes as usize) {
                Ok(Some(start)) => return Ok(Island { start, bytes: bytes as usize }),
                Ok(None) => {}
                Err(error) => return Err(Refusal::NoRoom(Some(error))),
            }
        }
        Err(Refusal::NoRoom(None))
    }

    /// Writes cell `n`.
    pub(super) fn fill(
        &self,
        n: usize,
        prologue: &Prologue,
        stub: u64,
        calls: &Calls,
    ) -> Result<Cell, Refusal> {
        let at = self.start + n as u64 * CELL;
        let mut cell = Cell { thunk: at + THUNK, copy: at + COPY, moved: Vec::new() };
        let thunk = encode(&thunk(at, calls).map_err(unmovable)?, cell.thunk)?;
        // There the stack is as at the function's entry.
        cell.moved.push(Moved { from: prologue.address(), to: cell.thunk, bytes: thunk.len() as u64 });
        let mut copy = Vec::new();
        for (from, instruction) in moved(at, prologue).map_err(unmovable)? {
            let to = cell.copy + copy.len() as u64;
            let bytes = encode(&[instruction], to)?;
            cell.moved.push(Moved { from, to, bytes: bytes.len() as u64 });
            copy.extend(bytes);
        }
        if thunk.len() as u64 > COPY - THUNK || copy.len() as u64 > CELL - COPY {
            return Err(Refusal::Unmovable);
        }
        let (next, code, [own, other]) = match calls {
            Calls::All => (arch::shell(), 0..0, [0; 2]),
            Calls::FromOutside { code, own_slots } => (arch::inside_call(), code.clone(), *own_slots),
        };
        let bytes = (code.end - code.start + 1).saturating_sub(MARGIN);
        let words = [
            stub,
            cell.copy,
            next,
            code.start + MARGIN,
            bytes,
            own,
            other,
            prologue.rest.unwrap_or_default(),
            prologue.address(),
        ];
        self.write(at, words.map(u64::to_le_bytes).as_flattened());
        self.write(cell.thunk, &thunk);
        self.write(cell.copy, &copy);
        Ok(cell)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let offset = at.wrapping_sub(self.start) as usize;
        if offset.saturating_add(bytes.len()) <= self.bytes {
            // SAFETY: within the mapping, which nobody else knows yet.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        }
    }

    /// The cells are code from now on.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        let access = libc::PROT_READ | libc::PROT_EXEC;
        // SAFETY: our own mapping.
        match unsafe { libc::mprotect(self.start as *mut libc::c_void, self.bytes, access) } {
            0 => Ok(()),
            _ => {
                let error = Error::last_os_error();
                // SAFETY: our own mapping, which nothing refers to.
                unsafe { libc::munmap(self.start as *mut libc::c_void, self.bytes) };
                Err(Refusal::NoRoom(Some(error)))
            }
        }
    }
}

fn unmovable(_: IcedError) -> Refusal {
    Refusal::Unmovable
}

/// Pages at `at`; `None` where something is there already.
fn map_at(at: u64, bytes: usize) -> Result<Option<u64>, Error> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: takes no place that is in use.
    let pages = unsafe { libc::mmap(at as *mut libc::c_void, bytes, access, kind, -1, 0) };
    if pages == libc::MAP_FAILED {
        let error = Error::last_os_error();
        return match error.raw_os_error() {
            // In use, or not for programs.
            Some(libc::EEXIST | libc::EPERM | libc::EINVAL) => Ok(None),
            _ => Err(error),
        };
    }
    if pages as u64 != at {
        // A kernel before 4.17, to which the address is a wish.
        // SAFETY: just mapped.
        unsafe { libc::munmap(pages, bytes) };
        return Ok(None);
    }
    Ok(Some(at))
}

/// A function's first instructions, as they are where they are moved to, each
/// with the place at which the stack is the same as here.
fn moved(cell: u64, prologue: &Prologue) -> Result<Vec<(u64, Instruction)>, IcedError> {
    let without_place = |&instruction: &Instruction| {
        // One may refer to another of them, as code of the large model does to
        // the function itself: it means where that was, not where it is moved to.
        let mut moved = instruction;
        moved.set_ip(0);
        (instruction.ip(), moved)
    };
    let mut moved = vec![(prologue.address(), Instruction::with(Code::Endbr64))];
    moved.extend(prologue.instructions.iter().map(without_place));
    let (Some(rest), Some(&last)) = (prologue.rest, prologue.instructions.last()) else { return Ok(moved) };
    let is_call = matches!(last.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
    if !is_call {
        moved.push((rest, Instruction::with_branch(Code::Jmp_rel32_64, rest)?));
        return Ok(moved);
    }
    // A call returns to where it would have.
    moved.pop();
    let back = MemoryOperand::with_base_displ(Register::RIP, (cell + offset_of!(Words, back) as u64) as i64);
    moved.push((last.ip(), Instruction::with1(Code::Push_rm64, back)?));
    moved.push(match last.code() {
        // As at the other function's entry.
        Code::Call_rel32_64 => {
            let to = last.near_branch_target();
            (to, Instruction::with_branch(Code::Jmp_rel32_64, to)?)
        }
        // Where that is isn't known here: a signal that comes now finds no stack.
        _ => {
            let mut jump = last;
            jump.set_code(Code::Jmp_rm64);
            jump.set_ip(0);
            (NOWHERE, jump)
        }
    });
    Ok(moved)
}

/// The code behind a patched entry. It changes no register: below the stack
/// pointer are 128 bytes that nobody else touches, signal handlers included.
fn thunk(cell: u64, calls: &Calls) -> Result<Vec<Instruction>, IcedError> {
    let word = |offset: usize| MemoryOperand::with_base_displ(Register::RIP, (cell + offset as u64) as i64);
    let stack = |offset: i64| MemoryOperand::with_base_displ(Register::RSP, offset);
    let r11 = Register::R11;
    Ok(match calls {
        Calls::All => vec![
            // The shell finds it there, at rbp - 8.
            Instruction::with2(Code::Mov_rm64_r64, stack(-16), r11)?,
            Instruction::with2(Code::Mov_r64_rm64, r11, word(offset_of!(Words, stub)))?,
            Instruction::with1(Code::Jmp_rm64, word(offset_of!(Words, next)))?,
        ],
        Calls::FromOutside { .. } => {
            // As a label: the address doesn't have to be the one that it gets.
            const OUTSIDE: u64 = 1;
            let mut outside = Instruction::with2(Code::Mov_r64_rm64, r11, stack(-8))?;
            outside.set_ip(OUTSIDE);
            vec![
                // Does the return address lie in the function's own code?
                Instruction::with2(Code::Mov_rm64_r64, stack(-8), r11)?,
                Instruction::with2(Code::Mov_r64_rm64, r11, stack(0))?,
                Instruction::with2(Code::Sub_r64_rm64, r11, word(offset_of!(Words, code)))?,
                Instruction::with2(Code::Cmp_r64_rm64, r11, word(offset_of!(Words, code_bytes)))?,
                Instruction::with_branch(Code::Jae_rel32_64, OUTSIDE)?,
                Instruction::with2(Code::Lea_r64_m, r11, word(0))?,
                Instruction::with1(Code::Jmp_rm64, word(offset_of!(Words, next)))?,
                outside,
                Instruction::with1(Code::Jmp_rm64, word(offset_of!(Words, stub)))?,
            ]
        }
    })
}

/// Instructions as bytes, to be executed at `at`. Their operands may be
/// relative to the instruction pointer, and are made to mean the same.
fn encode(instructions: &[Instruction], at: u64) -> Result<Vec<u8>, Refusal> {
    if !can_encode() {
        return Err(Refusal::NoTables);
    }
    let block = InstructionBlock::new(instructions, at);
    let encoded = BlockEncoder::encode(64, block, BlockEncoderOptions::NONE).map_err(unmovable)?;
    Ok(encoded.code_buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::prologue::judge;
    use iced_x86::{Decoder, DecoderOptions};

    /// lea rcx, [rip - 7]; ret: the function's own address, wherever it stands.
    #[test]
    fn what_moves_means_the_place_where_it_was() {
        let prologue = judge(0x10000, &[0x48, 0x8d, 0x0d, 0xf9, 0xff, 0xff, 0xff, 0xc3], &[], &[]).unwrap();
        let at = 0x2_0080;
        let moved: Vec<Instruction> = moved(0x2_0000, &prologue).unwrap().iter().map(|(_, i)| *i).collect();
        let bytes = encode(&moved, at).unwrap();
        let code = Decoder::with_ip(64, &bytes, at, DecoderOptions::NONE).into_iter();
        let means: Vec<u64> =
            code.filter(|i| i.is_ip_rel_memory_operand()).map(|i| i.ip_rel_memory_address()).collect();
        assert_eq!(means, [0x10000]);
    }
}
