//! Where things stand in a ring file, in 8-byte words.
//!
//! A ring is an array of chunks of 4 KiB. Chunk 0 is the header; every other
//! chunk is free, holds records, or is a page of one of the tables. So the
//! tables take only what they need, and a ring is cut behind its last used
//! chunk when the process ends. `docs/ring-format.md` is normative; a test
//! compares its tables with the constants here.

/// The first word of a ring: the bytes `TRCSHIM` and a newline-safe marker.
pub const MAGIC: u64 = u64::from_le_bytes(*b"TRCSHIM\x1a");
/// The version of the format that this crate reads and writes.
pub const VERSION: u32 = 1;

/// Bytes in a chunk, the unit of claiming, overwriting and loss.
#[cfg(not(loom))]
pub const CHUNK_BYTES: usize = 4096;
/// A model has as few words as the header allows.
#[cfg(loom)]
pub const CHUNK_BYTES: usize = 144 * 8;
/// Words in a chunk.
pub const CHUNK_WORDS: usize = CHUNK_BYTES / 8;
/// Words of a chunk's own header, before its first record or entry.
pub const CHUNK_HEADER_WORDS: usize = 8;
/// One past the last word that records may use. The last word stays unused so
/// that an end offset is never a multiple of the chunk's size: then the low
/// twelve bits of a write pointer say how much was published.
pub const CHUNK_END_WORDS: usize = CHUNK_WORDS - 1;

/// In a chunk's header: the low twelve bits are the byte offset of the end of
/// what was published; the others carry no meaning.
pub const CHUNK_COMMITTED: usize = 0;
/// In a chunk's header: `seq << 8 | tag`.
pub const CHUNK_STATE: usize = 1;
/// In a chunk's header: bit 0 is set once the chunk was claimed again; the
/// others are the sequence number of its last content that a collector gave
/// back, 0 for none. What was there later and is gone was overwritten.
pub const CHUNK_RETURNED: usize = 2;

/// Header words. Those that threads change often have a cache line each.
pub mod header {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// Format version (low 32 bits), bytes in a chunk (high).
    pub const VERSION: usize = 1;
    /// Bytes of the file as created.
    pub const FILE_BYTES: usize = 2;
    /// Number of chunks, the header included (low), of which reserved for the
    /// loss ledger, at the end (high).
    pub const CHUNKS: usize = 3;
    /// Process id (low) and parent's (high).
    pub const PIDS: usize = 4;
    /// Bit 0: overwrite policy. Bit 1: ticks are TSC ticks, else nanoseconds.
    pub const FLAGS: usize = 5;
    /// 128 random bits that name this ring.
    pub const UUID: usize = 6;
    /// `CLOCK_MONOTONIC` at creation, in nanoseconds.
    pub const START_MONO_NS: usize = 8;
    /// `CLOCK_REALTIME` at creation, in nanoseconds since the epoch.
    pub const START_REAL_NS: usize = 9;
    /// String reference of the executable's path.
    pub const EXE: usize = 10;
    /// 0 while the process runs, 1 after a clean end.
    pub const ENDED: usize = 11;
    /// Ticks at the clean end.
    pub const END_TICKS: usize = 12;
    /// Frames kept per stack (low 32 bits).
    pub const STACK_DEPTH: usize = 13;

    /// Where the next search for a chunk begins.
    pub const CLAIM_CURSOR: usize = 16;
    /// The sequence number of the next claimed chunk.
    pub const NEXT_SEQ: usize = 24;
    /// The serial number of the next thread.
    pub const NEXT_UID: usize = 32;
    /// Counts the collector's returns of chunks.
    pub const FREED_EPOCH: usize = 40;
    /// `FREED_EPOCH + 1` at the last search that found nothing, else 0.
    pub const FULL_EPOCH: usize = 48;
    /// One past the highest chunk ever claimed.
    pub const HIGH_WATER: usize = 49;
    /// Chunks that became table pages.
    pub const TABLE_CHUNKS: usize = 50;
    /// Where each table grows next: a byte offset in the file, 0 at first.
    /// In the order of [`super::Table`], a cache line each.
    pub const TABLE_CURSOR: usize = 56;

    /// Events refused because the tracer was already active on the thread.
    pub const REENTERED: usize = 96;
    /// Strings, stacks, modules and hooks for which there was no room.
    pub const TABLE_FULL: usize = 97;
    /// Losses of threads for which the ledger had no room: count, from, to.
    pub const OTHER_LOSSES: usize = 98;

