//! Reading a ring, of a live process or a dead one.
//!
//! Everything is copied before it is looked at, and nothing that is read is
//! trusted: the traced program may write anything into its ring, at any time.

use crate::layout::{
    CHUNK_BYTES, CHUNK_COMMITTED, CHUNK_END_WORDS, CHUNK_HEADER_WORDS, CHUNK_RETURNED, CHUNK_STATE,
    CHUNK_WORDS, FLAG_OVERWRITE, FLAG_TSC, HOOK_WORDS, LEDGER_WORDS, MAGIC, MODULE_WORDS, NODE_WORDS,
    RING_MAX_BYTES, Ref, STRING_MAX, Table, VERSION, header, tag,
};
use crate::record::StackRef;
use crate::ring::state_parts;
use crate::stack::StackStatus;
use crate::stamp::FileStamp;
use crate::sync::{Ordering, Step, fence, order};
use crate::table::PUBLISHED;
use std::collections::BTreeMap;
use std::fmt;

/// The deepest stack that is followed: no `TRACESHIM_STACK_DEPTH` is larger.
const DEPTH_MAX: usize = 1024;

/// What words are copied from: a file, a mapping, a model.
pub trait Source {
    /// Copies words from `at` on; as many as there are, which may be none.
    fn copy(&self, at: usize, to: &mut [u64]) -> usize;
    /// How many whole chunks there are.
    fn chunks(&self) -> u32;
}

impl Source for crate::ring::Ring<'_> {
    fn copy(&self, at: usize, to: &mut [u64]) -> usize {
        for (i, word) in to.iter_mut().enumerate() {
            // The first word copied may be the end offset that publishes the
            // rest, or the state that guards it.
            *word = self.load(at + i, order(Step::Observe));
        }
        to.len()
    }
    fn chunks(&self) -> u32 {
        crate::ring::Ring::chunks(self)
    }
}

/// Why a file can't be read as a ring.
#[derive(Debug)]
pub enum ReadError {
    /// The system said no.
    Io(std::io::Error),
    /// It doesn't begin as a ring does.
    NotARing,
    /// It is a ring of another format version.
    Version(u32),
    /// It is shorter than a ring can be.
    TooShort(u64),
    /// Its header contradicts itself.
    BadHeader(&'static str),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(error) => write!(f, "{error}"),
            ReadError::NotARing => write!(f, "not a ring file"),
            ReadError::Version(v) => write!(f, "format version {v}, this program reads version {VERSION}"),
            ReadError::TooShort(n) => write!(f, "{n} bytes are too short for a ring"),
            ReadError::BadHeader(why) => write!(f, "damaged header: {why}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> ReadError {
        ReadError::Io(error)
    }
}

/// The records of one chunk that were published when it was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The chunk's place in the ring.
    pub chunk: u32,
    /// Counts the claims in a ring: names this piece, and orders it in time.
    pub seq: u64,
    /// The records, for [`crate::record::records`].
    pub words: Vec<u64>,
    /// Whether a thread may still append to the chunk.
    pub open: bool,
}

/// What a header says of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are those of `layout::header`.
pub struct ProcessInfo {
    pub pid: u32,
    pub ppid: u32,
    pub uuid: [u64; 2],
    pub start_mono_ns: u64,
    pub start_real_ns: u64,
    pub exe: Ref,
    pub tsc: bool,
    pub overwrite: bool,
    pub ended: bool,
    pub end_ticks: u64,
    pub stack_depth: u32,
    /// Events refused because the tracer was active on the thread.
    pub reentered: u64,
    /// Strings, stacks, modules and hooks that found no room.
    pub table_full: u64,
    /// Pairs of ticks and nanoseconds.
    pub syncs: Vec<(u64, u64)>,
    pub high_water: u32,
    pub chunks: u32,
}

/// Events that a thread lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Loss {
    /// 0 where the ledger had no line left for the thread.
    pub uid: u32,
    pub tid: u32,
    pub count: u64,
    pub from_ticks: u64,
    pub to_ticks: u64,
}

/// A module of the traced process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // See `table::ModuleEntry`.
pub struct Module {
    pub id: Ref,
    pub start: u64,
    pub end: u64,
    pub bias: u64,
    pub load_ticks: u64,
    /// 0 while it is loaded.
    pub unload_ticks: u64,
    pub is_host: bool,
    pub build_id: Vec<u8>,
    pub path: Vec<u8>,
    pub file: FileStamp,
}

/// A hooked function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The function's entry.
    pub address: u64,
    /// Its name.
    pub name: Ref,
}

