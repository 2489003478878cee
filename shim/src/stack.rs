//! Taking a stack: which memory it lies in, which unwinder takes it, and its
//! reference in the ring.
#![allow(unsafe_code)]

use crate::block::Block;
use crate::callbacks;
use crate::modules;
use crate::recording::Recording;
use crate::sandbox::{self, Call};
use std::cell::Cell;
use std::ops::Range;
use traceshim_ring::env::UnwinderChoice;
use traceshim_ring::record::StackRef;
use traceshim_ring::stack::{FRAME_EXACT, StackStatus, Unwinder};
use traceshim_unwind::{
    Capturer, Kind, ModuleSet, Outcome, Policy, Regs, StackArray, StackBounds, StackMemory,
};

/// See [`Recording::stack`].
pub(crate) fn take(
    recording: &mut Recording<'_>,
    caller: &Regs,
    hook: Option<u16>,
    from_c: bool,
) -> StackRef {
    let (tracer, uid) = (recording.tracer, recording.thread.uid);
    let ring = &tracer.ring;
    let depth = tracer.config.stack_depth as usize;
    if depth == 0 {
        return StackRef::new(ring.stack_root(StackStatus::Off), Unwinder::Table);
    }
    if ring.will_lose(&recording.thread.cursor) {
        return StackRef::new(ring.stack_root(StackStatus::TableFull), Unwinder::Table);
    }
    let policy = match tracer.config.unwinder {
        UnwinderChoice::Table => Policy::Table,
        UnwinderChoice::FramePointer => Policy::FramePointer,
        UnwinderChoice::Auto => Policy::Auto { c_on_stack: from_c || recording.thread.c_on_stack() },
    };
    let own = (recording.thread.stack_lo, recording.thread.stack_hi);
    let none = StackRef::new(ring.stack_root(StackStatus::NoMemory), Unwinder::Table);
    let Some(block) = recording.block() else { return none };
    let Block { frames, nodes, nodes_len, copy, capturer, .. } = block;
    // A callback's entry is one of the frames, and part of what is remembered.
    let entry = hook.and_then(callbacks::entry);
    let tag = hook.map_or(0, |hook| u32::from(hook) + 1);
    let Some(out) = frames.get_mut(..depth - usize::from(entry.is_some())) else { return none };
    if let Some(known) = remembered(capturer, own, caller, policy, out.len(), tag) {
        return known;
    }
    let walk = |set: &ModuleSet| walk(set, capturer, copy, own, caller, policy, out);
    let Some(outcome) = modules::with_set(uid, walk) else { return none };
    let Some(taken) = out.get(..outcome.len) else { return none };
    let unchanged = capturer.unchanged().min(*nodes_len as usize);
    let mut node = ring.stack_over(taken, outcome.status, nodes, unchanged);
    *nodes_len = taken.len() as u32;
    if let Some(entry) = entry {
        let full = ring.stack_root(StackStatus::TableFull);
        node = ring.stack_node(entry | FRAME_EXACT, node).unwrap_or(full);
    }
    let stack = StackRef::new(node, outcome.unwinder);
    capturer.remember(stack.0, tag);
    stack
}

/// The stack, where this thread has taken the same one before.
fn remembered(
    capturer: &Capturer,
    own: (u64, u64),
    caller: &Regs,
    policy: Policy,
    room: usize,
    tag: u32,
) -> Option<StackRef> {
    if caller.sp < own.0 || caller.sp >= own.1 {
        return None;
    }
    // SAFETY: between the stack pointer and the top of the thread's own stack
    // every page is mapped.
    let bounds = unsafe { StackBounds::new(caller.sp, own.1) };
    let kind = Kind::new(false, policy, room, tag);
    capturer.lookup(modules::generation(), &bounds, caller, kind).map(StackRef)
}

