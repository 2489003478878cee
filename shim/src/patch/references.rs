//! How a module's code uses a slot: only to call through it, or also to take
//! the function's address from it, which it may then compare.

use crate::decoder::decode;
use iced_x86::{FlowControl, Mnemonic, OpKind};
use std::ops::Range;

/// More code than this is not looked through; then addresses count as taken.
pub(super) const LIMIT: u64 = 64 << 20;
/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// Instructions that are looked at behind a load for what becomes of it.
const NEAR: usize = 8;

/// Those of `slots` that `code` at `start` refers to: by calls and jumps, and
/// in any other way; and of the latter, those whose value is compared nearby.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    pub(super) called: Vec<u64>,
    pub(super) loaded: Vec<u64>,
    pub(super) compared: Vec<u64>,
}

impl References {
    /// Looks through some of a module's code. Operands relative to the
    /// instruction pointer end in a distance of four bytes: whatever bytes say
    /// the distance to a slot, from their own end, are taken for one. `slots`
    /// are sorted.
    pub(super) fn add(&mut self, start: u64, code: &[u8], slots: &[u64]) {
        each_distance(start, code, slots, |at, slot| {
            let before =
                |n: usize| at.checked_sub(n).and_then(|at| code.get(at)).copied().unwrap_or_default();
            match (before(2), before(1)) {
                // call and jmp.
                (0xff, 0x15 | 0x25) => self.called.push(slot),
                // Any instruction with such an operand.
                (opcode, byte) if byte & 0xc7 == 0x05 => {
                    self.loaded.push(slot);
                    let is_compared = match opcode {
                        // cmp, one way and the other.
                        0x39 | 0x3b => true,
                        // mov to a register, with a prefix of eight bytes' operands.
                        0x8b => compares(code.get(at - 3..).unwrap_or_default()),
                        _ => false,
                    };
                    if is_compared {
                        self.compared.push(slot);
                    }
                }
                _ => {}
            }
        });
    }
}

/// Calls `found` for whatever four bytes of the code say the distance, from their
/// own end, to one of `targets`, which are sorted: with the place of the bytes in
/// the code, and the target.
pub(super) fn each_distance(start: u64, code: &[u8], targets: &[u64], mut found: impl FnMut(usize, u64)) {
    let (Some(&first), Some(&last)) = (targets.first(), targets.last()) else { return };
    // All that matters of addresses less than 2 GiB apart is 32 bits.
    let span = last.wrapping_sub(first) as u32;
    let mut each = |within: Range<usize>| {
        for at in within {
            let Some(distance) = code.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { return };
            let distance = i64::from(i32::from_le_bytes(*distance));
            let target = start.wrapping_add(at as u64 + 4).wrapping_add_signed(distance);
            if targets.binary_search(&target).is_ok() {
                found(at, target);
            }
        }
    };
    let blocks = code.len().saturating_sub(3) / BLOCK;
    for block in 0..blocks {
        let at = block * BLOCK;
        let origin = start.wrapping_add(at as u64 + 4).wrapping_sub(first) as u32;
        if let Some(bytes) = code.get(at..).and_then(|rest| rest.first_chunk())
            && may_refer(bytes, origin, span)
        {
            each(at..at + BLOCK);
        }
    }
    each(blocks * BLOCK..code.len());
}

/// Whether code that begins with a load into a register soon compares it.
fn compares(code: &[u8]) -> bool {
    let mut following = decode(0, code);
    let Some(load) = following.next().filter(|load| load.mnemonic() == Mnemonic::Mov) else { return false };
    let register = load.op0_register();
    for instruction in following.take(NEAR) {
        let is_it = |operand: u32| {
            instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand) == register
        };
        match instruction.mnemonic() {
            Mnemonic::Cmp if is_it(0) || is_it(1) => return true,
            _ if instruction.flow_control() != FlowControl::Next => return false,
            // Another value from here on.
            Mnemonic::Mov | Mnemonic::Lea | Mnemonic::Pop if is_it(0) => return false,
            _ => {}
        }
    }
    false
}

