#![allow(unsafe_code)]
//! Comparing a stack with what it was: the memo's inner loop.

use crate::memory::StackBounds;
use std::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_cmpeq_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
};

/// Where a remembered walk's slots are in its words: the pairs' values, the
/// single slots' values, then the offsets of both, four to a word. All are
/// outermost first; offsets are in words from rsp.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) pairs: u16,
    pub(crate) singles: u16,
    /// The highest offset.
    pub(crate) extent: u16,
}

impl Shape {
    /// How many words there are.
    #[inline(always)]
    pub(crate) fn words(self) -> usize {
        self.values().wrapping_add(self.offsets().div_ceil(4))
    }

    #[inline(always)]
    fn values(self) -> usize {
        usize::from(self.pairs).wrapping_mul(2).wrapping_add(usize::from(self.singles))
    }

    #[inline(always)]
    fn offsets(self) -> usize {
        usize::from(self.pairs).wrapping_add(usize::from(self.singles))
    }
}

/// Writes a walk's slots into words of that shape's number. `None`: they don't fit.
pub(crate) fn write(words: &mut [u64], slots: &crate::trace::Slots, shape: Shape) -> Option<()> {
    let (pairs, singles) = (usize::from(shape.pairs), usize::from(shape.singles));
    let (values, offsets) = words.split_at_mut_checked(shape.values())?;
    let (pair_values, single_values) = values.split_at_mut_checked(pairs.wrapping_mul(2))?;
    pair_values.copy_from_slice(slots.pair_values.get(..pairs)?.as_flattened());
    single_values.copy_from_slice(slots.single_values.get(..singles)?);
    // SAFETY: any bytes are a valid u16 and part of a valid word, and a word's alignment is enough.
    let offsets = unsafe { offsets.align_to_mut::<u16>().1 };
    let (pair_offsets, rest) = offsets.split_at_mut_checked(pairs)?;
    pair_offsets.copy_from_slice(slots.pair_offsets.get(..pairs)?);
    rest.get_mut(..singles)?.copy_from_slice(slots.single_offsets.get(..singles)?);
    Some(())
}

/// Slots compared before a difference is looked at: without a branch each, and
/// without going far where the innermost already differ.
const STRIDE: usize = 8;

/// Whether the stack that starts at `sp` has the values in `words`. `false`
/// where any of them would be outside `stack`.
#[inline(always)]
pub(crate) fn same(words: &[u64], shape: Shape, stack: &StackBounds, sp: u64) -> bool {
    let above = stack.hi().wrapping_sub(sp);
    let inside = sp <= stack.hi() && sp >= stack.lo() && above >> 3 > u64::from(shape.extent);
    if !inside || sp & 7 != 0 || words.len() < shape.words() {
        return false;
    }
    let base = core::ptr::with_exposed_provenance::<u64>(sp as usize);
    // SAFETY: all words from `sp` to the extent, which no offset is above, are
    // in bounds whose maker promised them readable; and `words` is long enough
    // for the shape. Every x86-64 has SSE2.
    unsafe { same_unchecked(words.as_ptr(), shape, base) }
}

/// # Safety
/// `words` is valid for `shape.words()` words, and `base` for as many as any
/// offset in there says.
#[target_feature(enable = "sse2")]
#[inline]
unsafe fn same_unchecked(words: *const u64, shape: Shape, base: *const u64) -> bool {
    let (pairs, singles) = (usize::from(shape.pairs), usize::from(shape.singles));
    let pair_values = words.cast::<__m128i>();
    let single_values = words.wrapping_add(pairs.wrapping_mul(2));
    let pair_offsets = words.wrapping_add(shape.values()).cast::<u16>();
    let single_offsets = pair_offsets.wrapping_add(pairs);
    let load = |p: *const __m128i| {
        // SAFETY: every pointer below is to a pair of the shape, or to the pair
        // of stack words that its offset says.
        unsafe { _mm_loadu_si128(p) }
    };
    let word = |p: *const u64| {
        // SAFETY: every pointer below is to a value of the shape, or to the
        // stack word that its offset says.
        unsafe { p.read() }
    };
    let offset = |p: *const u16| {
        // SAFETY: every pointer below is to an offset of the shape.
        usize::from(unsafe { p.read() })
    };
    // Innermost first: from the end.
    let mut left = pairs;
    while left > 0 {
        let first = left.saturating_sub(STRIDE);
        let mut equal = _mm_set1_epi8(-1);
        while left > first {
            left = left.wrapping_sub(1);
            let at = offset(pair_offsets.wrapping_add(left));
            let now = load(base.wrapping_add(at).cast());
            equal = _mm_and_si128(equal, _mm_cmpeq_epi32(now, load(pair_values.wrapping_add(left))));
        }
        if _mm_movemask_epi8(equal) != 0xffff {
            return false;
        }
    }
    let mut left = singles;
    while left > 0 {
        let first = left.saturating_sub(STRIDE);
        let mut different = 0;
        while left > first {
            left = left.wrapping_sub(1);
            let at = offset(single_offsets.wrapping_add(left));
            different |= word(base.wrapping_add(at)) ^ word(single_values.wrapping_add(left));
        }
        if different != 0 {
            return false;
        }
    }
    true
}
