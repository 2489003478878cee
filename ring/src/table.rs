//! The tables: strings, stacks, modules and hooks, each interned once.
//!
//! Entries are appended to pages that are chunks of the ring; a reference is an
//! entry's place in the file. What finds an entry again is an open-addressed
//! index in the process's own memory, which only ever makes the ring smaller:
//! two threads that race may both append the same thing, and nobody waits.

use crate::layout::{
    CHUNK_BYTES, CHUNK_HEADER_WORDS, HOOK_WORDS, MODULE_WORDS, NODE_WORDS, REF_BYTES, Ref, STRING_MAX, Table,
    header,
};
use crate::record::{StackRef, pair};
use crate::ring::Ring;
use crate::stack::StackStatus;
use crate::stamp::FileStamp;
use crate::sync::Ordering;

/// How many places of the index are tried.
const PROBES: usize = 32;
/// Set in a hook's second word and a module's first: the entry is complete.
pub(crate) const PUBLISHED: u64 = 1 << 63;

/// What the ring keeps of a module. Addresses are actual ones of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleEntry<'a> {
    /// First mapped address.
    pub start: u64,
    /// One past the last mapped address.
    pub end: u64,
    /// What is added to the file's addresses.
    pub bias: u64,
    /// Ticks when the shim saw it.
    pub load_ticks: u64,
    /// Whether it belongs to the host.
    pub is_host: bool,
    /// The GNU build id; at most 32 bytes are kept.
    pub build_id: &'a [u8],
    /// Path as the loader names it.
    pub path: &'a [u8],
    /// The file, where it has no build id.
    pub file: FileStamp,
}

fn hash_bytes(bytes: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash ^ hash >> 32) as u32
}

