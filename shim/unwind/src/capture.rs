#![allow(unsafe_code)]
//! A thread's unwinding memory, and the policy between the walks.

use crate::learn::Learned;
use crate::machine::{Machine, Regs};
use crate::memory::StackMemory;
use crate::module::ModuleSet;
use crate::rule::Rule;
use crate::walk::{self, Frames};
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
    /// on the stack, and from there on the table. The stack and its status are
    /// those of `Table`.
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
    /// First visits a capture may make, less the default; so that zero is the default.
    visit_limit_offset: i32,
}

/// First visits in one capture: no stack within the default depth is cut short.
const VISITS: u32 = 512;

const _: () = assert!(size_of::<Capturer>() <= Capturer::MAX_BYTES);

impl Capturer {
    /// No version of this type is larger.
    pub const MAX_BYTES: usize = 96 * 1024;

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
        let mut m = Machine::new(regs, ip_is_exact, false);
        let mut frames = Frames { out, len: 0 };
        let unwinder = match policy {
            Policy::FramePointer => Unwinder::FramePointer,
            Policy::Auto { c_on_stack: false } if self.starts_on_frame_pointer(set, mem, &m) => {
                Unwinder::FramePointer
            }
            _ => Unwinder::Table,
        };
        let mut status = match frames.push(set, &m) {
            Err(status) => status,
            Ok(()) if mem.read(m.sp & !7).is_none() => StackStatus::UnknownStack,
            Ok(()) if policy == Policy::FramePointer => {
                walk::by_forced_frame_pointers(set, mem, &mut m, &mut frames)
            }
            Ok(()) => self.walk(set, mem, &mut m, &mut frames, unwinder),
        };
        if status == StackStatus::UnknownRegister && policy != Policy::FramePointer {
            status = self.walk_all_registers(set, mem, regs, ip_is_exact, &mut frames);
        }
        Outcome { len: frames.len, status, unwinder }
    }

    /// Whether the innermost frame's own row is that of a kept frame pointer.
    fn starts_on_frame_pointer<M: StackMemory>(&mut self, set: &ModuleSet, mem: &M, m: &Machine) -> bool {
        let address = m.lookup_address();
        if !set.keeps_frame_pointers(address) {
            return false;
        }
        let rule = match self.learned.rules.get(address) {
            Some(rule) => Ok(rule),
            None => self.learned.first_visit::<false>(set, m, mem),
        };
        rule.is_ok_and(Rule::is_frame_pointer)
    }

    #[inline(always)]
    fn walk<M: StackMemory>(
        &mut self,
        set: &ModuleSet,
        mem: &M,
        m: &mut Machine,
        frames: &mut Frames<'_>,
        unwinder: Unwinder,
    ) -> StackStatus {
        if unwinder == Unwinder::FramePointer
            && let Err(status) = walk::by_kept_frame_pointers(set, mem, m, frames)
        {
            return status;
        }
        walk::by_rules::<false, M>(&mut self.learned, set, mem, m, frames)
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
        let mut m = Machine::new(regs, ip_is_exact, true);
        frames.len = 0;
        match frames.push(set, &m) {
            Err(status) => status,
            Ok(()) => walk::by_rules::<true, M>(&mut self.learned, set, mem, &mut m, frames),
        }
    }
}
