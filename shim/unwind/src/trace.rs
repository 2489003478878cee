//! What a walk depended on: the stack slots that it read, and whether rbp
//! mattered. A walk is a pure function of these, its start and the modules.

use crate::machine::{BP, Machine};
use crate::memory::StackMemory;
use crate::rule::{Kind, Rule};
use std::cell::Cell;
use std::slice::IterMut;

/// Steps kept; a longer walk isn't remembered.
const STEPS: usize = 200;
/// Reads kept of rows that were evaluated.
const READS: usize = 48;

/// A step of a walk.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) rule: Rule,
    /// The CFA; of an evaluated row: the first of its reads.
    pub(crate) cfa: u64,
    /// The return address.
    pub(crate) ip: u64,
    /// rbp after the step; of an evaluated row: how many reads it made.
    pub(crate) bp: u64,
}

/// The steps of a walk. Valid when zeroed.
pub(crate) struct Trace {
    steps: [Step; STEPS],
    len: usize,
    /// Address and value.
    reads: [(u64, u64); READS],
    read_len: usize,
    sp: u64,
    broken: bool,
    /// The walk got to the end.
    completed: bool,
    end_is_hidden: bool,
    generation: u64,
}

/// Most pairs, and most single slots, that a walk may have been decided by.
const SLOTS: usize = 204;

/// The slots that decided a walk, outermost first: pairs of a saved rbp and the
/// return address above it, and single ones. Offsets are in words from the
/// start's rsp. Valid when zeroed.
pub(crate) struct Slots {
    pub(crate) pair_offsets: [u16; SLOTS],
    pub(crate) pair_values: [[u64; 2]; SLOTS],
    pub(crate) pairs: usize,
    pub(crate) single_offsets: [u16; SLOTS],
    pub(crate) single_values: [u64; SLOTS],
    pub(crate) singles: usize,
    /// The highest offset.
    pub(crate) extent: u16,
    pub(crate) start_bp_is_live: bool,
}

/// Fills `Slots`, with what changes at each slot kept out of memory.
struct Filler<'a> {
    pairs: std::iter::Zip<IterMut<'a, u16>, IterMut<'a, [u64; 2]>>,
    singles: std::iter::Zip<IterMut<'a, u16>, IterMut<'a, u64>>,
    extent: u16,
}

impl Filler<'_> {
    #[inline(always)]
    fn pair(&mut self, offset: u16, values: [u64; 2]) -> Option<()> {
        let (o, v) = self.pairs.next()?;
        (*o, *v) = (offset, values);
        self.extent = self.extent.max(offset.checked_add(1)?);
        Some(())
    }

    #[inline(always)]
    fn single(&mut self, offset: u16, value: u64) -> Option<()> {
        let (o, v) = self.singles.next()?;
        (*o, *v) = (offset, value);
        self.extent = self.extent.max(offset);
        Some(())
    }
}

impl Trace {
    /// Before a walk from `sp`.
    #[inline(always)]
    pub(crate) fn start(&mut self, sp: u64) {
        self.len = 0;
        self.read_len = 0;
        self.sp = sp;
        self.broken = sp & 7 != 0;
        self.completed = false;
    }

    /// The walk got to the end, over modules of that generation; whether its
    /// last frame is one that isn't reported.
    #[inline(always)]
    pub(crate) fn complete(&mut self, generation: u64, end_is_hidden: bool) {
        self.completed = true;
        self.end_is_hidden = end_is_hidden;
        self.generation = generation;
    }

    /// The steps of a walk that got to the end, and whether that is hidden.
    #[inline(always)]
    pub(crate) fn completed(&self, generation: u64) -> Option<(&[Step], bool)> {
        let usable = self.completed && !self.broken && self.generation == generation;
        let steps = self.steps.get(..self.len)?;
        usable.then_some((steps, self.end_is_hidden))
    }

    /// The walk can't be described by slots above its start.
    #[inline(always)]
    pub(crate) fn give_up(&mut self) {
        self.broken = true;
    }

    /// Whether every read is here, and none failed.
    pub(crate) fn is_whole(&self) -> bool {
        !self.broken
    }

    /// Room for more steps; `added` says how many were written.
    #[inline(always)]
    pub(crate) fn room(&mut self) -> &mut [Step] {
        self.steps.get_mut(self.len..).unwrap_or_default()
    }

    /// So many steps were written to `room`.
    #[inline(always)]
    pub(crate) fn added(&mut self, steps: usize) {
        self.len = self.len.wrapping_add(steps).min(STEPS);
    }

    /// A step by `rule` led to `m`.
    #[inline(always)]
    pub(crate) fn step(&mut self, rule: Rule, m: &Machine) {
        let [bp, ..] = m.saved;
        // A register that was lost may be there the next time.
        self.broken |= m.known & (1 << BP) == 0;
        self.push(Step { rule, cfa: m.sp, ip: m.ip, bp });
    }

