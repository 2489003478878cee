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

use crate::compare::{self, Shape};
use crate::machine::Regs;
use crate::memory::StackBounds;
use crate::trace::Slots;
use std::cell::Cell;

const SETS: usize = 32;
const WAYS: usize = 8;
/// Sets that the stacks of one start and callers may be in.
const PROBES: usize = 4;
const RECENT: usize = 64;
/// Words of slot values and offsets, written round and round.
const ARENA: usize = 4864;

/// What a walk was asked for, beside its registers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Question {
    /// The generation of the modules.
    pub(crate) generation: u64,
    /// Policy, room for frames, whether the start is exact.
    pub(crate) kind: u64,
}

/// Valid when zeroed: no tag is 0.
pub(crate) struct Memo {
    /// The entry that was right the last time for starts like this; found
    /// without a look at the stack.
    recent: [Cell<u16>; RECENT],
    tags: [[u32; WAYS]; SETS],
    entries: [[Entry; WAYS]; SETS],
    arena: [u64; ARENA],
    /// Where the next entry's words go, counted on and on: the words at `at`
    /// are still there while `head - at <= ARENA`.
    head: u64,
    generation: u64,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Entry {
    ip: u64,
    sp: u64,
    bp: u64,
    kind: u64,
    at: u64,
    id: u32,
    /// The index in the arena that goes with `at`.
    index: u32,
    shape: Shape,
    bp_is_live: bool,
}

/// Where a start's entries are, and a first test of whether one is its own.
#[derive(Clone, Copy)]
struct Place {
    set: usize,
    tag: u32,
}

impl Place {
    /// `caller`: something that tells callers of one function apart.
    #[inline(always)]
    fn of(regs: &Regs, kind: u64, caller: u64) -> Place {
        let mixed = regs.ip ^ regs.sp.rotate_left(20) ^ caller.rotate_left(41) ^ kind.rotate_left(57);
        let hash = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Place { set: (hash >> 59) as usize, tag: (hash >> 24) as u32 | 1 }
    }

    /// An entry is in any of these, so that a start may have many stacks.
    #[inline(always)]
    fn sets(self) -> impl Iterator<Item = usize> {
        (0..PROBES).map(move |i| self.set.wrapping_add(i) & (SETS - 1))
    }
}

/// A bit for each way that has the tag.
#[inline(always)]
fn ways_of(tags: &[u32; WAYS], tag: u32) -> u32 {
    let mut ways = 0;
    for (way, known) in tags.iter().enumerate() {
        ways |= u32::from(*known == tag) << way;
    }
    ways
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
        caller: impl FnOnce() -> u64,
    ) -> Option<u32> {
        if self.generation != question.generation {
            return None;
        }
        let recent = self.recent.get((regs.ip ^ regs.sp >> 4) as usize & (RECENT - 1))?;
        let entry = self.entries.as_flattened().get(usize::from(recent.get()))?;
        if self.is(entry, question.kind, stack, regs) {
            return Some(entry.id);
        }
        let place = Place::of(regs, question.kind, caller());
        self.search(place, question.kind, stack, regs, recent)
    }

    fn search(
        &self,
        place: Place,
        kind: u64,
        stack: &StackBounds,
        regs: &Regs,
        recent: &Cell<u16>,
    ) -> Option<u32> {
        for set in place.sets() {
            let (tags, entries) = (self.tags.get(set)?, self.entries.get(set)?);
            let mut ways = ways_of(tags, place.tag);
            while ways != 0 {
                let way = ways.trailing_zeros() as usize;
                let entry = entries.get(way)?;
                if self.is(entry, kind, stack, regs) {
                    recent.set(set.wrapping_mul(WAYS).wrapping_add(way) as u16);
                    return Some(entry.id);
                }
                ways &= ways.wrapping_sub(1);
            }
        }
        None
    }

    #[inline(always)]
    fn is(&self, entry: &Entry, kind: u64, stack: &StackBounds, regs: &Regs) -> bool {
        let start = (entry.ip ^ regs.ip) | (entry.sp ^ regs.sp) | (entry.kind ^ kind);
        let bp = if entry.bp_is_live { entry.bp ^ regs.bp } else { 0 };
        start | bp == 0
            && self.head.wrapping_sub(entry.at) <= ARENA as u64
            && self
                .arena
                .get(entry.index as usize..)
                .is_some_and(|words| compare::same(words, entry.shape, stack, regs.sp))
    }

    /// Remembers a walk under a number. Whatever can't be remembered isn't.
    pub(crate) fn remember(&mut self, question: Question, regs: &Regs, caller: u64, slots: &Slots, id: u32) {
        if self.generation != question.generation {
            self.tags = [[0; WAYS]; SETS];
            self.entries.as_flattened_mut().iter_mut().for_each(|entry| entry.ip = 0);
            self.generation = question.generation;
        }
        let Some((at, shape)) = self.write(slots) else { return };
        let place = Place::of(regs, question.kind, caller);
        let (set, way) = self.oldest(place);
        let entry = Entry {
            ip: regs.ip,
            sp: regs.sp,
            bp: regs.bp,
            kind: question.kind,
            at,
            id,
            index: (at % ARENA as u64) as u32,
            shape,
            bp_is_live: slots.start_bp_is_live,
        };
        if let Some(slot) = self.entries.get_mut(set).and_then(|s| s.get_mut(way)) {
            *slot = entry;
        }
        if let Some(slot) = self.tags.get_mut(set).and_then(|s| s.get_mut(way)) {
            *slot = place.tag;
        }
    }

    /// Where a new entry goes: in the sets where a lookup would come by, the
    /// free or the oldest place.
    fn oldest(&self, place: Place) -> (usize, usize) {
        let mut oldest = (u64::MAX, place.set, 0);
        for set in place.sets() {
            let (Some(tags), Some(entries)) = (self.tags.get(set), self.entries.get(set)) else {
                break;
            };
            for (way, (known, entry)) in tags.iter().zip(entries).enumerate() {
                let at = if *known == 0 { 0 } else { entry.at };
                if at < oldest.0 {
                    oldest = (at, set, way);
                }
            }
        }
        (oldest.1, oldest.2)
    }

    /// Writes a walk's slots into the arena; returns where, counted on.
    fn write(&mut self, slots: &Slots) -> Option<(u64, Shape)> {
        let shape = Shape {
            pairs: u16::try_from(slots.pairs).ok()?,
            singles: u16::try_from(slots.singles).ok()?,
            extent: slots.extent,
        };
        let words = shape.words();
        if words > ARENA {
            return None;
        }
        // Never across the end.
        let room = ARENA.wrapping_sub((self.head % ARENA as u64) as usize);
        let at = if words <= room { self.head } else { self.head.wrapping_add(room as u64) };
        self.head = at.wrapping_add(words as u64);
        let place = self.arena.get_mut((at % ARENA as u64) as usize..)?.get_mut(..words)?;
        compare::write(place, slots, shape)?;
        Some((at, shape))
    }
}