/// A ring at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What the header says.
    pub process: ProcessInfo,
    /// Strings, stacks, modules, hooks and losses.
    pub tables: Tables,
    /// The records, by ascending `seq`.
    pub pieces: Vec<Piece>,
    /// What the chunks' headers say.
    pub heads: Vec<ChunkHead>,
    /// Where the file is shorter than what was written: its chunks, and those
    /// that there should be. The rest is readable all the same.
    pub cut: Option<(u32, u32)>,
}

/// The tables of a ring, as pages.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    header: Vec<u64>,
    pages: BTreeMap<u32, (u8, Box<[u64]>)>,
    modules: Vec<Module>,
    hooks: BTreeMap<u16, Hook>,
    losses: Vec<Loss>,
}

/// Parses a header.
pub fn process_info(words: &[u64]) -> Result<ProcessInfo, ReadError> {
    let word = |at: usize| words.get(at).copied().unwrap_or(0);
    if words.len() < CHUNK_WORDS {
        return Err(ReadError::TooShort(words.len() as u64 * 8));
    }
    if word(header::MAGIC) != MAGIC {
        return Err(ReadError::NotARing);
    }
    if word(header::VERSION) as u32 != VERSION {
        return Err(ReadError::Version(word(header::VERSION) as u32));
    }
    if word(header::VERSION) >> 32 != CHUNK_BYTES as u64 {
        return Err(ReadError::BadHeader("chunk size"));
    }
    let chunks = word(header::CHUNKS) as u32;
    if chunks < 2 || u64::from(chunks) > RING_MAX_BYTES / CHUNK_BYTES as u64 {
        return Err(ReadError::BadHeader("number of chunks"));
    }
    Ok(ProcessInfo {
        pid: word(header::PIDS) as u32,
        ppid: (word(header::PIDS) >> 32) as u32,
        uuid: [word(header::UUID), word(header::UUID + 1)],
        start_mono_ns: word(header::START_MONO_NS),
        start_real_ns: word(header::START_REAL_NS),
        exe: word(header::EXE) as Ref,
        tsc: word(header::FLAGS) & FLAG_TSC != 0,
        overwrite: word(header::FLAGS) & FLAG_OVERWRITE != 0,
        ended: word(header::ENDED) != 0,
        end_ticks: word(header::END_TICKS),
        stack_depth: word(header::STACK_DEPTH) as u32,
        reentered: word(header::REENTERED),
        table_full: word(header::TABLE_FULL),
        syncs: (0..header::SYNCS_LEN)
            .map(|i| (word(header::SYNCS + 2 * i), word(header::SYNCS + 2 * i + 1)))
            .filter(|&(ticks, ns)| ticks != 0 && ns != 0)
            .collect(),
        high_water: (word(header::HIGH_WATER) as u32).clamp(1, chunks),
        chunks,
    })
}

/// Copies the header.
pub fn header_words(source: &impl Source) -> Result<Vec<u64>, ReadError> {
    let mut words = vec![0; CHUNK_WORDS];
    let copied = source.copy(0, &mut words);
    if copied < CHUNK_WORDS {
        return Err(ReadError::TooShort(copied as u64 * 8));
    }
    Ok(words)
}

/// Copies what a chunk has published, where it holds records.
///
/// `None`: it holds none, or changed hands while it was copied.
pub fn read_chunk(source: &impl Source, chunk: u32) -> Option<Piece> {
    let base = chunk as usize * CHUNK_WORDS;
    let mut state = [0];
    (source.copy(base + CHUNK_STATE, &mut state) == 1).then_some(())?;
    let (seq, tag) = state_parts(state[0]);
    if tag != tag::OPEN && tag != tag::CLOSED {
        return None;
    }
    let mut committed = [0];
    (source.copy(base + CHUNK_COMMITTED, &mut committed) == 1).then_some(())?;
    let end = (committed[0] as usize % CHUNK_BYTES / 8).min(CHUNK_END_WORDS);
    let mut words = vec![0; end.saturating_sub(CHUNK_HEADER_WORDS)];
    let copied = source.copy(base + CHUNK_HEADER_WORDS, &mut words);
    words.truncate(copied);
    // Pairs with the fence after a claim: had a new tenant's words been among
    // those copied, the state read below would be the new one.
    fence(Ordering::Acquire);
    let mut again = [0];
    (source.copy(base + CHUNK_STATE, &mut again) == 1).then_some(())?;
    (state_parts(again[0]).0 == seq).then_some(Piece { chunk, seq, words, open: tag == tag::OPEN })
}

