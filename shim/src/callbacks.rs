//! Callbacks: what the trampolines of hooked functions record. Which functions are
//! hooked is in [`table`], and what leads to their trampolines in [`finding`].
#![allow(unsafe_code)]

mod finding;
mod table;

pub(crate) use finding::{Ready, describe_all, refresh, stand_in};
pub(crate) use table::{
    behind, entry, forget_others, forget_patched, is_hooked, is_patched, lock_for_fork, number, set_patched,
    trampoline, unlock_after_fork,
};

use crate::arch::{self, Context, Passed};
use crate::arguments::{self, Reach};
use crate::block::Shadow;
use crate::recording::{Recording, inside};
use crate::stack;
use crate::state::ThreadState;
use std::ops::Range;
use std::panic::catch_unwind;
use table::takes;
use traceshim_ring::record::{kind, pair};

/// A function is called of which it isn't known how much it takes on the stack,
/// or from a place of which it isn't known how much there is.
pub(crate) unsafe extern "C-unwind" fn on_wide(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the context of `widen`.
    let context = unsafe { &mut *context };
    // SAFETY: as above.
    let passed = unsafe { Passed::of(context) };
    // SAFETY: the gate passes the calling thread's own state.
    let thread = unsafe { &*thread };
    let own = thread.stack_lo..thread.stack_hi;
    // Whether anything is traced or not: the call has to be right.
    if let Ok(words) = catch_unwind(|| words_of(passed, &own)) {
        context.result = words;
    }
}

/// How many words of stack arguments the call needs copied; 0: no more than the
/// trampoline has done.
fn words_of(passed: Passed, own: &Range<u64>) -> u64 {
    let takes = if arch::is_unseen(passed.hook) { takes(passed.hook) } else { Reach::Unknown };
    match takes {
        Reach::Copied => 0,
        Reach::Words(words) => words.into(),
        Reach::Unknown => arguments::end_of_frame(passed.back, passed.bp, passed.arguments)
            .unwrap_or_else(|| stack::words_above(passed.arguments, own)),
    }
}

/// A trampoline was called.
pub(crate) unsafe extern "C-unwind" fn on_enter(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the trampoline's own context.
    let context = unsafe { &mut *context };
    // SAFETY: called by the gate.
    unsafe { inside(thread, |recording| enter(recording, context)) }
}

fn enter(recording: &mut Recording<'_>, context: &mut Context) {
    let hook = context.id as u16;
    let frame = context.frame();
    // A frame at the same place was left, too, or we couldn't be there.
    recording.repair(frame + 1);
    let stack = recording.stack(&context.caller(), Some(hook), true);
    let depth = recording.thread.depth as usize;
    if let Some(shadow) = recording.block().and_then(|block| block.shadow.get_mut(depth)) {
        *shadow = Shadow { frame, mark: context.mark() };
    }
    recording.thread.depth += 1;
    context.live = 1;
    // Last, so that our own time doesn't count as the callback's.
    recording.ticks = recording.tracer.clock.now();
    let depth = recording.thread.depth.min(u32::from(u16::MAX));
    recording.event(kind::CALLBACK_ENTER, hook, &[pair(stack.0, depth)]);
}

/// The function behind a trampoline came back.
pub(crate) unsafe extern "C-unwind" fn on_exit(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the trampoline's own context.
    let context = unsafe { &mut *context };
    // SAFETY: called by the gate.
    unsafe { inside(thread, |recording| exit(recording, context)) }
}

fn exit(recording: &mut Recording<'_>, context: &Context) {
    let (frame, depth) = (context.frame(), recording.thread.depth as usize);
    let Some(block) = recording.block() else { return };
    let known = block.shadow.get(..depth.min(block.shadow.len())).unwrap_or_default();
    // Ours is the last one, unless those above it were left without returning
    // or belong to another stack that is suspended.
    let Some(at) = known.iter().rposition(|shadow| shadow.frame == frame) else {
        if depth > block.shadow.len() {
            recording.thread.depth -= 1;
            recording.event(kind::CALLBACK_EXIT, context.id as u16, &[]);
        }
        return;
    };
    if at + 1 < depth {
        recording.repair_inside(frame);
        close_in_the_middle(recording, frame);
    } else {
        recording.thread.depth -= 1;
    }
    recording.event(kind::CALLBACK_EXIT, context.id as u16, &[]);
}

/// Takes out a callback above which others, on other stacks, go on.
#[cold]
fn close_in_the_middle(recording: &mut Recording<'_>, frame: u64) {
    let depth = recording.thread.depth as usize;
    let Some(block) = recording.block() else { return };
    let len = depth.min(block.shadow.len());
    let Some(known) = block.shadow.get_mut(..len) else { return };
    if let Some(at) = known.iter().rposition(|shadow| shadow.frame == frame) {
        known.copy_within(at + 1.., at);
        recording.thread.depth -= 1;
    }
}

/// At the thread's end: closes every callback that is still in progress.
pub(crate) fn close_all(recording: &mut Recording<'_>) {
    while recording.thread.depth > 0 {
        recording.thread.depth -= 1;
        let top = recording.thread.depth as usize;
        if let Some(shadow) = recording.block().and_then(|block| block.shadow.get(top).copied()) {
            recording.event(kind::CALLBACK_EXIT, shadow.hook(), &[1]);
        }
    }
}