impl Ring<'_> {
    /// Appends an entry of `words` words to a table; its reference.
    pub(crate) fn grow(&self, table: Table, words: usize) -> Option<Ref> {
        const FIRST: u64 = CHUNK_HEADER_WORDS as u64 * 8;
        let at = header::TABLE_CURSOR + 8 * table as usize;
        let bytes = (words * 8).next_multiple_of(REF_BYTES) as u64;
        if bytes > CHUNK_BYTES as u64 - FIRST {
            return None;
        }
        loop {
            let seen = self.load(at, Ordering::Acquire);
            let offset = seen % CHUNK_BYTES as u64;
            // A cursor that somebody changed must not lead into the header.
            if seen > CHUNK_BYTES as u64 && offset != 0 && offset + bytes <= CHUNK_BYTES as u64 {
                if self.cas(at, seen, seen + bytes, Ordering::AcqRel) {
                    return Some((seen / REF_BYTES as u64) as Ref);
                }
                continue;
            }
            let Some(page) = self.claim_page(table) else {
                // Losses for which the ledger has no line are counted elsewhere.
                if table != Table::Ledger {
                    self.add(header::TABLE_FULL, 1);
                }
                return None;
            };
            let start = u64::from(page) * CHUNK_BYTES as u64 + FIRST;
            if self.cas(at, seen, start + bytes, Ordering::AcqRel) {
                return Some((start / REF_BYTES as u64) as Ref);
            }
            self.unclaim(page);
        }
    }

    /// The entry with this hash for which `is` holds, or a new one.
    pub(crate) fn intern(
        &self,
        hash: u32,
        is: impl Fn(Ref) -> bool,
        make: impl FnOnce() -> Option<Ref>,
    ) -> Option<Ref> {
        let Some(mask) = self.index.len().checked_sub(1) else {
            return make();
        };
        let place = |i: usize| self.index.get((hash as usize).wrapping_add(i) & mask);
        let mut free = None;
        for i in 0..PROBES {
            let slot = place(i)?;
            let seen = slot.load(Ordering::Acquire);
            if seen == 0 {
                free = Some(slot);
                break;
            }
            if (seen >> 32) as u32 == hash && is(seen as u32) {
                return Some(seen as u32);
            }
        }
        let id = make()?;
        if let Some(slot) = free {
            // Losing this race costs a second copy, no more.
            let _ = slot.compare_exchange(0, pair(id, hash), Ordering::AcqRel, Ordering::Relaxed);
        }
        Some(id)
    }

    /// Interns a string; what is longer than [`STRING_MAX`] is cut. 0 where the
    /// ring has no room.
    pub fn string(&self, bytes: &[u8]) -> Ref {
        let bytes = bytes.get(..STRING_MAX).unwrap_or(bytes);
        let hash = hash_bytes(bytes) | 1;
        let head = pair(bytes.len() as u32, hash);
        let is = |id: Ref| {
            let at = id as usize * 2;
            self.load(at, Ordering::Acquire) == head
                && bytes
                    .chunks(8)
                    .enumerate()
                    .all(|(i, part)| self.load(at + 1 + i, Ordering::Relaxed) == word_of(part))
        };
        let make = || {
            let id = self.grow(Table::Strings, 1 + bytes.len().div_ceil(8))?;
            let at = id as usize * 2;
            for (i, part) in bytes.chunks(8).enumerate() {
                self.store(at + 1 + i, word_of(part), Ordering::Relaxed);
            }
            self.store(at, head, Ordering::Release);
            Some(id)
        };
        self.intern(hash, is, make).unwrap_or(0)
    }

    /// The node of a stack that ends, outermost, with `status`.
    pub fn stack_root(&self, status: StackStatus) -> Ref {
        Ref::from(status.code())
    }

    /// The node of the frame `frame` (see [`crate::stack::FRAME_EXACT`]) whose
    /// caller's node is `caller`. `None` where the ring has no room.
    #[inline]
    pub fn stack_node(&self, frame: u64, caller: Ref) -> Option<Ref> {
        self.intern(
            node_hash(frame, caller),
            |id| {
                let at = id as usize * 2;
                self.load(at + 1, Ordering::Acquire) == u64::from(caller)
                    && self.load(at, Ordering::Relaxed) == frame
            },
            || {
                let id = self.grow(Table::Nodes, NODE_WORDS)?;
                let at = id as usize * 2;
                self.store(at, frame, Ordering::Relaxed);
                self.store(at + 1, u64::from(caller), Ordering::Release);
                Some(id)
            },
        )
    }

    /// Interns a whole stack, frames innermost first: the innermost's node.
    /// Where the ring has no room the innermost frames are kept, and the status
    /// says that the table is full. Allocates; see [`Ring::stack_over`].
    pub fn stack(&self, frames: &[u64], status: StackStatus) -> Ref {
        self.stack_over(frames, status, &mut vec![0; frames.len()], 0)
    }

    /// The same, over the last stack: `nodes` holds that one's, outermost first,
    /// of which the first `unchanged` are this one's, too; it becomes this one's.
    pub fn stack_over(
        &self,
        frames: &[u64],
        status: StackStatus,
        nodes: &mut [Ref],
        unchanged: usize,
    ) -> Ref {
        let unchanged = unchanged.min(frames.len());
        let kept = unchanged.checked_sub(1).and_then(|last| nodes.get(last).copied());
        let mut node = kept.unwrap_or(self.stack_root(status));
        let new = frames.iter().rev().zip(nodes.iter_mut()).skip(unchanged);
        for (&frame, place) in new {
            node = self.stack_node(frame, node).unwrap_or(self.stack_root(StackStatus::TableFull));
            *place = node;
        }
        node
    }

    /// The frames of a stack that this process interned, innermost first, as far
    /// as they make sense.
    pub fn frames(&self, stack: StackRef) -> impl Iterator<Item = u64> + '_ {
        let is_node = |node: &Ref| *node > 0xff;
        let caller = move |&node: &Ref| {
            Some(self.load(node as usize * 2 + 1, Ordering::Acquire) as Ref).filter(is_node)
        };
        let innermost = Some(stack.node()).filter(is_node);
        std::iter::successors(innermost, caller).map(|node| self.load(node as usize * 2, Ordering::Relaxed))
    }

    /// Adds a module; its reference, or 0 where there is no room.
    pub fn module(&self, module: &ModuleEntry<'_>) -> Ref {
        let path = self.string(module.path);
        let Some(id) = self.grow(Table::Modules, MODULE_WORDS) else {
            return 0;
        };
        let at = id as usize * 2;
        let build_id = module.build_id.get(..32).unwrap_or(module.build_id);
        let flags = u64::from(module.is_host) | (build_id.len() as u64) << 8;
        for (i, value) in
            [module.start, module.end, module.bias, module.load_ticks, 0, flags].into_iter().enumerate()
        {
            self.store(at + 1 + i, value, Ordering::Relaxed);
        }
        for (i, part) in build_id.chunks(8).enumerate() {
            self.store(at + 7 + i, word_of(part), Ordering::Relaxed);
        }
        let FileStamp { bytes, modified_ns, changed_ns } = module.file;
        for (i, value) in [bytes, modified_ns, changed_ns].into_iter().enumerate() {
            self.store(at + 11 + i, value, Ordering::Relaxed);
        }
        self.store(at, u64::from(path) | PUBLISHED, Ordering::Release);
        id
    }

    /// Notes when a module went away.
    pub fn module_unloaded(&self, module: Ref, ticks: u64) {
        if module != 0 {
            self.store(module as usize * 2 + 5, ticks, Ordering::Release);
        }
    }

    /// Adds hook number `hook`: the function at `address`, called `name`.
    pub fn hook(&self, hook: u16, address: u64, name: &[u8]) -> bool {
        let name = self.string(name);
        let Some(id) = self.grow(Table::Hooks, HOOK_WORDS) else {
            return false;
        };
        let at = id as usize * 2;
        self.store(at, address, Ordering::Relaxed);
        self.store(at + 1, pair(name, u32::from(hook)) | PUBLISHED, Ordering::Release);
        true
    }
}

#[inline(always)]
fn node_hash(frame: u64, caller: Ref) -> u32 {
    let mixed = (frame ^ u64::from(caller).rotate_left(40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 32) as u32 | 1
}

pub(crate) fn word_of(part: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(part) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}
