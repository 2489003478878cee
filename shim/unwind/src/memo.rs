//! Walks that need not be walked again.
//!
//! A walk by the table is a pure function of where it starts, of the modules,
//! and of the stack slots that it reads. So those slots and their values are
//! kept with the number that the caller gave to the stack; when the same start
//! comes again, comparing the slots (loads that don't depend on each other,
//! unlike a chain of frame pointers) tells that it is the same stack.
//!
//! What makes it exact, each with a test that fails without it
//! (`tests/memo.rs`): the modules' generation; the start's ip, rsp and kind;
//! rbp where the walk used it, and only there, since code without frame
//! pointers keeps anything in it; all slots that decided the walk; no walk that
//! saw a failed read; bounds that still hold the slots.

use crate::compare::Remembered;
use crate::machine::Regs;
use crate::memory::StackBounds;
use crate::trace::{Slots, Trace};

const SETS: usize = 32;
const WAYS: usize = 8;
/// Sets that the stacks of one start and caller may fill.
const PROBES: usize = 4;
/// Words of slot values and offsets, written round and round.
const ARENA: usize = 6144;

/// What a walk was asked for, beside its registers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Question {
    /// The generation of the modules.
    pub(crate) generation: u64,
    /// Policy, room for frames, whether the start is exact.
    pub(crate) kind: u64,
}

/// Valid when zeroed: no key is 0.
pub(crate) struct Memo {
    keys: [[u64; WAYS]; SETS],
    entries: [[Entry; WAYS]; SETS],
    arena: [u64; ARENA],
    /// Where the next entry's words go, counted on and on: the words at `at`
    /// are still there while `head - at <= ARENA`.
    head: u64,
    generation: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    ip: u64,
    sp: u64,
    bp: u64,
    kind: u64,
    at: u64,
    id: u32,
    pairs: u16,
    singles: u16,
    extent: u16,
    bp_is_live: bool,
}

