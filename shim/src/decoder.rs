//! iced-x86's decoder and encoder, which make their tables at their first use,
//! behind a `Once`. In a child that another thread forked in the middle of that,
//! nobody will ever finish them: there nothing is decoded any more.

use crate::lock::{self, Lock};
use iced_x86::{Decoder, DecoderOptions, Encoder, Instruction};
use std::sync::atomic::{AtomicU8, Ordering};

/// Tables that are made at their first use.
struct Tables {
    state: AtomicU8,
    /// Taken while they are made.
    making: Lock<()>,
    make: fn(),
}

const NONE: u8 = 0;
const MADE: u8 = 1;
/// Whoever made them is gone.
const LOST: u8 = 2;

static DECODING: Tables = Tables::new(|| drop(Decoder::new(64, &[], DecoderOptions::NONE)));
static ENCODING: Tables = Tables::new(|| drop(Encoder::new(64).encode(&Instruction::default(), 0)));

impl Tables {
    const fn new(make: fn()) -> Tables {
        Tables { state: AtomicU8::new(NONE), making: Lock::new(()), make }
    }

    /// Whether they are there, from now on.
    fn are_made(&self) -> bool {
        if self.state.load(Ordering::Acquire) == NONE {
            let _making = self.making.lock();
            if self.state.load(Ordering::Acquire) == NONE {
                (self.make)();
                self.state.store(MADE, Ordering::Release);
            }
        }
        self.state.load(Ordering::Acquire) == MADE
    }
}

/// Whether instructions can be decoded.
pub(crate) fn can_decode() -> bool {
    DECODING.are_made()
}

/// The instructions of some code, which begins at `address`; none, where nothing
/// can be decoded.
pub(crate) fn decode(address: u64, code: &[u8]) -> impl Iterator<Item = Instruction> + '_ {
    let decoder = || Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    can_decode().then(decoder).into_iter().flatten()
}

/// Whether instructions can be encoded.
pub(crate) fn can_encode() -> bool {
    ENCODING.are_made()
}

/// Before a fork: nobody else is making tables.
pub(crate) fn lock_for_fork(tries: usize) {
    lock::lock_for_fork(&DECODING.making, tries);
    lock::lock_for_fork(&ENCODING.making, tries);
}

/// After a fork, in both processes.
pub(crate) fn unlock_after_fork() {
    lock::unlock_after_fork(&ENCODING.making);
    lock::unlock_after_fork(&DECODING.making);
}

/// In a forked child.
///
/// # Safety
/// The calling thread is the only one, and makes no tables.
#[allow(unsafe_code)]
pub(crate) unsafe fn forget_others() {
    for tables in [&DECODING, &ENCODING] {
        // SAFETY: the caller's promise.
        let were_made = unsafe { lock::free_in_child(&tables.making) };
        if were_made && tables.state.load(Ordering::Acquire) == NONE {
            tables.state.store(LOST, Ordering::Release);
        }
    }
}
