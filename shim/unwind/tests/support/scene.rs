#![allow(unsafe_code)]
#![allow(dead_code)] // Each test uses its part.
//! One small stack, to be changed by hand between captures.

use crate::simulated::{self, BIAS, Shape, module, site};
use traceshim_unwind::{
    Capturer, FramePointers, Kind, ModuleDesc, ModuleSet, Policy, Regs, StackBounds, StackStatus,
};

/// Room for frames that no stack here fills.
pub(crate) const ROOM: usize = 64;

/// The modules with these functions: as they are, and again as functions whose
/// frames aren't reported.
pub(crate) fn set(shapes: &[Shape], generation: u64) -> ModuleSet {
    let module = ModuleDesc { frame_pointers: FramePointers::Detect, ..module(shapes, generation) };
    let bias = simulated::HIDDEN_BIAS;
    let hidden = ModuleDesc {
        hidden: true,
        avma_start: module.avma_start - BIAS + bias,
        avma_end: module.avma_end - BIAS + bias,
        bias,
        ..module.clone()
    };
    ModuleSet::new(vec![module, hidden], generation)
}

/// A stack in memory, one word after the other.
pub(crate) struct Stack(pub(crate) Vec<u64>);

impl Stack {
    pub(crate) fn base(&mut self) -> u64 {
        self.0.as_mut_ptr().expose_provenance() as u64
    }

    pub(crate) fn bounds(&mut self) -> StackBounds {
        let (lo, n) = (self.base(), self.0.len() as u64);
        // SAFETY: the words stay where they are for as long as the tests use this.
        unsafe { StackBounds::new(lo, lo + 8 * n) }
    }
}

/// Functions: 0 uses no rbp, 1 saves it, 2 keeps a frame pointer, 3 is the start.
pub(crate) const CODE: [Shape; 4] =
    [Shape::Plain(1), Shape::UsesRbp(0), Shape::FramePointer(0), Shape::Start];

pub(crate) struct Scene {
    pub(crate) stack: Stack,
    pub(crate) set: ModuleSet,
    pub(crate) capturer: Box<Capturer>,
    pub(crate) regs: Regs,
    pub(crate) room: usize,
}

impl Scene {
    /// A walk from function `start`, over `words`; `pointers` are words whose
    /// values are offsets in words from the stack's base.
    pub(crate) fn new(start: usize, words: &[u64], pointers: &[usize], bp: Option<u64>) -> Scene {
        let mut stack = Stack(words.to_vec());
        let base = stack.base();
        for &p in pointers {
            stack.0[p] = base + 8 * stack.0[p];
        }
        let bp = bp.map_or(77, |words| base + 8 * words);
        let regs = Regs { ip: site(start, 0), sp: base, bp, ..Regs::default() };
        Scene { stack, set: set(&CODE, 1), capturer: Capturer::boxed(), regs, room: ROOM }
    }

    pub(crate) fn capture(&mut self) -> (Vec<u64>, StackStatus) {
        let mut out = vec![0; self.room];
        let bounds = self.stack.bounds();
        let o = self.capturer.capture(&self.set, &bounds, &self.regs, false, Policy::Table, &mut out);
        out.truncate(o.len);
        (out, o.status)
    }

    pub(crate) fn lookup(&mut self) -> Option<u32> {
        let bounds = self.stack.bounds();
        self.capturer.lookup(1, &bounds, &self.regs, Kind::new(false, Policy::Table, ROOM, 0))
    }

    /// Captures and remembers as 5.
    pub(crate) fn remember(&mut self) -> Vec<u64> {
        let (frames, status) = self.capture();
        assert_eq!(status, StackStatus::Complete);
        self.capturer.remember(5, 0);
        assert_eq!(self.lookup(), Some(5));
        frames
    }
}