/// Whether any four bytes that begin in the block may be a distance to a slot.
/// In a form that compilers make vector instructions of.
fn may_refer(block: &[u8; BLOCK + 3], origin: u32, span: u32) -> bool {
    let mut found = false;
    for phase in 0..4 {
        for word in 0..BLOCK / 4 {
            let at = word * 4 + phase;
            let bytes = [block[at], block[at + 1], block[at + 2], block[at + 3]];
            found |= u32::from_le_bytes(bytes).wrapping_add(origin).wrapping_add(at as u32) <= span;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code with a reference to `slot` behind these bytes, at every place.
    fn code_with(opcode: &[u8], at: usize, start: u64, slot: u64) -> Vec<u8> {
        let mut code = vec![0x90; 300];
        let end = at + opcode.len();
        code[at..end].copy_from_slice(opcode);
        let distance = slot.wrapping_sub(start + end as u64 + 4) as i64 as i32;
        code[end..end + 4].copy_from_slice(&distance.to_le_bytes());
        code
    }

    #[test]
    fn tells_calls_from_loads_wherever_they_are() {
        let (start, slots) = (0x7f12_3456_7000, [0x7f12_3460_0008, 0x7f12_3460_0010, 0x7f12_3460_0100]);
        for slot in [slots[0], slots[1], slots[2], slots[0] + 4, slots[2] + 8] {
            let known = slots.contains(&slot);
            for at in 0..300 - 8 {
                let mut found = References::default();
                found.add(start, &code_with(&[0xff, 0x15], at, start, slot), &slots);
                found.add(start, &code_with(&[0xff, 0x25], at, start, slot), &slots);
                let called = if known { vec![slot; 2] } else { vec![] };
                assert_eq!(found, References { called, ..References::default() }, "{at}");
                // mov, lea, cmp: REX.W, the opcode, and a register.
                for opcode in [[0x48, 0x8b, 0x05], [0x4c, 0x8d, 0x3d], [0x48, 0x3b, 0x0d]] {
                    let mut found = References::default();
                    found.add(start, &code_with(&opcode, at, start, slot), &slots);
                    let loaded = if known { vec![slot] } else { vec![] };
                    let compared = if opcode[1] == 0x3b { loaded.clone() } else { vec![] };
                    assert_eq!(found, References { called: vec![], loaded, compared }, "{at}");
                }
            }
        }
    }

    #[test]
    fn a_load_that_is_compared_soon_is_a_comparison() {
        let (start, slot) = (0x5000_0000, 0x5000_4000);
        let load_rax = [0x48, 0x8b, 0x05];
        let is_compared = |behind: &[u8]| {
            let mut code = code_with(&load_rax, 20, start, slot);
            code[27..27 + behind.len()].copy_from_slice(behind);
            let mut found = References::default();
            found.add(start, &code, &[slot]);
            assert_eq!(found.loaded, [slot]);
            !found.compared.is_empty()
        };
        // cmp [rbp - 8], rax; cmp rax, rdi; mov rdi, rbx; cmp rdi, rax
        assert!(is_compared(&[0x48, 0x39, 0x45, 0xf8]) && is_compared(&[0x48, 0x39, 0xf8]));
        assert!(is_compared(&[0x48, 0x89, 0xdf, 0x48, 0x39, 0xc7]));
        // cmp rdi, rsi; call [rax]; mov rax, rbx; cmp rax, rdi
        assert!(!is_compared(&[0x48, 0x39, 0xf7, 0xff, 0x10, 0x48, 0x39, 0xf8]));
        assert!(!is_compared(&[0x48, 0x89, 0xd8, 0x48, 0x39, 0xf8]));
    }

    #[test]
    fn finds_backward_references() {
        let (start, slot) = (0x5000_0000, 0x4fff_0000);
        let mut found = References::default();
        found.add(start, &code_with(&[0xff, 0x15], 17, start, slot), &[slot]);
        assert_eq!(found.called, [slot]);
    }

    #[test]
    #[ignore = "a measurement: cargo test --release -p traceshim cost_of_looking -- --ignored --nocapture"]
    fn cost_of_looking_through_a_large_library() {
        let code: Vec<u8> = (0..100u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let slots: Vec<u64> = (0..40).map(|i| 0x7f00_1000_0000 + i * 8).collect();
        let begin = std::time::Instant::now();
        let mut found = References::default();
        found.add(0x7f00_0000_0000, &code, &slots);
        println!("{:?} for {} MiB, {found:?}", begin.elapsed(), code.len() >> 20);
    }
}