/// What a chunk's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHead {
    /// The chunk's place in the ring.
    pub chunk: u32,
    /// Names what is in it now.
    pub seq: u64,
    /// See [`tag`].
    pub tag: u8,
    /// The last content that a collector gave back, 0 for none; `None` where
    /// the chunk doesn't say.
    pub returned: Option<u64>,
}

impl ChunkHead {
    /// Whether content `seq`, which was in this chunk, was overwritten, and so
    /// counted as lost. Nobody knows while the chunk is changing hands.
    pub fn overwrote(&self, seq: u64) -> bool {
        self.tag != tag::CLAIMED && self.seq > seq && self.returned.is_some_and(|returned| returned < seq)
    }
}

/// Copies the headers of the first `chunks` chunks, where they say anything.
pub fn chunk_heads(source: &impl Source, chunks: u32) -> Vec<ChunkHead> {
    let head = |chunk| {
        // The state first: what it says of the chunk was written before it.
        let mut words = [0; 2];
        let at = chunk as usize * CHUNK_WORDS + CHUNK_STATE;
        (source.copy(at, &mut words) == 2 && words[0] != 0).then_some(())?;
        let ((seq, tag), returned) = (state_parts(words[0]), words[CHUNK_RETURNED - CHUNK_STATE]);
        Some(ChunkHead { chunk, seq, tag, returned: (returned & 1 != 0).then_some(returned >> 1) })
    };
    (1..chunks).filter_map(head).collect()
}

/// Copies a ring as it is now.
pub fn snapshot(source: &impl Source) -> Result<Snapshot, ReadError> {
    let head = header_words(source)?;
    let high_water = process_info(&head)?.high_water;
    let readable = high_water.min(source.chunks());
    // Records before tables: whatever a record refers to was there before it.
    let mut pieces: Vec<Piece> = (1..readable).filter_map(|chunk| read_chunk(source, chunk)).collect();
    pieces.sort_by_key(|piece| piece.seq);
    let heads = chunk_heads(source, readable);
    let pages = read_pages(source, &heads);
    let head = header_words(source)?;
    let process = process_info(&head)?;
    let cut = (source.chunks() < high_water).then_some((source.chunks(), high_water));
    Ok(Snapshot { tables: Tables::new(head, pages), process, pieces, heads, cut })
}

/// Copies the chunks that are table pages: chunk number, tag and words of each.
pub fn read_pages(source: &impl Source, heads: &[ChunkHead]) -> Vec<(u32, u8, Vec<u64>)> {
    let page = |&ChunkHead { chunk, tag, .. }: &ChunkHead| {
        let mut words = vec![0; CHUNK_WORDS];
        let copied = source.copy(chunk as usize * CHUNK_WORDS, &mut words);
        words.truncate(copied);
        (chunk, tag, words)
    };
    heads.iter().filter(|head| head.tag >= tag::TABLE).map(page).collect()
}

impl Tables {
    /// Puts tables together from a header and pages (chunk number, tag, words);
    /// zeros at a page's end may be missing. Of two pages with the same number
    /// the later one counts.
    pub fn new(header: Vec<u64>, pages: impl IntoIterator<Item = (u32, u8, Vec<u64>)>) -> Tables {
        let mut tables = Tables { header, ..Tables::default() };
        let limit = process_info(&tables.header).map_or(0, |process| process.chunks);
        for (chunk, tag, mut words) in pages {
            if chunk == 0 || chunk >= limit {
                continue;
            }
            // Whole entries, and no more: a trace's pages may be short and many.
            words.truncate(CHUNK_WORDS);
            let entries = words.len().saturating_sub(CHUNK_HEADER_WORDS).next_multiple_of(MODULE_WORDS);
            words.resize((CHUNK_HEADER_WORDS + entries).min(CHUNK_WORDS), 0);
            tables.pages.insert(chunk, (tag, words.into_boxed_slice()));
        }
        tables.modules =
            tables.entries(Table::Modules, MODULE_WORDS).filter_map(|e| tables.module(e)).collect();
        tables.hooks = tables.entries(Table::Hooks, HOOK_WORDS).filter_map(hook_of).collect();
        tables.losses =
            tables.entries(Table::Ledger, LEDGER_WORDS).filter_map(|(_, line)| loss_of(line)).collect();
        let others = tables.header.get(header::OTHER_LOSSES..header::OTHER_LOSSES + 3).unwrap_or_default();
        tables.losses.extend(loss_of(&[&[0], others].concat()));
        tables
    }

    /// The header and the pages, for a copy that is made of them.
    pub fn pages(&self) -> impl Iterator<Item = (u32, u8, &[u64])> {
        self.pages.iter().map(|(&chunk, (tag, words))| (chunk, *tag, &words[..]))
    }

