//! How many words of its caller's stack a function takes as arguments.
//!
//! A trampoline copies a fixed number of words. Whether that is enough is read
//! from the function's instructions (`flow`), in which every register that may
//! lead to the caller's stack is followed (`values`). Where the arguments'
//! address gets out of sight (it is passed on, or counted with), the number
//! isn't known, and each call is asked where its caller's frame ends (`frames`).

mod flow;
mod frames;
mod loaded;
mod values;

pub(crate) use frames::{CALLERS, end_of_frame, forget_callers};
pub(crate) use loaded::reach_of;

/// Words of stack arguments that every trampoline copies: 38 integer arguments
/// in all.
pub(crate) const COPIED: u16 = 32;

/// What a function takes from its caller's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// No more than every trampoline copies.
    Copied,
    /// So many words.
    Words(u16),
    /// As many as there may be.
    Unknown,
}

impl Reach {
    /// The largest number that is told apart from [`Reach::Unknown`].
    const MOST: u32 = 0xfff0;

    fn of(bytes: u32) -> Reach {
        match bytes.div_ceil(8) {
            words if words <= u32::from(COPIED) => Reach::Copied,
            words if words <= Reach::MOST => Reach::Words(words as u16),
            _ => Reach::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
