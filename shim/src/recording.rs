//! Being inside: the proof, and what may be done with it.
#![allow(unsafe_code)]

use crate::arch::Context;
use crate::block::{Block, Shadow};
use crate::state::ThreadState;
use crate::tracer::{self, Tracer};
use crate::{fast, hooks, stack};
use std::panic::{AssertUnwindSafe, catch_unwind};
use traceshim_ring::record::{StackRef, kind};
use traceshim_unwind::Regs;

/// This thread is inside the tracer, and nothing else of it is. Only
/// [`inside`] makes one, for handlers that came through the gate.
pub(crate) struct Recording<'a> {
    pub(crate) thread: &'a mut ThreadState,
    pub(crate) tracer: &'static Tracer,
    /// The time of the event.
    pub(crate) ticks: u64,
}

/// Runs `f` for a handler of the gate, if this process is traced. A panic in
/// it ends the tracing, never the program.
///
/// # Safety
/// `thread` is what the gate passed to the handler that calls this.
#[inline(always)]
pub(crate) unsafe fn inside(thread: *mut ThreadState, f: impl FnOnce(&mut Recording<'_>)) {
    let Some(mut tracer) = tracer::current() else { return };
    // SAFETY: the gate passes the calling thread's own state, and refuses
    // whoever comes while it is in use.
    let thread = unsafe { &mut *thread };
    let run = AssertUnwindSafe(|| {
        let mut pulse = tracer::pulse();
        if tracer::forked() {
            match tracer::after_fork() {
                Some(new) => (tracer, pulse) = (new, tracer::pulse()),
                None => return,
            }
        }
        let ticks = tracer.clock.now();
        let mut recording = Recording { thread, tracer, ticks };
        if recording.thread.epoch != tracer.epoch {
            hooks::threads::first_seen(&mut recording);
        }
        if recording.thread.reentered > 0 {
            recording.flush_reentered();
        }
        f(&mut recording);
        fast::arm(&mut recording, pulse);
    });
    if catch_unwind(run).is_err() {
        tracer::disable(format_args!("internal error"));
    }
}

impl Recording<'_> {
    /// Publishes a record, or counts its loss.
    #[inline]
    pub(crate) fn put(&mut self, kind: u8, arg: u16, body: &[u64]) -> bool {
        let owner = self.thread.owner();
        self.tracer.ring.put(
            &mut self.thread.cursor,
            &owner,
            &self.tracer.clock,
            self.ticks,
            (kind, arg),
            body,
        )
    }

    /// Publishes a record that makes the ring worth keeping.
    #[inline]
    pub(crate) fn event(&mut self, kind: u8, arg: u16, body: &[u64]) {
        self.tracer.note_recorded();
        self.put(kind, arg, body);
    }

    #[cold]
    fn flush_reentered(&mut self) {
        self.tracer.ring.count_reentered(std::mem::take(&mut self.thread.reentered));
        self.tracer.count_strangers();
    }

    /// The thread's block. The gate has made sure that there is one.
    pub(crate) fn block(&mut self) -> Option<&mut Block> {
        // SAFETY: the block is this thread's until its end, and being inside
        // keeps everybody else away from it.
        unsafe { self.thread.block.as_mut() }
    }

    /// The stack from `caller` on; behind the entry of `hook`, where a callback
    /// is the innermost frame. `from_c`: the event comes from the C side.
    pub(crate) fn stack(&mut self, caller: &Regs, hook: Option<u16>, from_c: bool) -> StackRef {
        stack::take(self, caller, hook, from_c)
    }

    /// Closes callbacks that were left without returning, as seen from code
    /// whose stack pointer is `sp`.
    #[inline]
    pub(crate) fn repair(&mut self, sp: u64) {
        self.close_while(|recording, shadow| recording.is_abandoned(shadow, sp));
    }

    /// The same, as seen from the trampoline at `frame`, which is in progress.
    pub(crate) fn repair_inside(&mut self, frame: u64) {
        self.close_while(|recording, shadow| {
            shadow.frame < frame && recording.same_stack(shadow.frame, frame)
        });
    }

    fn close_while(&mut self, is_over: impl Fn(&Self, Shadow) -> bool) {
        while self.thread.depth > 0 {
            let top = self.thread.depth as usize - 1;
            let Some(shadow) = self.block().and_then(|block| block.shadow.get(top).copied()) else {
                // Deeper than what is told apart: it is closed by its own exit.
                return;
            };
            if !is_over(self, shadow) {
                return;
            }
            self.thread.depth -= 1;
            self.event(kind::CALLBACK_EXIT, shadow.hook(), &[1]);
        }
    }

    /// Whether a callback was left: its frame is below the stack pointer, or
    /// above it and no longer what it was.
    fn is_abandoned(&self, shadow: Shadow, sp: u64) -> bool {
        if shadow.frame < sp {
            return self.same_stack(shadow.frame, sp);
        }
        let own = self.thread.stack_lo..self.thread.stack_hi;
        // SAFETY: both are on the thread's own stack, the frame above.
        own.contains(&sp)
            && own.contains(&shadow.frame)
            && !unsafe { Context::is_waiting(shadow.frame, shadow.mark) }
    }

    /// Whether an abandoned frame and the current stack pointer can be
    /// compared. A frame on another stack is gone where we are back on the
    /// thread's own; a coroutine's may only be suspended, so what is not the
    /// thread's own is left alone unless it is near.
    fn same_stack(&self, frame: u64, sp: u64) -> bool {
        const NEAR: u64 = 1 << 20;
        let own = self.thread.stack_lo..self.thread.stack_hi;
        match (own.contains(&frame), own.contains(&sp)) {
            (true, true) => true,
            (false, false) => sp - frame < NEAR,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch;

    unsafe extern "C-unwind" fn on_panic(_: *mut Context, thread: *mut ThreadState) {
        // SAFETY: called by the gate.
        unsafe { inside(thread, |_| panic!("on purpose")) }
    }

    /// The test's own process is traced, by the shim that it is.
    #[test]
    fn a_panic_ends_the_tracing_and_nothing_else() {
        tracer::initialise();
        assert!(tracer::current().is_some());
        assert!(arch::on_this_thread(on_panic, 0));
        assert!(tracer::current().is_none());
        // Not inside any more: the next one is let in, and does nothing.
        assert!(arch::on_this_thread(on_panic, 0));
    }
}
