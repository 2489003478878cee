//! When a trampoline may record a callback by itself.
//!
//! Its assembly (`arch`) does almost every callback alone: nothing new about
//! the thread, its stack remembered, room in its chunk. All that it would have
//! to find out beforehand is put into a few words of the thread's state by the
//! last event that took the long way, and stands for one *pulse* of the tracer:
//! a number that changes with the modules, in a forked child and when tracing
//! stops. Whatever is unusual is left to the gate and its handlers. Only a full
//! ring is usual for long: while nothing is given back, trampolines count what is
//! lost themselves.

use crate::clock::TickClock;
use crate::modules;
use crate::recording::Recording;
use traceshim_ring::env::UnwinderChoice;
use traceshim_ring::record::StackRef;
use traceshim_ring::stack::{StackStatus, Unwinder};
use traceshim_unwind::{Kind, Policy};

/// Lets the thread's trampolines record by themselves until the pulse, which
/// was `pulse` before anything else was looked at, changes.
#[inline]
pub(crate) fn arm(recording: &mut Recording<'_>, pulse: u64) {
    let armed = pulse.wrapping_add(1);
    recording.thread.losses = recording.tracer.ring.losses(&recording.thread.cursor);
    if recording.thread.armed != armed {
        prepare(recording, pulse, armed);
    }
}

#[cold]
fn prepare(recording: &mut Recording<'_>, pulse: u64, armed: u64) {
    let tracer = recording.tracer;
    // The other clock is libc's; and what frame pointers alone find isn't remembered.
    let usual = pulse != 0
        && !recording.thread.shared
        && tracer.clock == TickClock::Tsc
        && tracer.has_recorded()
        && tracer.unwinder != UnwinderChoice::FramePointer;
    if !usual {
        return;
    }
    let stacks = (tracer.stack_depth as usize).checked_sub(1);
    let (memo, kind) = match stacks {
        None => {
            let off = StackRef::new(tracer.ring.stack_root(StackStatus::Off), Unwinder::Table);
            (0, u64::from(off.0))
        }
        Some(room) => {
            let Some(block) = recording.block() else { return };
            // Later than the pulse: where it is that of newer modules, the
            // pulse has changed, or is about to.
            block.capturer.follow(modules::generation());
            // Tags are one more than the hook's number.
            let kind = Kind::new(false, Policy::Table, room, 1);
            (block.capturer.memo() as u64, kind.word())
        }
    };
    let thread = &mut *recording.thread;
    (thread.memo, thread.kind) = (memo, kind);
    thread.ring = tracer.ring.address();
    thread.armed = armed;
}
