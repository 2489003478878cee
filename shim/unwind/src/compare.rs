#![allow(unsafe_code)]
//! Comparing a stack with what it was: the memo's inner loop.

use crate::memory::StackBounds;
use std::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_cmpeq_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
};

/// What a remembered walk depends on: pairs of neighbouring slots, then single
/// ones, each innermost first. Offsets are words from rsp.
pub(crate) struct Remembered<'a> {
    pub(crate) pairs: &'a [[u64; 2]],
    pub(crate) pair_offsets: &'a [u16],
    pub(crate) singles: &'a [u64],
    pub(crate) single_offsets: &'a [u16],
    /// The highest offset of any word.
    pub(crate) extent: u16,
}

/// Remembered compared before a difference is looked at: without a branch each, and
/// without going far where the innermost already differ.
const STRIDE: usize = 8;

impl Remembered<'_> {
    /// Whether the stack that starts at `sp` still has these values. `false`
    /// where any of them would be outside `stack`.
    #[inline(always)]
    pub(crate) fn are_in(&self, stack: &StackBounds, sp: u64) -> bool {
        let Some(base) = window(stack, sp, self.extent) else { return false };
        // SAFETY: every x86-64 has SSE2.
        if !unsafe { self.pairs_are_at(base) } {
            return false;
        }
        let singles = self.single_offsets.chunks(STRIDE).zip(self.singles.chunks(STRIDE));
        for (offsets, values) in singles {
            let mut different = 0;
            for (offset, value) in offsets.iter().zip(values) {
                different |= base.word(*offset) ^ value;
            }
            if different != 0 {
                return false;
            }
        }
        true
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    fn pairs_are_at(&self, base: Window) -> bool {
        let pairs = self.pair_offsets.chunks(STRIDE).zip(self.pairs.chunks(STRIDE));
        for (offsets, values) in pairs {
            let mut same = _mm_set1_epi8(-1);
            for (offset, value) in offsets.iter().zip(values) {
                same = _mm_and_si128(same, _mm_cmpeq_epi32(base.pair(*offset), load(value)));
            }
            if _mm_movemask_epi8(same) != 0xffff {
                return false;
            }
        }
        true
    }
}

/// A part of a stack that was found to be inside its bounds.
#[derive(Clone, Copy)]
struct Window(*const u64);

/// The words `0..=extent` from `sp`, where all of them are in `stack`.
#[inline(always)]
fn window(stack: &StackBounds, sp: u64, extent: u16) -> Option<Window> {
    let above = stack.hi().checked_sub(sp)?;
    let inside = sp >= stack.lo() && above >> 3 > u64::from(extent) && sp & 7 == 0;
    inside.then(|| Window(core::ptr::with_exposed_provenance(sp as usize)))
}

impl Window {
    #[inline(always)]
    fn word(self, offset: u16) -> u64 {
        let word = self.0.wrapping_add(usize::from(offset));
        // SAFETY: no offset of `Remembered` is above its extent, and `window` has
        // found all words up to that in bounds whose maker promised them readable.
        unsafe { word.read_volatile() }
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    fn pair(self, offset: u16) -> __m128i {
        let pair = self.0.wrapping_add(usize::from(offset)).cast::<__m128i>();
        // SAFETY: as in `word`; the extent is that of the pair's second word.
        unsafe { _mm_loadu_si128(pair) }
    }
}

#[target_feature(enable = "sse2")]
#[inline]
fn load(value: &[u64; 2]) -> __m128i {
    let pair = std::ptr::from_ref(value).cast::<__m128i>();
    // SAFETY: the reference is to 16 bytes.
    unsafe { _mm_loadu_si128(pair) }
}