fn walk(
    set: &ModuleSet,
    capturer: &mut Capturer,
    copy: &mut [u64],
    own: (u64, u64),
    caller: &Regs,
    policy: Policy,
    out: &mut [u64],
) -> Outcome {
    let sp = caller.sp & !7;
    let on_own = sp >= own.0 && sp < own.1;
    // SAFETY: between the stack pointer and the top of the thread's own stack
    // every page is mapped.
    let whole = unsafe { StackBounds::new(if on_own { sp } else { own.0 }, own.1) };
    if on_own {
        return run(set, capturer, &whole, caller, policy, out);
    }
    if let Some(top) = alternate_stack_top(sp) {
        // SAFETY: the system runs a handler on this stack right now.
        let alternate = unsafe { StackBounds::new(sp, top) };
        return run(set, capturer, &[alternate, whole], caller, policy, out);
    }
    // A stack of unknown bounds, such as a coroutine's.
    let copied = copy_from_own_memory(sp, copy);
    let words = copy.get(..copied).unwrap_or_default();
    let left = if copied == copy.len() { Cell::new(MOST_READS) } else { Cell::new(0) };
    run(set, capturer, &Copied { copy: StackArray { base: sp, words }, left }, caller, policy, out)
}

/// Words that are asked for one by one, at most.
const MOST_READS: u32 = 512;

/// A stack that the system copies as far as it is mapped, so that nothing of it is
/// touched. Behind the copy, where that wasn't all, words are copied one by one.
struct Copied<'a> {
    copy: StackArray<'a>,
    left: Cell<u32>,
}

impl StackMemory for Copied<'_> {
    fn read(&self, address: u64) -> Option<u64> {
        let copied = self.copy.read(address);
        if copied.is_some() || address & 7 != 0 || address < self.copy.base {
            return copied;
        }
        self.left.set(self.left.get().checked_sub(1)?);
        let mut word = [0];
        (copy_from_own_memory(address, &mut word) == 1).then_some(word[0])
    }
}

fn run<M: StackMemory>(
    set: &ModuleSet,
    capturer: &mut Capturer,
    memory: &M,
    caller: &Regs,
    policy: Policy,
    out: &mut [u64],
) -> Outcome {
    capturer.capture(set, memory, caller, false, policy, out)
}

/// The end of the alternate signal stack, where `sp` is on it.
fn alternate_stack_top(sp: u64) -> Option<u64> {
    if !sandbox::allows(&[Call::Sigaltstack]) {
        return None;
    }
    let _errno = crate::errno::KeepErrno::new();
    let mut stack = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: only asks; `stack` is a valid place for the answer.
    let asked = unsafe { libc::sigaltstack(std::ptr::null(), &raw mut stack) };
    let start = stack.ss_sp as u64;
    let end = start.checked_add(stack.ss_size as u64)?;
    (asked == 0 && stack.ss_flags & libc::SS_DISABLE == 0 && (start..end).contains(&sp)).then_some(end)
}

/// Copies words from `from` on, as far as they are mapped.
fn copy_from_own_memory(from: u64, to: &mut [u64]) -> usize {
    if !sandbox::allows(&[Call::Getpid, Call::ProcessVmReadv]) {
        return 0;
    }
    let _errno = crate::errno::KeepErrno::new();
    let bytes = size_of_val(to);
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: bytes };
    // Page by page: the copy stops at the first piece that isn't mapped.
    let mut remote = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 8];
    let (mut at, mut left, mut pieces) = (from, bytes, 0);
    for piece in &mut remote {
        let len = (4096 - at as usize % 4096).min(left);
        *piece = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: len };
        (at, left, pieces) = (at.wrapping_add(len as u64), left - len, pieces + usize::from(len > 0));
    }
    // SAFETY: always succeeds.
    let pid = unsafe { libc::getpid() };
    // SAFETY: the local buffer is ours for its length; the other side is
    // checked by the kernel.
    let copied =
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), pieces as u64, 0) };
    usize::try_from(copied).unwrap_or(0) / 8
}

/// How many words there are of a stack from `from` on, where nothing else says
/// how many are wanted: within reason, and so that there is room for as many.
pub(crate) fn words_above(from: u64, own: &Range<u64>) -> u64 {
    const MOST: u64 = 128 << 10;
    const MOST_ELSEWHERE: u64 = 4 << 10;
    let bytes = if own.contains(&from) {
        (own.end - from).min((from - own.start) / 2).min(MOST)
    } else {
        readable_from(from, MOST_ELSEWHERE)
    };
    bytes / 8
}

/// How many bytes from `from` on can be read, up to `most`.
fn readable_from(from: u64, most: u64) -> u64 {
    const PAGE: u64 = 4096;
    let mut end = from.next_multiple_of(PAGE);
    while end - from < most && sandbox::allows(&[Call::RtSigprocmask]) && crate::arch::is_readable(end) {
        end += PAGE;
    }
    (end - from).min(most)
}