    /// The header's words.
    pub fn header(&self) -> &[u64] {
        &self.header
    }

    fn entries(&self, table: Table, words: usize) -> impl Iterator<Item = (Ref, &[u64])> {
        self.pages.iter().filter(move |(_, (tag, _))| *tag == table.tag()).flat_map(
            move |(&chunk, (_, page))| {
                let chunk = chunk as usize;
                page.get(CHUNK_HEADER_WORDS..).unwrap_or_default().chunks_exact(words).enumerate().map(
                    move |(i, entry)| {
                        (((chunk * CHUNK_WORDS + CHUNK_HEADER_WORDS + i * words) / 2) as Ref, entry)
                    },
                )
            },
        )
    }

    /// The words from `at` on, to the end of their page, where it is `table`'s.
    fn words(&self, table: Table, at: Ref) -> Option<&[u64]> {
        let word = at as usize * 2;
        let (tag, page) = self.pages.get(&((word / CHUNK_WORDS) as u32))?;
        (*tag == table.tag()).then_some(page)?.get(word % CHUNK_WORDS..)
    }

    /// An interned string, which need not be UTF-8.
    pub fn string(&self, at: Ref) -> Option<Vec<u8>> {
        let (&head, rest) = self.words(Table::Strings, at)?.split_first()?;
        let len = head as u32 as usize;
        (len <= STRING_MAX).then_some(())?;
        let words = rest.get(..len.div_ceil(8)).unwrap_or(rest);
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        // Zeros at the end of a page may be missing.
        bytes.resize(len, 0);
        Some(bytes)
    }

    /// A stack's frame words, innermost first (see
    /// [`crate::stack::FRAME_EXACT`]), and how it ended. `None` where the
    /// reference leads nowhere, or the status is one of a later version.
    pub fn stack(&self, stack: StackRef) -> Option<(Vec<u64>, StackStatus)> {
        let mut frames = Vec::new();
        let mut node = stack.node();
        while node > 0xff {
            let words = self.words(Table::Nodes, node)?;
            let (&frame, &caller) = (words.first()?, words.get(NODE_WORDS - 1)?);
            frames.push(frame);
            node = caller as Ref;
            if frames.len() > DEPTH_MAX {
                return None;
            }
        }
        Some((frames, StackStatus::from_code(node as u8)?))
    }

    fn module(&self, (id, entry): (Ref, &[u64])) -> Option<Module> {
        let &[
            path,
            start,
            end,
            bias,
            load_ticks,
            unload_ticks,
            flags,
            b0,
            b1,
            b2,
            b3,
            bytes,
            modified_ns,
            changed_ns,
            ..,
        ] = entry
        else {
            return None;
        };
        if path & PUBLISHED == 0 {
            return None;
        }
        let mut build_id: Vec<u8> = [b0, b1, b2, b3].iter().flat_map(|w| w.to_le_bytes()).collect();
        build_id.truncate((flags >> 8) as u8 as usize);
        let path = self.string(path as Ref).unwrap_or_default();
        Some(Module {
            id,
            start,
            end,
            bias,
            load_ticks,
            unload_ticks,
            is_host: flags & 1 != 0,
            build_id,
            path,
            file: FileStamp { bytes, modified_ns, changed_ns },
        })
    }

    /// Every module that was ever seen, in the order of the file.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module with this reference.
    pub fn module_with(&self, id: Ref) -> Option<&Module> {
        let at = self.modules.binary_search_by_key(&id, |module| module.id).ok()?;
        self.modules.get(at)
    }

    /// The hooked function with this number.
    pub fn hook(&self, hook: u16) -> Option<Hook> {
        self.hooks.get(&hook).copied()
    }

    /// Whether a hooked function's entry is at `address`.
    pub fn is_hooked(&self, address: u64) -> bool {
        self.hooks.values().any(|hook| hook.address == address)
    }

    /// What was lost, a line per thread (a thread may have two).
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }
}

fn hook_of((_, entry): (Ref, &[u64])) -> Option<(u16, Hook)> {
    match *entry {
        [address, second] if second & PUBLISHED != 0 => {
            Some((((second & !PUBLISHED) >> 32) as u16, Hook { address, name: second as u32 }))
        }
        _ => None,
    }
}

fn loss_of(line: &[u64]) -> Option<Loss> {
    match *line {
        [who, count, from_ticks, to_ticks] if count > 0 => {
            Some(Loss { uid: who as u32, tid: (who >> 32) as u32, count, from_ticks, to_ticks })
        }
        _ => None,
    }
}
