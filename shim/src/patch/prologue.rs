//! A function's first instructions: which have to move for a jump to take their
//! place, and whether they can.

use super::refusal::Refusal;
use crate::arch;
use crate::decoder::{can_decode, decode};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, Register};
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
    address: u64,
    /// Where the rest of the function goes on; nowhere, where all of it moves.
    pub(super) rest: Option<u64>,
    pub(super) instructions: Vec<Instruction>,
}

impl Prologue {
    /// Where the function begins.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Whether the jump takes the place of one instruction, and no more.
    pub(super) fn is_one_instruction(&self) -> bool {
        self.instructions.len() == 1 && self.rest.is_some()
    }

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
    if !can_decode() {
        return Err(Refusal::NoTables);
    }
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
    for instruction in decode(address, bytes).take_while(is_filler) {
        end = instruction.next_ip();
        if end >= until {
            break;
        }
    }
    end >= until
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge_at_64k(code: &[u8]) -> Result<Prologue, Refusal> {
        judge(0x10000, code, &[0xcc; 16], &[])
    }

    /// Whatever the bytes are: no panic, and what moves is whole instructions,
    /// one after the other, with room for the jump.
    #[test]
    fn any_bytes_are_judged() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        let mut movable = 0;
        for _ in 0..100_000 {
            let len = usize::from(random() % 40);
            let code: Vec<u8> = (0..len).map(|_| random()).collect();
            let Ok(prologue) = judge_at_64k(&code) else { continue };
            movable += 1;
            let mut next = prologue.at;
            for instruction in &prologue.instructions {
                assert_eq!(instruction.ip(), next, "{code:x?}");
                next = instruction.next_ip();
            }
            assert!(prologue.rest.is_none_or(|rest| rest == next && rest >= prologue.at + JUMP), "{code:x?}");
            assert!(prologue.gone().end >= prologue.at + JUMP, "{code:x?}");
        }
        assert!(movable > 1000, "{movable}");
    }

    #[test]
    fn endbr64_stays_where_it_is() {
        // endbr64; sub rsp, 8; lea rdi, [rip + 16]; ret
        let code = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x08, 0x48, 0x8d, 0x3d, 0x10, 0, 0, 0, 0xc3];
        let prologue = judge_at_64k(&code).unwrap();
        assert_eq!((prologue.at, prologue.rest), (0x10004, Some(0x1000f)));
    }

    /// With other threads around, only that can be patched.
    #[test]
    fn one_instruction_may_give_room() {
        // [endbr64;] lea rax, [rdi + rdi + 1]; ret. push rbp; mov rbp, rsp; nop; ret.
        let one = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8d, 0x44, 0x3f, 0x01, 0xc3];
        assert!(judge_at_64k(&one).unwrap().is_one_instruction());
        assert!(judge_at_64k(&one[4..]).unwrap().is_one_instruction());
        assert!(!judge_at_64k(&[0x55, 0x48, 0x89, 0xe5, 0x90, 0xc3]).unwrap().is_one_instruction());
        // ret, and padding.
        assert!(!judge_at_64k(&[0xc3]).unwrap().is_one_instruction());
    }

    #[test]
    fn what_cant_be_moved_is_refused() {
        // jne to its own second instruction; a breakpoint; a call through rsp.
        let back = [0x31, 0xc0, 0xff, 0xc0, 0x39, 0xf8, 0x75, 0xfa, 0xc3];
        assert!(matches!(judge_at_64k(&back), Err(Refusal::JumpsBack)));
        assert!(matches!(judge_at_64k(&[0xcc, 0x90, 0x90, 0x90, 0x90, 0xc3]), Err(Refusal::Unmovable)));
        let through_stack = [0xff, 0x94, 0x24, 0x10, 0, 0, 0, 0xc3];
        assert!(matches!(judge_at_64k(&through_stack), Err(Refusal::Call)));
        assert!(matches!(judge(0x10000, &[0xc3], &[0x55; 16], &[]), Err(Refusal::Short)));
    }
}
