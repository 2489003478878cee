#![allow(unsafe_code)]
//! A thread's unwinding memory, and the policy between the walks.

use crate::learn::Learned;
use crate::machine::{Machine, Regs};
use crate::memo::{Kind, Memo, Place};
use crate::memory::{StackBounds, StackMemory};
use crate::module::ModuleSet;
use crate::rule::{self, Rule};
use crate::splice::{Splice, Worth};
use crate::trace::{Slots, Trace};
use crate::walk::{self, Frames, Walk};
use std::ptr::NonNull;
use traceshim_ring::stack::{StackStatus, Unwinder};

/// Which unwinder a capture uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Always the call frame information.
    Table,
    /// Only frame pointers, whatever the code; for diagnosis. Never `Complete`.
    FramePointer,
    /// Frame pointers where the code is known to keep them and there is no C
    /// on the stack, for as long as each address's own rule is that step; from
    /// there on the table. The stack and its status are those of `Table`.
    Auto {
        /// C code is on the stack, or may be.
        c_on_stack: bool,
    },
}

/// How a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many frames were written.
    pub len: usize,
    /// Why the stack ends there.
    pub status: StackStatus,
    /// What took the innermost frames.
    pub unwinder: Unwinder,
}

/// One thread's unwinding memory: what it has learned, and room to work in.
///
/// Valid when zeroed, so it may be made over fresh pages without being built
/// on anyone's stack.
pub struct Capturer {
    learned: Learned,
    /// Of the current capture and of the last one, in turns.
    traces: [Trace; 2],
    turn: bool,
    worth: Worth,
    /// How many frames the current capture took over from the last.
    unchanged: usize,
    slots: Slots,
    memo: Memo,
    /// The capture that `remember` is about.
    last: Last,
    /// First visits a capture may make, less the default; so that zero is the default.
    visit_limit_offset: i32,
}

/// The last capture, while it may be remembered.
struct Last {
    regs: Regs,
    generation: u64,
    kind: Kind,
    may_be_remembered: bool,
}

/// How many callers the memo's hash looks at where the last stack isn't it.
const CALLERS: usize = 6;

/// First visits in one capture: no stack within the default depth is cut short.
const VISITS: u32 = 512;

const _: () = assert!(size_of::<Capturer>() <= Capturer::MAX_BYTES);

impl Capturer {
    /// No version of this type is larger.
    pub const MAX_BYTES: usize = 106 * 1024;

    /// Makes a capturer in memory of the caller's; `None` where it is too
    /// small or not aligned to 64 bytes.
    ///
    /// # Safety
    /// `memory` is valid for reads and writes of `len` bytes for `'a`, is used
    /// by nothing else, and is all zero.
    pub unsafe fn from_zeroed<'a>(memory: NonNull<u8>, len: usize) -> Option<&'a mut Capturer> {
        let capturer = memory.cast::<Capturer>();
        if len < size_of::<Capturer>() || !memory.addr().get().is_multiple_of(64) {
            return None;
        }
        const { assert!(align_of::<Capturer>() <= 64) };
        // SAFETY: the caller's promise covers the bytes, the size and the
        // alignment were checked, and zero is a valid value of every field.
        Some(unsafe { &mut *capturer.as_ptr() })
    }

    /// A capturer on the heap, for tests and benchmarks.
    pub fn boxed() -> Box<Capturer> {
        let zeroed = Box::<Capturer>::new_zeroed();
        // SAFETY: zero is a valid value of every field.
        unsafe { zeroed.assume_init() }
    }

    /// Sets how many addresses that were never met a capture may visit (a
    /// microsecond or two each; 512 unless set). A stack that has more is cut
    /// short with `VisitLimit`, and the next capture goes further.
    pub fn set_visit_limit(&mut self, limit: u32) {
        self.visit_limit_offset = (limit as i32).wrapping_sub(VISITS as i32);
    }