/// A place in the table and a first test of equality. `caller`: something that
/// tells callers of one function apart.
#[inline(always)]
fn key(regs: &Regs, kind: u64, caller: u64) -> u64 {
    let mixed = regs.ip ^ regs.sp.rotate_left(20) ^ caller.rotate_left(41) ^ kind.rotate_left(57);
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

#[inline(always)]
fn set_of(key: u64) -> usize {
    (key >> 59) as usize
}

impl Memo {
    /// The number of the stack that starts at `regs`, where it is remembered
    /// and nothing that it depends on has changed.
    #[inline(always)]
    pub(crate) fn lookup(
        &self,
        question: Question,
        stack: &StackBounds,
        regs: &Regs,
        caller: u64,
    ) -> Option<u32> {
        if self.generation != question.generation {
            return None;
        }
        let key = key(regs, question.kind, caller);
        // Where all of a set is taken by one key, its other stacks are in the next set.
        for i in 0..PROBES {
            let set = set_of(key).wrapping_add(i) & (SETS - 1);
            let (keys, entries) = (self.keys.get(set)?, self.entries.get(set)?);
            let mut full = true;
            for (known, entry) in keys.iter().zip(entries) {
                if *known != key {
                    full = false;
                } else if self.is(entry, question.kind, stack, regs) {
                    return Some(entry.id);
                }
            }
            if !full {
                return None;
            }
        }
        None
    }

    #[inline(always)]
    fn is(&self, entry: &Entry, kind: u64, stack: &StackBounds, regs: &Regs) -> bool {
        entry.ip == regs.ip
            && entry.sp == regs.sp
            && entry.kind == kind
            && (entry.bp == regs.bp || !entry.bp_is_live)
            && self.slots(entry).is_some_and(|slots| slots.are_in(stack, regs.sp))
    }

    /// An entry's slots; `None` where they were overwritten since.
    #[inline(always)]
    fn slots(&self, entry: &Entry) -> Option<Remembered<'_>> {
        if self.head.wrapping_sub(entry.at) > ARENA as u64 {
            return None;
        }
        let (pairs, singles) = (usize::from(entry.pairs), usize::from(entry.singles));
        let words = self.arena.get(entry.at as usize % ARENA..)?;
        let (pair_words, rest) = words.split_at_checked(pairs.wrapping_mul(2))?;
        let (single_words, rest) = rest.split_at_checked(singles)?;
        let offsets = rest.get(..offset_words(pairs, singles))?;
        let offsets = crate::halves::as_u16s(offsets);
        let (pair_offsets, rest) = offsets.split_at_checked(pairs)?;
        Some(Remembered {
            pairs: pair_words.as_chunks().0,
            pair_offsets,
            singles: single_words,
            single_offsets: rest.get(..singles)?,
            extent: entry.extent,
        })
    }

    /// Remembers a walk under a number. Whatever can't be remembered isn't.
    pub(crate) fn remember(&mut self, question: Question, regs: &Regs, caller: u64, trace: &Trace, id: u32) {
        if self.generation != question.generation {
            self.keys = [[0; WAYS]; SETS];
            self.generation = question.generation;
        }
        let Some((at, shape)) = self.write(trace) else { return };
        let key = key(regs, question.kind, caller);
        let (set, way) = self.place(key);
        let entry = Entry {
            ip: regs.ip,
            sp: regs.sp,
            bp: regs.bp,
            kind: question.kind,
            at,
            id,
            pairs: shape.pairs,
            singles: shape.singles,
            extent: shape.extent,
            bp_is_live: trace.start_bp_is_live(),
        };
        if let Some(place) = self.entries.get_mut(set).and_then(|s| s.get_mut(way)) {
            *place = entry;
        }
        if let Some(place) = self.keys.get_mut(set).and_then(|s| s.get_mut(way)) {
            *place = key;
        }
    }

    /// The place for a new entry: in the sets where a lookup would come by, a
    /// free one or the oldest.
    fn place(&self, key: u64) -> (usize, usize) {
        let mut oldest = (u64::MAX, set_of(key), 0);
        for i in 0..PROBES {
            let set = set_of(key).wrapping_add(i) & (SETS - 1);
            let (Some(keys), Some(entries)) = (self.keys.get(set), self.entries.get(set)) else {
                break;
            };
            for (way, (known, entry)) in keys.iter().zip(entries).enumerate() {
                let at = if *known == 0 { 0 } else { entry.at };
                if at < oldest.0 {
                    oldest = (at, set, way);
                }
            }
            // A lookup goes on only where all of the set is this key's.
            if keys.iter().any(|known| *known != key) {
                break;
            }
        }
        (oldest.1, oldest.2)
    }

    /// Writes a trace's live slots, neighbours as pairs, into the arena.
    fn write(&mut self, trace: &Trace) -> Option<(u64, Shape)> {
        let shape = Shape::of(trace)?;
        let (pairs, singles) = (usize::from(shape.pairs), usize::from(shape.singles));
        let values = pairs.checked_mul(2)?.checked_add(singles)?;
        let words = values.checked_add(offset_words(pairs, singles))?;
        if words > ARENA {
            return None;
        }
        // Never across the end.
        let room = ARENA.wrapping_sub(self.head as usize % ARENA);
        let at = if words <= room { self.head } else { self.head.wrapping_add(room as u64) };
        self.head = at.wrapping_add(words as u64);
        let place = self.arena.get_mut(at as usize % ARENA..)?.get_mut(..words)?;
        let (value_words, offset_place) = place.split_at_mut_checked(values)?;
        let (pair_words, single_words) = value_words.split_at_mut_checked(pairs.wrapping_mul(2))?;
        let offsets = crate::halves::as_u16s_mut(offset_place);
        let (pair_offsets, single_offsets) = offsets.split_at_mut_checked(pairs)?;
        let mut pair_slots = pair_offsets.iter_mut().zip(pair_words.as_chunks_mut().0);
        let mut single_slots = single_offsets.iter_mut().zip(single_words);
        for slots in trace.live() {
            match slots? {
                Slots::Pair(offset, values) => {
                    let (o, v) = pair_slots.next()?;
                    (*o, *v) = (offset, values);
                }
                Slots::Single(offset, value) => {
                    let (o, v) = single_slots.next()?;
                    (*o, *v) = (offset, value);
                }
            }
        }
        Some((at, shape))
    }
}

fn offset_words(pairs: usize, singles: usize) -> usize {
    pairs.wrapping_add(singles).div_ceil(4)
}

struct Shape {
    pairs: u16,
    singles: u16,
    extent: u16,
}

impl Shape {
    fn of(trace: &Trace) -> Option<Shape> {
        let mut shape = Shape { pairs: 0, singles: 0, extent: 0 };
        for slots in trace.live() {
            let last = match slots? {
                Slots::Pair(offset, _) => {
                    shape.pairs = shape.pairs.checked_add(1)?;
                    offset.checked_add(1)?
                }
                Slots::Single(offset, _) => {
                    shape.singles = shape.singles.checked_add(1)?;
                    offset
                }
            };
            shape.extent = shape.extent.max(last);
        }
        Some(shape)
    }
}
