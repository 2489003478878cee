//! The path of almost every callback: nothing new about the thread, its stack
//! remembered, room in its chunk.
//!
//! It is called from the trampoline with the first sixteen bytes of the
//! argument registers saved and no more, so it must not call anything that may
//! use wider ones: no libc, which also means no copying or clearing that the
//! compiler would turn into such a call. `scripts/lint.sh` looks at the
//! disassembly. Whatever is unusual is left, untouched, to the gate and its
//! handlers.
#![allow(unsafe_code)]

use crate::arch::{self, Context};
use crate::block::{Block, Shadow};
use crate::callbacks;
use crate::clock::TickClock;
use crate::modules;
use crate::state::ThreadState;
use crate::tracer::{self, Tracer};
use std::sync::atomic::{Ordering, compiler_fence};
use traceshim_ring::env::UnwinderChoice;
use traceshim_ring::record::{StackRef, kind, pair};
use traceshim_ring::stack::{FRAME_EXACT, StackStatus, Unwinder};
use traceshim_unwind::{Policy, StackBounds};

/// What an event on the fast path works on.
struct Inside<'a> {
    thread: &'a mut ThreadState,
    block: &'a mut Block,
    tracer: &'static Tracer,
}

/// Enters, where nothing stands against it. A signal handler that comes now is
/// refused by the gate, since `inside` is above its stack pointer.
///
/// # Safety
/// `thread` is the calling thread's state.
#[inline(always)]
unsafe fn inside<'a>(context: &Context, thread: *mut ThreadState) -> Option<Inside<'a>> {
    // SAFETY: the caller's promise; a handler of a signal that interrupts us
    // before `inside` is set is through with it when we go on.
    let thread = unsafe { &mut *thread };
    if thread.inside != 0 {
        return None;
    }
    thread.inside = std::ptr::from_ref(context) as u64;
    compiler_fence(Ordering::SeqCst);
    let usual = tracer::current().filter(|tracer| {
        thread.epoch == tracer.epoch
            && thread.reentered == 0
            && tracer.has_recorded()
            // The other clock is libc's.
            && tracer.clock == TickClock::Tsc
            && !tracer::forked()
    });
    // SAFETY: the block is this thread's alone while it is inside.
    match (usual, unsafe { thread.block.as_mut() }) {
        (Some(tracer), Some(block)) => Some(Inside { thread, block, tracer }),
        _ => {
            leave(thread);
            None
        }
    }
}

#[inline(always)]
fn leave(thread: &mut ThreadState) {
    compiler_fence(Ordering::SeqCst);
    thread.inside = 0;
}

/// Records a callback's enter; 0: not done, and nothing has changed.
///
/// # Safety
/// Called by the trampoline: its context, the calling thread's state.
pub(crate) unsafe extern "C" fn enter(context: *mut Context, thread: *mut ThreadState) -> u32 {
    // SAFETY: the trampoline's own context.
    let context = unsafe { &mut *context };
    // SAFETY: the caller's promise.
    let Some(mut inside) = (unsafe { inside(context, thread) }) else { return 0 };
    let done = try_enter(&mut inside, context);
    leave(inside.thread);
    u32::from(done.is_some())
}

#[inline(always)]
fn try_enter(inside: &mut Inside<'_>, context: &mut Context) -> Option<()> {
    let Inside { thread, block, tracer } = inside;
    let (hook, frame, depth) = (context.id as u16, context.frame(), thread.depth as usize);
    let on_own = frame >= thread.stack_lo && frame < thread.stack_hi;
    if depth > 0 {
        let outer = block.shadow.get(depth.wrapping_sub(1))?;
        // A frame of ours at or below this one was left without returning, and
        // so was one above it of which not everything is there.
        let above = outer.frame > frame && outer.frame < thread.stack_hi && on_own;
        // SAFETY: it is on the thread's own stack, above the stack pointer.
        if !(above && unsafe { Context::is_waiting(outer.frame, outer.mark) }) {
            return None;
        }
    }
    let shadow = block.shadow.get_mut(depth).filter(|_| on_own)?;
    let stack = if tracer.stack_depth == 0 {
        StackRef::new(tracer.ring.stack_root(StackStatus::Off), Unwinder::Table)
    } else {
        if tracer.unwinder == UnwinderChoice::FramePointer {
            return None;
        }
        let caller = context.caller();
        // SAFETY: from the stack pointer to the top of the thread's own stack
        // every page is mapped.
        let bounds = unsafe { StackBounds::new(caller.sp, thread.stack_hi) };
        let room = (tracer.stack_depth as usize).wrapping_sub(1);
        let known =
            block.capturer.lookup(modules::generation(), &bounds, &caller, false, Policy::Table, room)?;
        let entry = callbacks::entry(hook)? | FRAME_EXACT;
        StackRef::new(tracer.ring.find_stack_node(entry, StackRef(known).node())?, Unwinder::Table)
    };
    let ticks = arch::tsc();
    let deeper = thread.depth.wrapping_add(1);
    let body = [pair(stack.0, deeper & 0xffff)];
    if !tracer.ring.try_put(&mut thread.cursor, ticks, (kind::CALLBACK_ENTER, hook), body) {
        return None;
    }
    *shadow = Shadow { frame, mark: context.mark() };
    thread.depth = deeper;
    context.live = 1;
    Some(())
}

/// Records a callback's return; 0: not done, and nothing has changed.
///
/// # Safety
/// As for [`enter`].
pub(crate) unsafe extern "C" fn exit(context: *mut Context, thread: *mut ThreadState) -> u32 {
    // SAFETY: the trampoline's own context.
    let context = unsafe { &*context };
    // SAFETY: the caller's promise.
    let Some(mut inside) = (unsafe { inside(context, thread) }) else { return 0 };
    let done = try_exit(&mut inside, context);
    leave(inside.thread);
    u32::from(done.is_some())
}

#[inline(always)]
fn try_exit(inside: &mut Inside<'_>, context: &Context) -> Option<()> {
    let Inside { thread, block, tracer } = inside;
    let ticks = arch::tsc();
    let above = thread.depth.wrapping_sub(1);
    if block.shadow.get(above as usize)?.frame != context.frame() {
        return None;
    }
    let head = (kind::CALLBACK_EXIT, context.id as u16);
    if !tracer.ring.try_put(&mut thread.cursor, ticks, head, []) {
        return None;
    }
    thread.depth = above;
    Some(())
}