    /// Walks the stack from `regs` and writes its frames, innermost first: each
    /// the address, with `FRAME_EXACT` where it is that of the instruction
    /// itself and not a return address. `ip_is_exact` says which `regs.ip` is.
    ///
    /// Where `out` is too short the innermost frames are kept. Nothing is
    /// allocated, locked or called; memory is read through `mem` only.
    pub fn capture<M: StackMemory>(
        &mut self,
        set: &ModuleSet,
        mem: &M,
        regs: &Regs,
        ip_is_exact: bool,
        policy: Policy,
        out: &mut [u64],
    ) -> Outcome {
        self.learned.follow(set);
        self.learned.visits_left = VISITS.wrapping_add_signed(self.visit_limit_offset);
        self.turn = !self.turn;
        self.unchanged = 0;
        self.trace().start(regs.sp);
        let mut m = Machine::new(regs, ip_is_exact, false);
        let room = out.len();
        let mut frames = Frames { out, len: 0 };
        let unwinder = match policy {
            Policy::FramePointer => Unwinder::FramePointer,
            Policy::Auto { c_on_stack: false } if self.starts_on_frame_pointer(set, mem, &m) => {
                Unwinder::FramePointer
            }
            _ => Unwinder::Table,
        };
        let mut status = if mem.read(m.sp & !7).is_none() {
            self.trace().give_up();
            let pushed = frames.push(&m, set.is_hidden(m.lookup_address()));
            pushed.err().unwrap_or(StackStatus::UnknownStack)
        } else if policy == Policy::FramePointer {
            walk::by_forced_frame_pointers(set, mem, &mut m, &mut frames)
        } else {
            self.walk(set, mem, &mut m, false, &mut frames)
        };
        if status == StackStatus::UnknownRegister && policy != Policy::FramePointer {
            status = self.walk_all_registers(set, mem, regs, ip_is_exact, &mut frames);
        }
        let outcome = Outcome { len: frames.len, status, unwinder };
        let kind = Kind::new(ip_is_exact, policy, room, 0);
        self.last = Last {
            regs: *regs,
            generation: set.generation(),
            kind,
            may_be_remembered: kind.is_remembered() && is_final(status) && self.trace().is_whole(),
        };
        outcome
    }

    /// How many frames at the outer end of the last capture were taken over
    /// from the capture before it (a [`lookup`](Self::lookup) in between doesn't
    /// count): who keeps something for each of them needn't find it again.
    pub fn unchanged(&self) -> usize {
        self.unchanged
    }

    /// Gives the last capture's stack a number, by which [`lookup`](Self::lookup)
    /// knows it from now on; whether it does. Nothing is remembered of a capture
    /// that can't be told by the stack alone (one that left the stack's bounds,
    /// say), nor at the first visit where stacks hardly ever come again.
    ///
    /// `tag` belongs to the question, so that one stack can have a number for each.
    pub fn remember(&mut self, id: u32, tag: u32) -> bool {
        let last = &mut self.last;
        if !std::mem::take(&mut last.may_be_remembered) {
            return false;
        }
        let [even, odd] = &self.traces;
        let trace = if self.turn { odd } else { even };
        let kind = last.kind.tagged(tag);
        let place = Place::of(&last.regs, kind, trace.callers().take(CALLERS).fold(0, mix));
        self.memo.admits(place)
            && trace.describe(&mut self.slots).is_some()
            && self.memo.remember(last.generation, kind, &last.regs, place, &self.slots, id)
    }

    /// The number of the stack that a capture of this kind would take, where it
    /// was remembered and everything that it depends on is unchanged. Exact: the
    /// capture would write the same frames with the same outcome as when it was
    /// remembered.
    ///
    /// A stack that spans more than half a megabyte is never remembered.
    #[inline]
    pub fn lookup(&self, generation: u64, stack: &StackBounds, regs: &Regs, kind: Kind) -> Option<u32> {
        self.memo.lookup(generation, kind, stack, regs).or_else(|| self.search(generation, stack, regs, kind))
    }

    #[cold]
    #[inline(never)]
    fn search(&self, generation: u64, stack: &StackBounds, regs: &Regs, kind: Kind) -> Option<u32> {
        let caller = self.callers(stack, regs, kind.ip_is_exact());
        self.memo.search(generation, kind, stack, regs, caller)
    }

