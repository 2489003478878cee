//! What the shim knows of a thread: a few words in static TLS.

use crate::block::Block;
use std::sync::atomic::AtomicU64;
use traceshim_ring::record::Origin;
use traceshim_ring::ring::{Cursor, Owner};

/// A thread's state. All zero is valid: a thread that was never seen.
#[repr(C)]
pub(crate) struct ThreadState {
    /// The address of a word in the frame of whoever is inside the tracer, else 0.
    /// Set and cleared by the gate and the trampolines only.
    pub(crate) inside: u64,
    /// The thread's block; null before its first event and after its end.
    pub(crate) block: *mut Block,
    /// The thread's own stack, as far as known; empty before it is.
    pub(crate) stack_lo: u64,
    pub(crate) stack_hi: u64,
    /// From here up there is room on it for a handler; below, and at first,
    /// handlers run on the block's stack.
    pub(crate) roomy_from: u64,
    /// Events refused since the last one that was recorded.
    pub(crate) reentered: u64,
    /// The pulse for which trampolines may record by themselves, plus one; 0:
    /// they may not. See [`crate::fast`], which sets this and the next three.
    pub(crate) armed: u64,
    /// The ring's first byte.
    pub(crate) ring: u64,
    /// Where losses are counted while the ring is full; 0: they are not known to be.
    pub(crate) losses: u64,
    /// Where remembered stacks are found; 0 where stacks are off.
    pub(crate) memo: u64,
    /// What is asked there, less the hook; where stacks are off, the stack.
    pub(crate) kind: u64,
    /// Where the thread writes.
    pub(crate) cursor: Cursor,
    /// Which process the rest belongs to: see [`crate::tracer::Tracer::epoch`].
    pub(crate) epoch: u32,
    pub(crate) uid: u32,
    pub(crate) tid: u32,
    /// Code of an [`Origin`].
    pub(crate) origin: u8,
    /// How far the thread's end has come: see [`crate::hooks::threads`].
    pub(crate) end_rounds: u8,
    /// Whether its start routine returned.
    pub(crate) returned: bool,
    /// Whether it has made a clone that uses this very state: see [`STRANGERS`].
    pub(crate) shared: bool,
    pub(crate) creator: u32,
    /// Its start routine, 0 where that is not known.
    pub(crate) start_routine: u64,
    pub(crate) name: u32,
    /// Callbacks in progress.
    pub(crate) depth: u32,
    /// Tasks begun by this thread.
    pub(crate) tasks: u32,
}

// The space comes out of every thread's stack or static TLS.
const _: () = assert!(size_of::<ThreadState>() <= 192);

/// Events that were refused because another than the thread itself came: a clone
/// without thread-local storage of its own uses its creator's, and so its state.
/// Only one can write where that says.
pub(crate) static STRANGERS: AtomicU64 = AtomicU64::new(0);

impl ThreadState {
    pub(crate) fn origin(&self) -> Origin {
        Origin::from_code(u16::from(self.origin))
    }

    /// Whether there may be C code on the stack: the thread was born in C or
    /// nobody knows where, or a callback is in progress.
    pub(crate) fn c_on_stack(&self) -> bool {
        self.depth > 0 || matches!(self.origin(), Origin::C | Origin::Unknown)
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner {
            uid: self.uid,
            tid: self.tid,
            origin: self.origin(),
            creator: self.creator,
            name: self.name,
            depth: self.depth.min(u32::from(u16::MAX)) as u16,
        }
    }
}
