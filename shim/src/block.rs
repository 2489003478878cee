//! A thread's block: the memory that its events need beyond the few words in
//! TLS. Made at the thread's first event, handed to another thread at its end.

use std::sync::atomic::AtomicU64;
use traceshim_unwind::Capturer;

/// Bytes of a block's mapping. Pages that are never touched cost nothing.
pub(crate) const BLOCK_BYTES: usize = 320 << 10;
/// Room for the vector registers: AVX-512 needs 2,696 bytes.
pub(crate) const VECTOR_BYTES: usize = 4096 - 64;
/// Callbacks in progress that are told apart; deeper ones are only counted.
pub(crate) const SHADOW_LEN: usize = 256;
/// The deepest stack, with room for the callback's own entry.
pub(crate) const FRAMES_LEN: usize = 1024 + 1;
/// Words of a stack of unknown bounds that are copied before it is walked.
pub(crate) const COPY_WORDS: usize = 2048;
/// The least that must remain of a block as a stack for handlers, the tracer's
/// start among them, also unoptimised.
const STACK_MIN: usize = 160 << 10;

/// Blocks that ended threads left: the address of the first, and in the upper
/// 16 bits a count of changes, so that a block that came and went is noticed.
pub(crate) static FREE_BLOCKS: AtomicU64 = AtomicU64::new(0);

/// A callback in progress.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Shadow {
    /// Its trampoline's frame.
    pub(crate) frame: u64,
    /// Its hook, and what else tells that the frame is still the one that it
    /// was: see [`crate::arch::Context::mark`].
    pub(crate) mark: u64,
}

impl Shadow {
    /// The hook's number.
    #[inline(always)]
    pub(crate) fn hook(self) -> u16 {
        self.mark as u16
    }
}

/// The block. All zero is valid; what lies behind it is a stack that grows
/// down from the end of the mapping.
#[repr(C, align(64))]
pub(crate) struct Block {
    /// The next free block, while this one is free.
    pub(crate) next: u64,
    pad: [u64; 7],
    /// The vector registers of whoever called, as `xsave` lays them out.
    pub(crate) vectors: [u8; VECTOR_BYTES],
    /// Callbacks in progress, outermost first.
    pub(crate) shadow: [Shadow; SHADOW_LEN],
    /// The stack that is being taken.
    pub(crate) frames: [u64; FRAMES_LEN],
    /// The nodes of the last stack that was walked, outermost first, and how
    /// many there are.
    pub(crate) nodes: [u32; FRAMES_LEN],
    pub(crate) nodes_len: u32,
    /// A copy of a stack whose bounds are unknown.
    pub(crate) copy: [u64; COPY_WORDS],
    /// The unwinder's memory.
    pub(crate) capturer: Capturer,
}

const _: () = assert!(size_of::<Block>() + STACK_MIN <= BLOCK_BYTES);
const _: () = assert!(std::mem::offset_of!(Block, vectors) % 64 == 0);
