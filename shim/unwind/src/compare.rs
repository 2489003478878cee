//! A remembered walk's slots as bytes, and comparing a stack with them.
//!
//! The offsets of all slots in words from rsp, first those of pairs (a saved
//! rbp and the return address above it), then those of single ones; behind them
//! the pairs' values and the single slots'. All are innermost first, and each
//! kind is filled up to groups of four with the outermost again, so that `find`
//! needs no loop for a rest.

use crate::memo::Entry;
use crate::memory::{StackBounds, StackMemory};
use crate::trace::Slots;

/// Slots are compared by so many.
pub(crate) const GROUP: usize = 4;

/// Writes a walk's slots. `None`: they don't fit.
pub(crate) fn write(record: &mut [u8], slots: &Slots, entry: &Entry) -> Option<()> {
    let pairs = slots.pair_offsets.get(..slots.pairs)?.iter().zip(slots.pair_values.get(..slots.pairs)?);
    let singles =
        slots.single_offsets.get(..slots.singles)?.iter().zip(slots.single_values.get(..slots.singles)?);
    let (offsets, values) = record.split_at_mut_checked(entry.offset_bytes())?;
    let (pair_offsets, single_offsets) = offsets.split_at_mut_checked(usize::from(entry.pairs) * 8)?;
    let (pair_values, single_values) = values.split_at_mut_checked(usize::from(entry.pairs) * 64)?;
    let pairs = pairs.map(|(offset, [bp, ip])| (*offset, u128::from(*ip) << 64 | u128::from(*bp)));
    put(pair_offsets, pair_values, pairs.rev(), slots.pairs, |value: u128| value.to_ne_bytes());
    let singles = singles.map(|(offset, value)| (*offset, *value));
    put(single_offsets, single_values, singles.rev(), slots.singles, |value: u64| value.to_ne_bytes());
    Some(())
}

/// Puts slots, and the last of them again until a group is full.
fn put<T: Copy, const N: usize>(
    offsets: &mut [u8],
    values: &mut [u8],
    slots: impl Iterator<Item = (u16, T)>,
    len: usize,
    bytes: impl Fn(T) -> [u8; N],
) {
    let places = offsets.chunks_exact_mut(2).zip(values.chunks_exact_mut(N));
    let mut last = None;
    let mut slots = slots;
    for (offset_place, value_place) in places.take(len.next_multiple_of(GROUP)) {
        last = slots.next().or(last);
        let Some((offset, value)) = last else { return };
        offset_place.copy_from_slice(&offset.to_ne_bytes());
        value_place.copy_from_slice(&bytes(value));
    }
}

/// The slots of a record: offsets, and the words that were there.
fn slots(record: &[u8], entry: &Entry) -> impl Iterator<Item = (u16, u64)> {
    let (offsets, values) = record.split_at(record.len().min(entry.offset_bytes()));
    let (pair_values, single_values) = values.split_at(values.len().min(usize::from(entry.pairs) * 64));
    let mut offsets = offsets.chunks_exact(2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let pairs = pair_values.chunks_exact(8);
    let singles = single_values.chunks_exact(8).map(word);
    let mut offset = 0;
    let pair_words = pairs.enumerate().map(move |(i, bytes)| (i % 2 == 0, word(bytes)));
    pair_words.chain(singles.map(|value| (true, value))).map(move |(next, value)| {
        offset = if next { offsets.next().unwrap_or(u16::MAX) } else { offset.saturating_add(1) };
        (offset, value)
    })
}

/// Whether the stack has the values of `entry`, whose start it has. `false`
/// where any of them would be outside `stack`.
pub(crate) fn same(record: &[u8], entry: &Entry, stack: &StackBounds) -> bool {
    slots(record, entry).all(|(offset, value)| stack.read(address(entry.sp, offset)) == Some(value))
}

/// The lowest offset where the stack has another value than `entry`.
pub(crate) fn difference(record: &[u8], entry: &Entry, stack: &StackBounds, sp: u64) -> Option<u16> {
    let differs = |slot: &(u16, u64)| stack.read(address(sp, slot.0)) != Some(slot.1);
    slots(record, entry).filter(differs).map(|(offset, _)| offset).min()
}

/// Whether the word at `offset` is one of the slots.
pub(crate) fn has_slot(record: &[u8], entry: &Entry, offset: u16) -> bool {
    slots(record, entry).any(|(slot, _)| slot == offset)
}

fn address(sp: u64, offset: u16) -> u64 {
    sp.wrapping_add(u64::from(offset) << 3)
}
