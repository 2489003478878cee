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
//!
//! A lookup has two tiers. The first (`find`, in assembly, since trampolines
//! call it too) tries one entry: the one that was right the last time for this
//! start. Where one start has several stacks, the places of the words that tell
//! them apart are learned (*marks*, in a tree of nodes), and lead to the
//! entry. The second tier searches the sets that the stack's callers hash to,
//! and teaches the first.

use crate::capture::Policy;
use crate::compare;
use crate::find::{self, Way};
use crate::machine::Regs;
use crate::memory::StackBounds;
use crate::trace::Slots;
use std::cell::Cell;
use std::mem::offset_of;

const SETS: usize = 32;
const WAYS: usize = 8;
/// Sets that the stacks of one start and callers may be in.
const PROBES: usize = 4;
/// Pairs of nodes of marks.
pub(crate) const NODES: usize = 512;
/// Pairs of places that lead to an entry.
pub(crate) const LEAVES: usize = 256;
/// Bytes of slot values and offsets, written round and round.
pub(crate) const ARENA: usize = 40960;
/// After so many stacks that were remembered in vain, it takes two visits.
const PATIENCE: u8 = 64;
/// How many visits are known.
const SEEN: usize = 256;
/// How often a tree of marks is mended before it is left as it is.
const LESSONS: usize = 8;

/// What a capture was asked for beside its registers: policy, room for frames,
/// whether the start is exact, and a tag of the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Kind(pub(crate) u64);

impl Kind {
    /// What is never remembered.
    const NEVER: Kind = Kind(u64::MAX);

    /// `room` is the capture's `out.len()`; `tag` is the one of
    /// [`remember`](crate::Capturer::remember).
    #[inline(always)]
    pub fn new(ip_is_exact: bool, policy: Policy, room: usize, tag: u32) -> Kind {
        let policy = match policy {
            Policy::Table | Policy::Auto { c_on_stack: true } => 0,
            Policy::Auto { c_on_stack: false } => 1,
            Policy::FramePointer => return Kind::NEVER,
        };
        if room >= 1 << 29 {
            return Kind::NEVER;
        }
        Kind((room as u64) << 2 | policy << 1 | u64::from(ip_is_exact)).tagged(tag)
    }

    /// As [`find_remembered`](crate::find_remembered) takes it, the tag in the
    /// upper 32 bits.
    pub fn word(self) -> u64 {
        self.0
    }

    /// The same, asked for a purpose.
    #[inline(always)]
    pub(crate) fn tagged(self, tag: u32) -> Kind {
        Kind(self.0 | u64::from(tag) << 32)
    }

    pub(crate) fn is_remembered(self) -> bool {
        self != Kind::NEVER
    }

    pub(crate) fn ip_is_exact(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Valid when zeroed: no tag of a set is 0, and no start is at address 0.
#[repr(C, align(64))]
pub(crate) struct Memo {
    pub(crate) nodes: [[Cell<Tagged>; 2]; NODES],
    pub(crate) leaves: [[Cell<Tagged>; 2]; LEAVES],
    pub(crate) entries: [Entry; SETS * WAYS],
    pub(crate) arena: Arena,
    /// Where the next entry's bytes go, counted on and on: the bytes at `at`
    /// are still there while `head - at <= ARENA`.
    pub(crate) head: u64,
    tags: [[u32; WAYS]; SETS],
    /// For each node an entry on whose account it was made.
    examples: [[Cell<u16>; 2]; NODES],
    /// Counts what was replaced.
    replaced: Cell<usize>,
    /// Stacks that were remembered since one of them came again.
    vain: Cell<u8>,
    /// Tags of stacks that weren't remembered.
    seen: [u32; SEEN],
    generation: u64,
}

#[repr(C, align(16))]
pub(crate) struct Arena([u8; ARENA]);

/// Half of a hash, and what is known of stacks with this hash: in a node, where
/// they differ (an offset from rsp in words, plus one); in a leaf, the entry
/// that was right the last time.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Tagged {
    pub(crate) tag: u16,
    pub(crate) value: u16,
}

impl Tagged {
    fn new(hash: u32, value: u16) -> Tagged {
        Tagged { tag: hash as u16, value }
    }

