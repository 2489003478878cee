//! The protocol: publishing records in chunks, and handing chunks over.
//!
//! It works on a slice of atomic words and knows nothing of files, so that a
//! model checker can run it. Nothing here locks, allocates or panics. What the
//! words hold is not trusted either: the traced program may scribble on them,
//! so every place that is read from the ring is checked before it is used.

use crate::layout::{
    CHUNK_BYTES, CHUNK_COMMITTED, CHUNK_END_WORDS, CHUNK_HEADER_WORDS, CHUNK_STATE, CHUNK_WORDS, Ref, header,
    tag,
};
use crate::record::{BODY_MAX_WORDS, Head, Origin, kind, pair};
#[cfg(not(loom))]
use crate::room::Room;
use crate::sync::{AtomicU64, Ordering, Step, order};

/// Words of an `OWNER` record.
pub const OWNER_WORDS: usize = 6;
/// The shortest event that has a stack.
const EVENT_WORDS: usize = 2;
/// A chunk with less room than this is closed and not handed over.
const HAND_OVER_WORDS: usize = 4 * OWNER_WORDS;

/// A ring in memory. Copies are views of the same words.
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a> {
    words: &'a [AtomicU64],
    pub(crate) index: &'a [AtomicU64],
    pub(crate) chunks: u32,
    pub(crate) reserve: u32,
    pub(crate) overwrite: bool,
    /// What may be touched of the words; without it all.
    #[cfg(not(loom))]
    pub(crate) room: Option<&'a Room>,
}

/// The time source of a writer.
pub trait Clock {
    /// The current ticks and, taken as close to them as possible,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    fn sync(&self) -> (u64, u64);
}

/// Who writes: what a chunk says of the thread at the start of its tenancy.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Serial number in the process, from 1.
    pub uid: u32,
    /// Kernel thread id.
    pub tid: u32,
    /// Who made the thread.
    pub origin: Origin,
    /// Serial number of the thread that made it, or 0.
    pub creator: u32,
    /// Reference of the thread's name, or 0.
    pub name: Ref,
    /// Callbacks in progress.
    pub depth: u16,
}

/// Where a thread writes next. Plain data of one thread; zero is "nowhere yet".
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Cursor {
    /// The chunk, 0 for none.
    chunk: u32,
    /// The next word in the chunk.
    pos: u32,
    /// Ticks of the last record.
    last_ticks: u64,
    /// Tenancies so far.
    nth: u32,
    /// The thread's line in the loss ledger, 0 for none.
    pub(crate) ledger: Ref,
}

/// Byte offsets of the fields, for a writer in assembly.
impl Cursor {
    /// The chunk: 32 bits, 0 for none.
    pub const CHUNK: usize = std::mem::offset_of!(Cursor, chunk);
    /// The next word in the chunk: 32 bits.
    pub const POS: usize = std::mem::offset_of!(Cursor, pos);
    /// Ticks of the last record: 64 bits.
    pub const LAST_TICKS: usize = std::mem::offset_of!(Cursor, last_ticks);
}

pub(crate) const fn state(seq: u64, tag: u8) -> u64 {
    seq << 8 | tag as u64
}

/// What a state word says: sequence number and tag.
pub const fn state_parts(word: u64) -> (u64, u8) {
    (word >> 8, word as u8)
}