    /// What [`find_remembered`](crate::find_remembered) finds is of this
    /// generation of modules from now on.
    pub fn follow(&mut self, generation: u64) {
        self.memo.follow(generation);
    }

    /// Where [`find_remembered`](crate::find_remembered) finds what is remembered.
    pub fn memo(&self) -> *const u8 {
        (&raw const self.memo).cast()
    }

    /// The innermost return addresses, mixed, as far as learned rules tell their
    /// places at once. Only the memo's hash depends on it: a start has many
    /// stacks, and the nearest caller alone tells few of them apart.
    fn callers<M: StackMemory>(&self, mem: &M, regs: &Regs, ip_is_exact: bool) -> u64 {
        let mut address = if ip_is_exact { regs.ip } else { regs.ip.wrapping_sub(1) };
        let (mut sp, mut bp, mut mixed) = (regs.sp, regs.bp, 0u64);
        for _ in 0..CALLERS {
            let Some(rule) = self.learned.rules.get(address).filter(|rule| rule.kind() == rule::Kind::Cfa)
            else {
                break;
            };
            let cfa = rule.cfa(sp, bp);
            let Some(caller) = mem.read(cfa.wrapping_sub(8)) else { break };
            if !rule.keeps_bp() {
                bp = mem.read(rule.bp_slot(cfa)).unwrap_or(0);
            }
            mixed = mix(mixed, caller);
            (sp, address) = (cfa, caller.wrapping_sub(1));
        }
        mixed
    }

    /// Whether the innermost frame's own row is that of a frame pointer, in a
    /// function that keeps it throughout.
    fn starts_on_frame_pointer<M: StackMemory>(&mut self, set: &ModuleSet, mem: &M, m: &Machine) -> bool {
        let rule = match self.learned.rules.get(m.lookup_address()) {
            Some(rule) => Ok(rule),
            None => self.learned.first_visit(set, m, mem),
        };
        rule.is_ok_and(Rule::is_kept)
    }

    /// The walk that a function with its CFA on rbx or r12 to r15 needs (such
    /// as `_dl_runtime_resolve`): again from the start, following all of them.
    #[cold]
    #[inline(never)]
    fn walk_all_registers<M: StackMemory>(
        &mut self,
        set: &ModuleSet,
        mem: &M,
        regs: &Regs,
        ip_is_exact: bool,
        frames: &mut Frames<'_>,
    ) -> StackStatus {
        // The memo knows rbp alone.
        self.trace().give_up();
        let mut m = Machine::new(regs, ip_is_exact, true);
        frames.len = 0;
        self.walk(set, mem, &mut m, true, frames)
    }

    #[inline(always)]
    fn walk<M: StackMemory>(
        &mut self,
        set: &ModuleSet,
        mem: &M,
        m: &mut Machine,
        all: bool,
        frames: &mut Frames<'_>,
    ) -> StackStatus {
        let [even, odd] = &mut self.traces;
        let (trace, last) = if self.turn { (odd, even) } else { (even, odd) };
        let splice = Splice::new(last, set, &mut self.worth);
        let mut walk = Walk::new(&mut self.learned, set, trace, splice, frames, all);
        let status = walk.run(mem, m);
        let Splice { taken, end_is_hidden, .. } = walk.splice;
        self.unchanged = taken;
        self.worth.was(taken);
        if status == StackStatus::Complete {
            let hidden = end_is_hidden.unwrap_or_else(|| set.is_hidden(m.lookup_address()));
            trace.complete(set.generation(), hidden);
        }
        status
    }

    #[inline(always)]
    fn trace(&mut self) -> &mut Trace {
        let [even, odd] = &mut self.traces;
        if self.turn { odd } else { even }
    }
}

/// One more caller in a hash.
fn mix(callers: u64, caller: u64) -> u64 {
    (callers.rotate_left(23) ^ caller).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Whether the same stack would end so again.
fn is_final(status: StackStatus) -> bool {
    matches!(
        status,
        StackStatus::Complete
            | StackStatus::DepthLimit
            | StackStatus::NoModule
            | StackStatus::NoUnwindInfo
            | StackStatus::BadUnwindInfo
    )
}
