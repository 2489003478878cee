//! A function's first instructions: which have to move for a jump to take their
//! place, and whether they can.

use super::refusal::Refusal;
use crate::arch;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};
use std::ops::Range;

/// Bytes of a jump to anywhere within 2 GiB.
pub(super) const JUMP: u64 = 5;
/// Functions begin at multiples of this; what is between them is padding.
const ALIGNMENT: u64 = 16;

/// What moves.
#[derive(Debug)]
pub(super) struct Prologue {
    /// Where the jump is written: the function's entry, or behind its `endbr64`.
    pub(super) at: u64,
    /// Where the function begins.
    address: u64,
    /// Where the rest of the function goes on; nowhere, where all of it moves.
    pub(super) rest: Option<u64>,
    pub(super) instructions: Vec<Instruction>,
}

impl Prologue {
    /// What isn't there any more where the function was: its first instructions,
    /// or as much as the jump takes.
    pub(super) fn gone(&self) -> Range<u64> {
        let moved = self.instructions.last().map_or(self.at, Instruction::next_ip);
        self.address..moved.max(self.at + JUMP)
    }
}

/// Decides about the function at `address`, whose code is `code`. `behind` is
/// what follows it, and `parts` is the code of parts that lie elsewhere.
pub(super) fn judge(
    address: u64,
    code: &[u8],
    behind: &[u8],
    parts: &[(u64, &[u8])],
) -> Result<Prologue, Refusal> {
    let end = address + code.len() as u64;
    let mut at = address;
    let mut instructions = Vec::new();
    for instruction in decode(address, code) {
        let next = instruction.next_ip();
        match instruction.flow_control() {
            _ if instruction.code() == Code::Endbr64 && instruction.ip() == address => {
                at = next;
                continue;
            }
            _ if instruction.is_invalid() => return Err(Refusal::Undecodable),
            FlowControl::Call | FlowControl::IndirectCall
                if next - at < JUMP || !is_plain_call(&instruction) =>
            {
                return Err(Refusal::Call);
            }
            FlowControl::Interrupt | FlowControl::Exception | FlowControl::XbeginXabortXend => {
                return Err(Refusal::Unmovable);
            }
            _ => instructions.push(instruction),
        }
        if next - at >= JUMP {
            break;
        }
    }
    let last = instructions.last().ok_or(Refusal::Short)?;
    let moved = last.next_ip();
    let ends = matches!(
        last.flow_control(),
        FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
    );
    if moved - at < JUMP {
        // All of it moves, and the jump reaches into the padding behind it.
        let until = at + JUMP;
        let padded = until <= end.next_multiple_of(ALIGNMENT) && is_padding(end, behind, until);
        if !ends || moved != end || !padded {
            return Err(Refusal::Short);
        }
    }
    let prologue = Prologue { at, address, rest: (!ends).then_some(moved), instructions };
    for &(start, code) in [(address, code)].iter().chain(parts) {
        check_targets(start, code, &prologue.gone())?;
    }
    Ok(prologue)
}

/// Whether a call can be told apart into pushing where it returns to, and a jump.
/// It then returns to the function itself, and no stack shows that it was moved.
fn is_plain_call(call: &Instruction) -> bool {
    match call.code() {
        Code::Call_rel32_64 => !arch::has_shadow_stack(),
        Code::Call_rm64 => {
            let through_stack =
                [call.memory_base(), call.memory_index(), call.op0_register()].contains(&Register::RSP);
            !through_stack && !arch::has_shadow_stack()
        }
        _ => false,
    }
}

fn decode(address: u64, code: &[u8]) -> Decoder<'_> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE)
}

/// Nothing may jump to what moves. Not to its beginning either: a loop there,
/// or a tail call of itself, would be a new call, in a frame of its own.
fn check_targets(address: u64, code: &[u8], gone: &Range<u64>) -> Result<(), Refusal> {
    for instruction in decode(address, code) {
        if instruction.is_invalid() {
            return Err(Refusal::Undecodable);
        }
        let target = instruction.near_branch_target();
        let is_call = instruction.flow_control() == FlowControl::Call;
        if target != 0 && gone.contains(&target) && !(is_call && target == gone.start) {
            return Err(Refusal::JumpsBack);
        }
    }
    Ok(())
}

/// Whether nothing is lost with the bytes from `address` to `until`.
fn is_padding(address: u64, bytes: &[u8], until: u64) -> bool {
    let is_filler = |i: &Instruction| i.code() == Code::Int3 || i.mnemonic() == Mnemonic::Nop;
    let mut end = address;
    for instruction in decode(address, bytes).into_iter().take_while(is_filler) {
        end = instruction.next_ip();
        if end >= until {
            break;
        }
    }
    end >= until
}