    /// Which of a pair has the hash, and its value.
    pub(crate) fn find(pair: &[Cell<Tagged>; 2], hash: u32) -> Option<(usize, u16)> {
        let n = pair.iter().position(|place| place.get().tag == hash as u16)?;
        pair.get(n).map(|place| (n, place.get().value))
    }

    /// Puts a value where the hash has its place, or else in the place of
    /// `victim`; returns which.
    fn put(self, pair: &[Cell<Tagged>; 2], victim: usize) -> usize {
        let free = || pair.iter().position(|place| place.get() == Tagged::default());
        let n = pair.iter().position(|place| place.get().tag == self.tag).or_else(free).unwrap_or(victim);
        if let Some(place) = pair.get(n) {
            place.set(self);
        }
        n
    }
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Entry {
    pub(crate) ip: u64,
    pub(crate) sp: u64,
    pub(crate) kind: Kind,
    pub(crate) bp: u64,
    /// All ones where rbp matters, else 0.
    pub(crate) bp_mask: u64,
    pub(crate) at: u64,
    pub(crate) id: u32,
    /// Where the slots' values are: bytes from the memo's start.
    pub(crate) values: u32,
    /// Where the slots' offsets are, which end where the values begin.
    pub(crate) offsets: u32,
    /// The highest offset of a slot, in words.
    pub(crate) extent: u16,
    /// Groups of four.
    pub(crate) pairs: u8,
    pub(crate) singles: u8,
}

/// Where a start's entries are, and a first test of whether one is its own.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    set: usize,
    tag: u32,
}

impl Place {
    /// `caller`: something that tells callers of one function apart.
    #[inline(always)]
    pub(crate) fn of(regs: &Regs, kind: Kind, caller: u64) -> Place {
        let mixed = regs.ip ^ regs.sp.rotate_left(20) ^ caller.rotate_left(41) ^ kind.0.rotate_left(57);
        // 2^64 divided by the golden ratio.
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
    /// and nothing that it depends on has changed: the first tier.
    #[inline(always)]
    pub(crate) fn lookup(
        &self,
        generation: u64,
        kind: Kind,
        stack: &StackBounds,
        regs: &Regs,
    ) -> Option<u32> {
        let may = self.generation == generation && regs.sp >= stack.lo();
        may.then(|| find::remembered(self, kind, stack, regs)).flatten()
    }

    /// The second tier. What it finds the first tier finds from then on.
    pub(crate) fn search(
        &self,
        generation: u64,
        kind: Kind,
        stack: &StackBounds,
        regs: &Regs,
        caller: u64,
    ) -> Option<u32> {
        if self.generation != generation || regs.sp < stack.lo() {
            return None;
        }
        let place = Place::of(regs, kind, caller);
        for set in place.sets() {
            let mut ways = ways_of(self.tags.get(set)?, place.tag);
            while ways != 0 {
                let n = set.wrapping_mul(WAYS).wrapping_add(ways.trailing_zeros() as usize);
                let entry = self.entries.get(n)?;
                if self.is(entry, kind, stack, regs) {
                    self.vain.set(0);
                    self.teach(n, kind, stack, regs);
                    return Some(entry.id);
                }
                ways &= ways.wrapping_sub(1);
            }
        }
        None
    }

    /// Has the first tier find entry `n`, which is the stack's.
    ///
    /// A mark is the first slot in which two stacks of one start differ: up to
    /// there they have the same slots, so that it is one of both. (Other words
    /// of a stack may be anything each time.) Marks are met from the inside
    /// out; a mark that isn't a slot of this stack was made for stacks that
    /// differ from it further inside.
    #[inline(never)]
    fn teach(&self, n: usize, kind: Kind, stack: &StackBounds, regs: &Regs) {
        let Some(entry) = self.entries.get(n) else { return };
        for _ in 0..LESSONS {
            let way = Way::of(self, kind, stack, regs);
            let marks = way.marks.get(..way.len).unwrap_or_default();
            let stray = marks.iter().position(|&mark| !self.has_slot(entry, mark));
            let other = match stray {
                Some(at) => way.hashes.get(at).and_then(|&hash| self.example(hash)),
                None => self.leaf(way.end()),
            };
            let other = other.filter(|other| other.starts(kind, regs));
            let Some(offset) = other.and_then(|other| self.difference(other, stack, regs.sp)) else {
                // Nothing to tell it apart from (any more).
                let Some(at) = stray else { return self.put_leaf(way.end(), n) };
                self.put_node(way.hashes.get(at), None, n);
                continue;
            };
            let at = marks.iter().position(|&mark| mark > offset).unwrap_or(way.len);
            if at >= find::MOST_MARKS || !self.has_slot(entry, offset) {
                return self.put_leaf(way.end(), n);
            }
            self.put_node(way.hashes.get(at), Some(offset), n);
        }
    }

    /// The entry on whose account the node of a hash was made.
    fn example(&self, hash: u32) -> Option<&Entry> {
        let set = find::node_of(hash);
        let (way, _) = Tagged::find(self.nodes.get(set)?, hash)?;
        self.entries.get(usize::from(self.examples.get(set)?.get(way)?.get()))
    }

    /// The entry that a hash leads to.
    fn leaf(&self, hash: u32) -> Option<&Entry> {
        let (_, n) = Tagged::find(self.leaves.get(find::leaf_of(hash))?, hash)?;
        self.entries.get(usize::from(n))
    }

    fn put_leaf(&self, hash: u32, n: usize) {
        if let Some(pair) = self.leaves.get(find::leaf_of(hash)) {
            Tagged::new(hash, n as u16).put(pair, self.victim());
        }
    }

    fn put_node(&self, hash: Option<&u32>, mark: Option<u16>, n: usize) {
        let Some(&hash) = hash else { return };
        let set = find::node_of(hash);
        let (Some(pair), Some(examples)) = (self.nodes.get(set), self.examples.get(set)) else { return };
        let value = mark.and_then(|mark| mark.checked_add(1)).unwrap_or_default();
        let way = Tagged::new(hash, value).put(pair, self.victim());
        if let Some(example) = examples.get(way) {
            example.set(n as u16);
        }
    }

    /// Which of two makes room.
    fn victim(&self) -> usize {
        self.replaced.set(self.replaced.get().wrapping_add(1));
        self.replaced.get() % 2
    }

    fn has_slot(&self, entry: &Entry, offset: u16) -> bool {
        self.record(entry).is_some_and(|record| compare::has_slot(record, entry, offset))
    }

    fn is(&self, entry: &Entry, kind: Kind, stack: &StackBounds, regs: &Regs) -> bool {
        entry.starts(kind, regs)
            && (entry.bp ^ regs.bp) & entry.bp_mask == 0
            && self.record(entry).is_some_and(|record| compare::same(record, entry, stack))
    }

    /// The lowest place where the stack isn't what it was for `entry`.
    fn difference(&self, entry: &Entry, stack: &StackBounds, sp: u64) -> Option<u16> {
        compare::difference(self.record(entry)?, entry, stack, sp)
    }

    /// An entry's offsets and values, while they are still there.
    fn record(&self, entry: &Entry) -> Option<&[u8]> {
        if self.head.wrapping_sub(entry.at) > ARENA as u64 {
            return None;
        }
        let start = (entry.offsets as usize).checked_sub(offset_of!(Memo, arena))?;
        self.arena.0.get(start..start.checked_add(entry.bytes())?)
    }

    /// Forgets everything, where it is of another generation.
    pub(crate) fn follow(&mut self, generation: u64) {
        if self.generation == generation {
            return;
        }
        // What was never used is empty, and stays untouched.
        if self.generation != 0 {
            self.tags = [[0; WAYS]; SETS];
            self.nodes.iter_mut().for_each(|pair| *pair = Default::default());
            self.leaves.iter_mut().for_each(|pair| *pair = Default::default());
            self.entries.iter_mut().for_each(|entry| entry.ip = 0);
        }
        self.generation = generation;
    }

    /// Whether to remember a stack: where a good many were remembered and none
    /// of them came again, only one that comes for the second time is.
    pub(crate) fn admits(&mut self, place: Place) -> bool {
        let vain = self.vain.get_mut();
        *vain = vain.saturating_add(1);
        if *vain < PATIENCE {
            return true;
        }
        let Some(seen) = self.seen.get_mut(place.tag as usize / 2 % SEEN) else { return true };
        std::mem::replace(seen, place.tag) == place.tag
    }

    /// Remembers a walk under a number, where there is room for it.
    pub(crate) fn remember(
        &mut self,
        generation: u64,
        kind: Kind,
        regs: &Regs,
        place: Place,
        slots: &Slots,
        id: u32,
    ) -> bool {
        self.follow(generation);
        let Some(mut entry) = self.write(slots) else { return false };
        let (set, way) = self.oldest(place);
        (entry.ip, entry.sp, entry.bp) = (regs.ip, regs.sp, regs.bp);
        (entry.kind, entry.id) = (kind, id);
        let n = set.wrapping_mul(WAYS).wrapping_add(way);
        if let Some(slot) = self.entries.get_mut(n) {
            *slot = entry;
        }
        if let Some(slot) = self.tags.get_mut(set).and_then(|s| s.get_mut(way)) {
            *slot = place.tag;
        }
        true
    }

    /// Where a new entry goes: in the sets where a lookup would come by, the
    /// free or the oldest place.
    fn oldest(&self, place: Place) -> (usize, usize) {
        let mut oldest = (u64::MAX, place.set, 0);
        for set in place.sets() {
            let (Some(tags), Some(entries)) =
                (self.tags.get(set), self.entries.get(set.wrapping_mul(WAYS)..))
            else {
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

    /// Writes a walk's slots into the arena; an entry that knows where.
    fn write(&mut self, slots: &Slots) -> Option<Entry> {
        let mut entry = Entry {
            ip: 0,
            sp: 0,
            kind: Kind::default(),
            bp: 0,
            bp_mask: if slots.start_bp_is_live { u64::MAX } else { 0 },
            at: 0,
            id: 0,
            values: 0,
            extent: slots.extent,
            offsets: 0,
            pairs: u8::try_from(slots.pairs.div_ceil(compare::GROUP)).ok()?,
            singles: u8::try_from(slots.singles.div_ceil(compare::GROUP)).ok()?,
        };
        let bytes = entry.bytes().next_multiple_of(16);
        if bytes > ARENA {
            return None;
        }
        // Never across the end.
        let room = ARENA.wrapping_sub((self.head % ARENA as u64) as usize);
        let at = if bytes <= room { self.head } else { self.head.wrapping_add(room as u64) };
        self.head = at.wrapping_add(bytes as u64);
        let start = (at % ARENA as u64) as usize;
        entry.at = at;
        entry.offsets = u32::try_from(offset_of!(Memo, arena).wrapping_add(start)).ok()?;
        entry.values = entry.offsets.wrapping_add(entry.offset_bytes() as u32);
        compare::write(self.arena.0.get_mut(start..)?.get_mut(..bytes)?, slots, &entry)?;
        Some(entry)
    }
}

impl Entry {
    /// Whether it is one of this start.
    fn starts(&self, kind: Kind, regs: &Regs) -> bool {
        (self.ip ^ regs.ip) | (self.sp ^ regs.sp) | (self.kind.0 ^ kind.0) == 0
    }

    /// Bytes of offsets: a multiple of 16, since pairs are compared in place.
    pub(crate) fn offset_bytes(&self) -> usize {
        (usize::from(self.pairs) + usize::from(self.singles)).next_multiple_of(2) * 8
    }

    /// Bytes of offsets and values.
    fn bytes(&self) -> usize {
        self.offset_bytes() + usize::from(self.pairs) * 64 + usize::from(self.singles) * 32
    }
}

#[cfg(test)]
mod tests;