    /// A step was taken by evaluating a row, with the reads since `first`.
    pub(crate) fn evaluated(&mut self, first: usize) {
        let count = self.read_len.wrapping_sub(first) as u64;
        let rule = Rule::EVALUATE;
        self.push(Step { rule, cfa: first as u64, ip: 0, bp: count });
    }

    /// How many reads of evaluated rows there are.
    pub(crate) fn reads(&self) -> usize {
        self.read_len
    }

    #[inline(always)]
    fn push(&mut self, step: Step) {
        match self.steps.get_mut(self.len) {
            Some(place) => {
                *place = step;
                self.len = self.len.wrapping_add(1);
            }
            None => self.broken = true,
        }
    }

    fn read(&mut self, addr: u64, value: Option<u64>) {
        match (self.reads.get_mut(self.read_len), value) {
            (Some(place), Some(value)) => {
                *place = (addr, value);
                self.read_len = self.read_len.wrapping_add(1);
            }
            _ => self.broken = true,
        }
    }

    /// The return addresses of its first steps, as far as simple rules led.
    pub(crate) fn callers(&self) -> impl Iterator<Item = u64> {
        let steps = self.steps.iter().take(self.len);
        steps.take_while(|step| step.rule.kind() == Kind::Cfa).map(|step| step.ip)
    }

    /// Describes the walk by the slots that decided it. `None` where that can't
    /// be done, or takes more than `slots` has room for.
    pub(crate) fn describe(&self, slots: &mut Slots) -> Option<()> {
        let Slots { pair_offsets, pair_values, single_offsets, single_values, .. } = slots;
        let mut filler = Filler {
            pairs: pair_offsets.iter_mut().zip(pair_values),
            singles: single_offsets.iter_mut().zip(single_values),
            extent: 0,
        };
        let mut steps = self.steps.get(..self.len)?.iter();
        // Backwards: it is what comes later that uses an rbp.
        let mut bp_is_used = false;
        while let Some(step) = steps.next_back() {
            let rule = step.rule;
            if rule.kind() != Kind::Cfa {
                bp_is_used = self.describe_rare(step, &mut filler)?;
                continue;
            }
            let ip_offset = self.offset(step.cfa.wrapping_sub(8))?;
            match bp_is_used && !rule.keeps_bp() {
                true => {
                    let offset = self.offset(rule.bp_slot(step.cfa))?;
                    if offset.wrapping_add(1) == ip_offset {
                        filler.pair(offset, [step.bp, step.ip])?;
                    } else {
                        filler.single(offset, step.bp)?;
                        filler.single(ip_offset, step.ip)?;
                    }
                    bp_is_used = false;
                }
                false => filler.single(ip_offset, step.ip)?,
            }
            bp_is_used |= rule.is_from_bp();
        }
        let Filler { pairs, singles, extent } = filler;
        let (pairs, singles) = (SLOTS.wrapping_sub(pairs.len()), SLOTS.wrapping_sub(singles.len()));
        (slots.pairs, slots.singles, slots.extent) = (pairs, singles, extent);
        slots.start_bp_is_live = bp_is_used;
        Some(())
    }

    /// A step that isn't a `Cfa` rule's. Returns whether rbp was used before it.
    #[cold]
    #[inline(never)]
    fn describe_rare(&self, step: &Step, filler: &mut Filler<'_>) -> Option<bool> {
        match step.rule.kind() {
            Kind::Evaluate => {
                let (first, count) = (step.cfa as usize, step.bp as usize);
                for (addr, value) in self.reads.iter().skip(first).take(count) {
                    filler.single(self.offset(*addr)?, *value)?;
                }
                // What the row does with rbp isn't looked into.
                Some(true)
            }
            Kind::FramePointerOnly => {
                let offset = self.offset(step.cfa.wrapping_sub(16))?;
                filler.single(offset, step.bp)?;
                filler.single(offset.checked_add(1)?, step.ip)?;
                Some(true)
            }
            // These take no step.
            Kind::Cfa | Kind::End | Kind::Stop(_) => None,
        }
    }

    fn offset(&self, addr: u64) -> Option<u16> {
        u16::try_from(addr.wrapping_sub(self.sp) >> 3).ok()
    }
}

/// Memory whose reads are traced.
pub(crate) struct Traced<'a> {
    mem: &'a dyn StackMemory,
    trace: Cell<Option<&'a mut Trace>>,
}

impl<'a> Traced<'a> {
    pub(crate) fn new(mem: &'a dyn StackMemory, trace: &'a mut Trace) -> Self {
        Traced { mem, trace: Cell::new(Some(trace)) }
    }
}

impl StackMemory for Traced<'_> {
    fn read(&self, addr: u64) -> Option<u64> {
        let value = self.mem.read(addr);
        // Taken out and put back: nothing reads in between.
        let trace = self.trace.take()?;
        trace.read(addr, value);
        self.trace.set(Some(trace));
        value
    }
}