    /// Partly filled chunks that wait for another thread: chunk numbers.
    pub const PARTIAL: usize = 104;
    /// Places in the list of partly filled chunks.
    pub const PARTIAL_LEN: usize = 16;

    /// Pairs of (ticks, `CLOCK_MONOTONIC` ns): at the beginning and the end of
    /// the shim's start, and at the process's clean end.
    pub const SYNCS: usize = 128;
    /// How many such pairs there are room for.
    pub const SYNCS_LEN: usize = 4;
}

/// Set in [`header::FLAGS`]: the oldest chunks are overwritten.
pub const FLAG_OVERWRITE: u64 = 1;
/// Set in [`header::FLAGS`]: ticks are TSC ticks.
pub const FLAG_TSC: u64 = 2;

/// What a chunk is, the low byte of its state word.
pub mod tag {
    /// Nobody's; its content, if any, was taken by a collector.
    pub const FREE: u8 = 0;
    /// A thread writes records in it, or it waits for another thread to go on.
    pub const OPEN: u8 = 1;
    /// Full of records.
    pub const CLOSED: u8 = 2;
    /// Claimed, not yet opened: holds nothing.
    pub const CLAIMED: u8 = 3;
    /// Page of [`super::Table`] `n` is `TABLE + n`.
    pub const TABLE: u8 = 16;
}

/// The tables that grow in chunks of the ring. They are never overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// Interned byte strings.
    Strings = 0,
    /// Stack frames, each with the reference of its caller's.
    Nodes = 1,
    /// Modules, with the times at which they were loaded and unloaded.
    Modules = 2,
    /// Hooked functions.
    Hooks = 3,
    /// Lost events, a line per thread.
    Ledger = 4,
}

impl Table {
    /// All tables.
    pub const ALL: [Table; 5] = [Table::Strings, Table::Nodes, Table::Modules, Table::Hooks, Table::Ledger];

    /// The chunk tag of this table's pages.
    pub const fn tag(self) -> u8 {
        tag::TABLE + self as u8
    }
}

/// Bytes in a unit of [`Ref`]: everything that has one is aligned to it.
pub const REF_BYTES: usize = 16;
/// Words in a module's entry.
pub const MODULE_WORDS: usize = 16;
/// Words in a hook's entry.
pub const HOOK_WORDS: usize = 2;
/// Words in a stack node.
pub const NODE_WORDS: usize = 2;
/// Words in a ledger line.
pub const LEDGER_WORDS: usize = 4;

/// Words of a thread's line in the loss ledger.
pub mod ledger {
    /// Its serial number and, in the upper half, its kernel id.
    pub const WHO: usize = 0;
    /// How many events it lost.
    pub const COUNT: usize = 1;
    /// Ticks of the first.
    pub const FROM: usize = 2;
    /// Ticks of the last.
    pub const TO: usize = 3;
}
/// The longest string that is interned whole, in bytes.
pub const STRING_MAX: usize = (CHUNK_WORDS - CHUNK_HEADER_WORDS - 2) * 8;
/// The smallest ring, in bytes.
pub const RING_MIN_BYTES: u64 = 64 << 10;
/// The largest ring, in bytes: a stack reference keeps one bit for itself.
pub const RING_MAX_BYTES: u64 = 16 << 30;

/// A place in the ring file, in units of 16 bytes; 0 is nothing.
pub type Ref = u32;

const _: () = {
    assert!(!(CHUNK_END_WORDS * 8).is_multiple_of(CHUNK_BYTES));
    assert!(header::TABLE_CURSOR + 8 * Table::ALL.len() <= header::REENTERED);
    assert!(header::PARTIAL + header::PARTIAL_LEN <= header::SYNCS);
    assert!(header::SYNCS + 2 * header::SYNCS_LEN <= CHUNK_WORDS);
    assert!((CHUNK_HEADER_WORDS * 8).is_multiple_of(REF_BYTES));
    assert!((CHUNK_WORDS - CHUNK_HEADER_WORDS).is_multiple_of(2));
    assert!(RING_MAX_BYTES / (REF_BYTES as u64) < 1 << 31);
    // Statuses, which end the chains of stack nodes, lie inside the header.
    assert!(CHUNK_BYTES / REF_BYTES >= 256 || cfg!(loom));
};
