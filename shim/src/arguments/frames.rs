//! Where callers' frames end: what they pass on the stack is below.
//!
//! What was found out for a call is remembered by its return address, one word
//! for each, which the assembly of `widen` reads:
//! ```text
//!   63..27  the return address, less its lowest 10 bits, which are the place
//!   26      counted from rbp, else from the first argument
//!   25..0   how many words, signed
//! ```

use crate::modules;
use std::sync::atomic::{AtomicU64, Ordering};
use traceshim_unwind::Frame;

const PLACES: u64 = 1024;
const FROM_BP: u64 = 1 << 26;
const HIGHEST: u64 = 1 << 47;
/// A frame of more words isn't believed.
const MOST: u64 = 8 << 20;

/// See above.
pub(crate) static CALLERS: [AtomicU64; PLACES as usize] = [const { AtomicU64::new(0) }; PLACES as usize];

/// Where the caller's frame ends that returns to `back`, where its rbp is `bp`,
/// and what it passes on the stack begins at `arguments`: after how many words.
/// `None` where that isn't known.
pub(crate) fn end_of_frame(back: u64, bp: u64, arguments: u64) -> Option<u64> {
    let generation = modules::generation();
    let frame = modules::with_set(0, |set| set.frame(back.wrapping_sub(1)))??;
    let (counted, from, bytes) = match frame {
        // Less the return address.
        Frame::FromSp(above) => (0, arguments, i64::from(above) - 8),
        Frame::FromBp(above) => (FROM_BP, bp, i64::from(above) - 8),
        Frame::Realigned => (FROM_BP, bp, 0),
    };
    let end = from.checked_add_signed(bytes)?;
    let words = end.checked_sub(arguments).map(|bytes| bytes / 8).filter(|&words| words <= MOST)?;
    let distance = bytes >> 3;
    if let Some(place) = CALLERS.get((back % PLACES) as usize)
        && back < HIGHEST
        && distance.unsigned_abs() < FROM_BP / 2
    {
        let said = (back / PLACES) << 27 | counted | distance as u64 & (FROM_BP - 1);
        place.store(said, Ordering::Relaxed);
        if modules::generation() != generation {
            place.store(0, Ordering::Relaxed);
        }
    }
    Some(words)
}

/// Another module may be where one was.
pub(crate) fn forget_callers() {
    CALLERS.iter().for_each(|place| place.store(0, Ordering::Relaxed));
}