impl<'a> Ring<'a> {
    /// A view of `words`, whose header has been written, with `index` as the
    /// process's own memory for finding interned things again.
    ///
    /// `None` where the header doesn't fit the number of words.
    pub fn new(words: &'a [AtomicU64], index: &'a [AtomicU64]) -> Option<Ring<'a>> {
        let sizes = words.get(header::CHUNKS)?.load(Ordering::Relaxed);
        let flags = words.get(header::FLAGS)?.load(Ordering::Relaxed);
        let (chunks, reserve) = (sizes as u32, (sizes >> 32) as u32);
        let fits = chunks as usize <= words.len() / CHUNK_WORDS && chunks >= 2 && reserve < chunks - 1;
        let overwrite = flags & crate::layout::FLAG_OVERWRITE != 0;
        let ring = Ring {
            words,
            index,
            chunks,
            reserve,
            overwrite,
            #[cfg(not(loom))]
            room: None,
        };
        fits.then_some(ring)
    }

    /// The same ring, of which no more is touched than there is room for.
    #[cfg(not(loom))]
    pub(crate) fn within(self, room: &'a Room) -> Ring<'a> {
        Ring { room: Some(room), ..self }
    }

    /// The word at `at`; a place outside the ring reads as zero.
    #[inline]
    pub fn load(&self, at: usize, order: Ordering) -> u64 {
        self.words.get(at).map_or(0, |w| w.load(order))
    }
    #[inline]
    pub(crate) fn store(&self, at: usize, value: u64, order: Ordering) {
        if let Some(word) = self.words.get(at) {
            word.store(value, order);
        }
    }
    #[inline]
    pub(crate) fn add(&self, at: usize, value: u64) -> u64 {
        self.words.get(at).map_or(0, |w| w.fetch_add(value, Ordering::Relaxed))
    }
    pub(crate) fn cas(&self, at: usize, old: u64, new: u64, order: Ordering) -> bool {
        self.words.get(at).is_some_and(|w| w.compare_exchange(old, new, order, Ordering::Relaxed).is_ok())
    }
    pub(crate) fn at(&self, at: usize) -> Option<&'a AtomicU64> {
        self.words.get(at)
    }

    /// Chunks, the header included.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }
    /// Whether the oldest chunks are overwritten when the ring is full.
    pub fn overwrites(&self) -> bool {
        self.overwrite
    }
    /// A new thread's serial number.
    pub fn next_uid(&self) -> u32 {
        (self.add(header::NEXT_UID, 1) as u32).wrapping_add(1)
    }
    /// Counts events that were refused because the tracer was active.
    pub fn count_reentered(&self, events: u64) {
        self.add(header::REENTERED, events);
    }
    /// Sets a word of the header, for the process that the ring belongs to.
    pub fn set_header(&self, at: usize, value: u64) {
        if at < CHUNK_WORDS {
            self.store(at, value, Ordering::Release);
        }
    }
    /// One past the highest chunk that was ever claimed.
    pub fn high_water(&self) -> u32 {
        (self.load(header::HIGH_WATER, Ordering::Acquire) as u32).clamp(1, self.chunks)
    }

    /// The address of the ring's first byte, for a writer in assembly. It does
    /// what [`Ring::put`] does where the record fits: writes it at the cursor,
    /// moves the cursor, and then stores the chunk's committed place.
    pub fn address(&self) -> u64 {
        self.words.as_ptr().expose_provenance() as u64
    }

    /// Whether the ring is full and the thread's next event will be lost, so that
    /// nothing needs to be found out for it.
    #[inline]
    pub fn will_lose(&self, cursor: &Cursor) -> bool {
        let fits = cursor.chunk != 0 && cursor.pos as usize + EVENT_WORDS <= CHUNK_END_WORDS;
        !fits
            && self.is_full()
            && (0..header::PARTIAL_LEN).all(|i| self.load(header::PARTIAL + i, Ordering::Relaxed) == 0)
    }

    /// The address of the thread's line in the loss ledger if [`Ring::will_lose`],
    /// else 0, for a writer in assembly. It does what [`Ring::count_loss`] does as
    /// long as the thread has no chunk and `FULL_EPOCH` is one more than
    /// `FREED_EPOCH`.
    #[inline]
    pub fn losses(&self, cursor: &Cursor) -> u64 {
        if cursor.chunk != 0 || !self.will_lose(cursor) {
            return 0;
        }
        self.line(cursor.ledger)
    }

    /// Appends a record of `1 + body.len()` words and publishes it with one
    /// release store. `false`: there was no room, and the loss was counted.
    #[inline]
    pub fn put(
        &self,
        cursor: &mut Cursor,
        owner: &Owner,
        clock: &impl Clock,
        ticks: u64,
        head: (u8, u16),
        body: &[u64],
    ) -> bool {
        let need = 1 + body.len();
        let delta = ticks.wrapping_sub(cursor.last_ticks);
        let fits = cursor.chunk != 0
            && cursor.pos as usize + need <= CHUNK_END_WORDS
            && delta <= u64::from(u32::MAX);
        if !fits && !self.make_room(cursor, owner, clock, ticks, need) {
            if Head::of(u64::from(head.0)).is_event() {
                self.count_loss(cursor, owner, ticks);
            }
            return false;
        }
        // A clock that steps back would look like a jump of centuries.
        let delta = ticks.saturating_sub(cursor.last_ticks) as u32;
        let word = Head { kind: head.0, len: need as u8, arg: head.1, delta }.word();
        let base = cursor.chunk as usize * CHUNK_WORDS;
        let at = base + cursor.pos as usize;
        self.store(at, word, Ordering::Relaxed);
        for (i, &value) in body.iter().enumerate() {
            self.store(at + 1 + i, value, Ordering::Relaxed);
        }
        cursor.last_ticks = cursor.last_ticks.max(ticks);
        cursor.pos += need as u32;
        self.publish(cursor);
        true
    }

    #[inline]
    fn publish(&self, cursor: &Cursor) {
        let base = cursor.chunk as usize * CHUNK_WORDS;
        self.store(base + CHUNK_COMMITTED, (base as u64 + u64::from(cursor.pos)) * 8, order(Step::Publish));
    }

    /// A chunk with room for `need` words, and a clock whose next delta fits.
    #[cold]
    fn make_room(
        &self,
        cursor: &mut Cursor,
        owner: &Owner,
        clock: &impl Clock,
        ticks: u64,
        need: usize,
    ) -> bool {
        const TIME_WORDS: usize = 3;
        if need > 1 + BODY_MAX_WORDS {
            return false;
        }
        if cursor.chunk != 0 && cursor.pos as usize + TIME_WORDS + need <= CHUNK_END_WORDS {
            if ticks < cursor.last_ticks {
                return true;
            }
            let head = Head { kind: kind::TIME, len: TIME_WORDS as u8, arg: 0, delta: 0 };
            self.append(cursor, &[head.word(), ticks, 0]);
            cursor.last_ticks = ticks;
            return true;
        }
        self.close(cursor);
        let fits = |pos: usize| pos + OWNER_WORDS + need <= CHUNK_END_WORDS;
        // A short-lived thread goes on where another one ended; so does
        // whoever finds no other room.
        let handed = if cursor.nth == 0 { self.take_partial(fits) } else { None };
        let (chunk, pos) = match handed {
            Some(place) => place,
            None => match self.claim_for_records() {
                Some(claim) => {
                    let at = claim.chunk as usize * CHUNK_WORDS + CHUNK_STATE;
                    self.store(at, state(claim.seq, tag::OPEN), order(Step::Open));
                    (claim.chunk, CHUNK_HEADER_WORDS)
                }
                None => match self.take_partial(fits) {
                    Some(place) => place,
                    None => return false,
                },
            },
        };
        cursor.chunk = chunk;
        cursor.pos = pos as u32;
        cursor.nth = cursor.nth.wrapping_add(1);
        let ticks = ticks.max(cursor.last_ticks);
        let (sync_ticks, mono_ns) = clock.sync();
        let (delta, mono_ns) = match u32::try_from(sync_ticks.wrapping_sub(ticks)) {
            Ok(delta) => (delta, mono_ns),
            Err(_) => (0, 0),
        };
        let head = Head { kind: kind::OWNER, len: OWNER_WORDS as u8, arg: owner.origin as u16, delta };
        self.append(
            cursor,
            &[
                head.word(),
                pair(owner.uid, owner.tid),
                pair(cursor.nth, owner.name),
                ticks,
                mono_ns,
                pair(owner.creator, u32::from(owner.depth)),
            ],
        );
        cursor.last_ticks = ticks;
        true
    }

    /// Writes words that are known to fit and publishes them.
    fn append(&self, cursor: &mut Cursor, words: &[u64]) {
        let at = cursor.chunk as usize * CHUNK_WORDS + cursor.pos as usize;
        for (i, &value) in words.iter().enumerate() {
            self.store(at + i, value, Ordering::Relaxed);
        }
        cursor.pos += words.len() as u32;
        self.publish(cursor);
    }

    /// Says that the thread is done with its chunk.
    fn close(&self, cursor: &mut Cursor) {
        if cursor.chunk != 0 {
            let at = cursor.chunk as usize * CHUNK_WORDS + CHUNK_STATE;
            let (seq, _) = state_parts(self.load(at, Ordering::Relaxed));
            self.store(at, state(seq, tag::CLOSED), Ordering::Release);
            cursor.chunk = 0;
        }
    }

    /// The thread ends: leaves what remains of its chunk to another one. The
    /// cursor stays usable, for what a late destructor may still record.
    pub fn release(&self, cursor: &mut Cursor) {
        if cursor.chunk == 0 {
            return;
        }
        if cursor.pos as usize + HAND_OVER_WORDS <= CHUNK_END_WORDS {
            for i in 0..header::PARTIAL_LEN {
                if self.cas(header::PARTIAL + i, 0, u64::from(cursor.chunk), order(Step::HandOver)) {
                    cursor.chunk = 0;
                    return;
                }
            }
        }
        self.close(cursor);
    }

    /// Takes over a partly filled chunk: its number and its first unused word.
    fn take_partial(&self, fits: impl Fn(usize) -> bool) -> Option<(u32, usize)> {
        for i in 0..header::PARTIAL_LEN {
            let slot = self.at(header::PARTIAL + i)?;
            if slot.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let chunk = slot.swap(0, order(Step::HandOver)) as u32;
            if chunk == 0 || chunk >= self.chunks {
                continue;
            }
            let base = chunk as usize * CHUNK_WORDS;
            let pos = (self.load(base + CHUNK_COMMITTED, Ordering::Relaxed) as usize % CHUNK_BYTES) / 8;
            if pos >= CHUNK_HEADER_WORDS && fits(pos) {
                return Some((chunk, pos));
            }
            let mut full = Cursor { chunk, ..Cursor::default() };
            self.close(&mut full);
        }
        None
    }
}

/// Single steps of the protocol, for the model checker's set-up.
#[cfg(loom)]
impl Ring<'_> {
    /// Closes a thread's chunk.
    pub fn close_for_test(&self, cursor: &mut Cursor) {
        self.close(cursor);
    }
    /// Gives a drained chunk back.
    pub fn free_for_test(&self, piece: &crate::read::Piece) -> bool {
        self.free(piece)
    }
    /// The events that thread `uid` lost, by the ledger.
    pub fn lost_for_test(&self, uid: u32) -> u64 {
        let pages = crate::read::read_pages(self, &crate::read::chunk_heads(self, self.chunks));
        let mut header = vec![0; CHUNK_WORDS];
        crate::read::Source::copy(self, 0, &mut header);
        let mut lost = 0;
        for (_, _, words) in pages {
            for line in words[CHUNK_HEADER_WORDS..].chunks_exact(crate::layout::LEDGER_WORDS) {
                if line[0] as u32 == uid {
                    lost += line[1];
                }
            }
        }
        lost + header[header::OTHER_LOSSES]
    }
}
