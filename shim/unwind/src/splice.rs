#![allow(unsafe_code)]
//! The outer part of a stack, where it is that of the last capture still.
//!
//! A walk that comes to a frame of the last stack (the same return address,
//! rsp and rbp) goes on as the last one did for as long as the slots that it
//! read have the same values. To compare them needs no rule and no chain of
//! loads.

use crate::hot::Frame;
use crate::memory::StackBounds;
use crate::module::ModuleSet;
use crate::rule::Kind;
use crate::trace::{Step, Trace};
use crate::walk::Frames;

/// Frames that are walked before the last stack is looked at; then twice as many.
const FIRST: usize = 4;

/// Whether it is worth looking at the last stack: where stacks have nothing in
/// common it costs a tenth of a walk. Valid when zeroed.
#[derive(Default)]
pub(crate) struct Worth {
    /// Captures in a row that took nothing over.
    vain: u8,
    captures: u8,
}

impl Worth {
    /// After this many captures in vain,
    const PATIENCE: u8 = 8;
    /// only every so many times.
    const SELDOM: u8 = 16;

    #[inline(always)]
    pub(crate) fn a_look(&mut self) -> bool {
        self.captures = self.captures.wrapping_add(1);
        self.vain < Self::PATIENCE || self.captures.is_multiple_of(Self::SELDOM)
    }

    #[inline(always)]
    pub(crate) fn was(&mut self, taken: usize) {
        self.vain = if taken > 0 { 0 } else { self.vain.saturating_add(1) };
    }
}

/// The last stack, as far as a walk has passed it.
pub(crate) struct Splice<'a> {
    /// Steps that the walk hasn't passed: what led to the frames to be met.
    steps: &'a [Step],
    last_end_is_hidden: bool,
    after: usize,
    /// How many frames were taken over.
    pub(crate) taken: usize,
    /// Where the rest was taken over: whether its last frame isn't reported.
    pub(crate) end_is_hidden: Option<bool>,
}

impl<'a> Splice<'a> {
    /// Over the last capture, where it was of the same modules and got to the end.
    #[inline(always)]
    pub(crate) fn new(last: &'a Trace, set: &ModuleSet, worth: &mut Worth) -> Self {
        let last = worth.a_look().then(|| last.completed(set.generation())).flatten();
        let (steps, last_end_is_hidden) = last.unwrap_or_default();
        Splice { steps, last_end_is_hidden, after: FIRST, taken: 0, end_is_hidden: None }
    }

    /// After how many more frames to try.
    #[inline(always)]
    pub(crate) fn after(&self) -> usize {
        if self.steps.is_empty() { usize::MAX } else { self.after }
    }

    /// Tries at `frame`, which isn't in `frames` yet. Where the rest of the
    /// stack is unchanged it is added to `frames` and `trace`.
    #[inline(never)]
    pub(crate) fn try_at(
        &mut self,
        stack: &StackBounds,
        frame: &Frame,
        trace: &mut Trace,
        frames: &mut Frames<'_>,
    ) -> bool {
        self.after = self.after.saturating_mul(2);
        while let Some((step, rest)) = self.steps.split_first() {
            if step.rule.kind() == Kind::Cfa && step.cfa >= frame.sp {
                break;
            }
            self.steps = rest;
        }
        let Some((step, rest)) = self.steps.split_first() else { return false };
        if step.cfa != frame.sp || step.ip != frame.ip || step.bp != frame.bp {
            return false;
        }
        let same = unchanged(stack, frame.sp, rest);
        if same < rest.len() {
            // Nothing further in than what has changed will do.
            self.steps = rest.get(same..).unwrap_or_default();
            return false;
        }
        self.take(frame, rest, trace, frames)
    }

    fn take(&mut self, frame: &Frame, rest: &[Step], trace: &mut Trace, frames: &mut Frames<'_>) -> bool {
        self.steps = &[];
        let hidden = rest.iter().map(|step| step.rule.is_hidden()).chain([self.last_end_is_hidden]);
        let addresses = [frame.ip].into_iter().chain(rest.iter().map(|step| step.ip));
        let Some(room) = frames.out.get_mut(frames.len..) else { return false };
        let Some(steps) = trace.room().get_mut(..rest.len()) else { return false };
        // With less room the walk finds out how much of it there is.
        if room.len() <= rest.len() {
            return false;
        }
        let mut slots = room.iter_mut();
        for (address, hidden) in addresses.zip(hidden) {
            if !hidden && let Some(slot) = slots.next() {
                *slot = address;
                self.taken = self.taken.wrapping_add(1);
            }
        }
        for (to, from) in steps.iter_mut().zip(rest) {
            *to = *from;
        }
        trace.added(rest.len());
        self.end_is_hidden = Some(self.last_end_is_hidden);
        frames.len = frames.len.wrapping_add(self.taken);
        true
    }
}

/// How many of `steps`, which start at `sp`, would go as they went.
fn unchanged(stack: &StackBounds, mut sp: u64, steps: &[Step]) -> usize {
    let hi = stack.hi();
    if sp & 7 != 0 || sp < stack.lo() || sp > hi {
        return 0;
    }
    let mut same = 0usize;
    for step in steps {
        let Step { rule, cfa, ip, bp } = *step;
        let bp_slot = rule.bp_slot(cfa);
        let size = cfa.wrapping_sub(sp);
        let outside = size.wrapping_sub(1) >= hi.wrapping_sub(sp);
        let plain = rule.kind() == Kind::Cfa;
        if !plain || outside | (bp_slot.wrapping_sub(sp) >= size) | (cfa & 7 != 0) {
            break;
        }
        // As in `hot::walk`: both are aligned and between `sp` and `cfa`, which
        // are in the stack.
        // SAFETY: so the word below `cfa` is in the stack.
        let caller = unsafe { stack.word(cfa.wrapping_sub(8)) };
        // SAFETY: and so is that at `bp_slot`.
        let saved = unsafe { stack.word(bp_slot) };
        if caller != ip || !rule.keeps_bp() && saved != bp {
            break;
        }
        sp = cfa;
        same = same.wrapping_add(1);
    }
    same
}
