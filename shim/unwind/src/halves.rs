#![allow(unsafe_code)]
//! Words seen as the four 16-bit numbers that each holds.

/// The same bytes, four to a word.
#[inline(always)]
pub(crate) fn as_u16s(words: &[u64]) -> &[u16] {
    // SAFETY: any bytes are a valid u16, and a word's alignment is enough.
    unsafe { words.align_to::<u16>().1 }
}

/// The same bytes, four to a word.
#[inline(always)]
pub(crate) fn as_u16s_mut(words: &mut [u64]) -> &mut [u16] {
    // SAFETY: any bytes are a valid u16 and part of a valid word, and a word's
    // alignment is enough.
    unsafe { words.align_to_mut::<u16>().1 }
}
