//! What leads into a function's first instructions past its entry: parts of it
//! that compilers put elsewhere, and tables of jumps. Without symbols nothing else
//! tells of either.
#![allow(unsafe_code)]

use super::image::Image;
use super::references::each_distance;
use super::text;
use crate::decoder::decode;
use crate::modules::Loaded;
use iced_x86::{FlowControl, Instruction, OpKind};
use std::ops::Range;

/// No table has more entries.
const ENTRIES: u64 = 8192;

/// Those of the addresses `inner`, which are sorted, that the module's code jumps
/// to or takes. Between sections, and so between the parts of a function, distances
/// have four bytes.
pub(super) fn entered(module: &Loaded, inner: &[u64]) -> Vec<u64> {
    let mut found = Vec::new();
    for segment in &module.code {
        let Some(code) = text::code_from(module, segment.start) else { continue };
        each_distance(segment.start, code, inner, |at, target| {
            let before = |n| at.checked_sub(n).and_then(|at| code.get(at)).copied().unwrap_or_default();
            match (before(2), before(1)) {
                // jmp, call, jcc, lea.
                (_, 0xe9 | 0xe8) | (0x0f, 0x80..=0x8f) => found.push(target),
                (0x8d, byte) if byte & 0xc7 == 0x05 => found.push(target),
                _ => {}
            }
        });
    }
    found.sort_unstable();
    found
}

/// Whether a table through which the function jumps has an entry in `gone`.
pub(super) fn through_table(
    module: &Loaded,
    image: &Image<'_>,
    address: u64,
    code: &[u8],
    gone: &Range<u64>,
) -> bool {
    let mut jumps = false;
    let mut tables = Vec::new();
    for instruction in decode(address, code) {
        jumps |= instruction.flow_control() == FlowControl::IndirectBranch;
        tables.extend(addresses(&instruction));
    }
    let own = address..address + code.len() as u64;
    jumps && tables.iter().any(|&table| Table { module, image, at: table }.leads(&own, gone))
}

/// What may be the address of a table.
fn addresses(instruction: &Instruction) -> impl Iterator<Item = u64> {
    let relative = instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
    let displacement = (relative.is_none() && instruction.memory_displ_size() >= 4)
        .then(|| instruction.memory_displacement64());
    let immediate = (0..instruction.op_count())
        .find(|&n| {
            let kinds = [OpKind::Immediate32, OpKind::Immediate32to64, OpKind::Immediate64];
            kinds.contains(&instruction.op_kind(n))
        })
        .map(|n| instruction.immediate(n));
    [relative, displacement, immediate].into_iter().flatten()
}

struct Table<'a> {
    module: &'a Loaded,
    image: &'a Image<'a>,
    at: u64,
}

impl Table<'_> {
    /// Of addresses, or of distances from its beginning.
    fn leads(&self, own: &Range<u64>, gone: &Range<u64>) -> bool {
        let bias = self.module.identity.bias;
        let Some(bytes) = self.image.readable(self.at.wrapping_sub(bias)) else { return false };
        let address = |n: u64| {
            // SAFETY: within a readable segment of a module that is loaded.
            unsafe { ((self.at + 8 * n) as *const u64).read_unaligned() }
        };
        let distance = |n: u64| {
            // SAFETY: as above.
            let distance = unsafe { ((self.at + 4 * n) as *const i32).read_unaligned() };
            self.at.wrapping_add_signed(i64::from(distance))
        };
        self.reaches((0..ENTRIES.min(bytes / 8)).map(address), own, gone)
            || self.reaches((0..ENTRIES.min(bytes / 4)).map(distance), own, gone)
    }

    /// Entries of a function's own table lead to it, and to parts of it that are
    /// elsewhere. What begins with others is a table of functions, among which it
    /// may be itself.
    fn reaches(&self, entries: impl Iterator<Item = u64>, own: &Range<u64>, gone: &Range<u64>) -> bool {
        let is_code = |at: &u64| self.module.code.iter().any(|code| code.contains(at));
        let mut is_own = true;
        entries.take_while(is_code).any(|entry| {
            is_own &= own.contains(&entry);
            gone.contains(&entry) && (is_own || entry != gone.start)
        })
    }
}
