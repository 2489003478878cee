//! INPUT: rings, traces and session directories, of live or dead processes.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use traceshim_ring::file::RingFile;
use traceshim_ring::layout::{self, CHUNK_BYTES, CHUNK_HEADER_WORDS, LEDGER_WORDS, RING_MAX_BYTES, Table};
use traceshim_ring::read::{ChunkHead, Piece, Tables, process_info};
use traceshim_ring::session;

use crate::model::{Indexer, Life, Process, Store};
use crate::show::{say, say_damaged};
use crate::trace::{self, Content, TraceReader};

/// Everything that was opened so far, by the rings' own names: a ring and the
/// trace that was drained from it are one process.
#[derive(Default)]
pub(crate) struct Inputs {
    parts: Vec<Part>,
    by_uuid: HashMap<[u64; 2], usize>,
    mappings: Mappings,
}

#[derive(Default)]
struct Part {
    index: Indexer,
    header: Vec<u64>,
    pages: HashMap<u32, (u8, Vec<u64>)>,
    life: Life,
    /// The chunks of the ring, where it is there.
    heads: Vec<ChunkHead>,
    /// What traces have of each chunk last.
    drained: HashMap<u32, u64>,
}

/// Opens what the command line names; nothing: the default session directory.
pub(crate) fn open(paths: &[PathBuf]) -> Result<Vec<Process>> {
    let mut inputs = Inputs::default();
    if paths.is_empty() {
        let (dir, is_named) = default_dir()?;
        session::check_dir(&dir, is_named, own_uid())
            .and_then(|()| session::ring_files(&dir))
            .map_err(anyhow::Error::from)
            .and_then(|rings| inputs.add_rings(&rings, Whose::Own))
            .with_context(|| format!("{}", dir.display()))?;
    }
    for path in paths {
        inputs.add(path).with_context(|| format!("{}", path.display()))?;
    }
    inputs.finish()
}

/// Where the shim puts rings if nothing else is said, and whether `TRACESHIM_DIR`
/// names it.
fn default_dir() -> Result<(PathBuf, bool)> {
    if let Some(dir) = std::env::var_os("TRACESHIM_DIR").filter(|dir| !dir.is_empty()) {
        return Ok((dir.into(), true));
    }
    Ok((session::default_dir(std::env::var_os("XDG_RUNTIME_DIR"), own_uid()), false))
}

/// The user who runs this program.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whose rings are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// This user's: nobody named them.
    Own,
    /// Anybody's: they were named.
    Any,
}

impl Inputs {
    /// Adds one INPUT.
    pub(crate) fn add(&mut self, path: &Path) -> Result<()> {
        if path == Path::new("-") {
            return self.add_trace(std::io::stdin().lock(), None);
        }
        let metadata = path.metadata()?;
        if metadata.is_dir() {
            return self.add_rings(&session::ring_files(path)?, Whose::Any);
        }
        if !metadata.is_file() {
            // A pipe can only be a trace; a device is neither.
            if metadata.file_type().is_fifo() {
                return self.add_trace(BufReader::new(File::open(path)?), None);
            }
            bail!("neither a file nor a directory");
        }
        let mut magic = [0; 8];
        let read = File::open(path)?.read_exact(&mut magic);
        if read.is_ok() && magic == trace::MAGIC {
            let file = Rc::new(File::open(path)?);
            return self.add_trace(BufReader::with_capacity(1 << 16, &*file), Some(&file));
        }
        if read.is_ok() && u64::from_le_bytes(magic) != layout::MAGIC {
            bail!("neither a ring nor a trace");
        }
        self.add_ring(path, &RingFile::open(path)?)
    }

    /// Adds every ring of a session. One that can't be read, because its process
    /// is just making it, say, doesn't hide the others.
    fn add_rings(&mut self, rings: &[PathBuf], whose: Whose) -> Result<()> {
        let mut failed = None;
        let mut opened = 0;
        for ring in rings {
            match self.add_entry(ring, whose) {
                Ok(()) => opened += 1,
                // A process that ends with nothing recorded removes its ring.
                Err(_) if !ring.exists() => {}
                Err(error) => {
                    say(format_args!("{}: {error:#}", ring.display()));
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if opened == 0 => Err(error.context("no ring in it can be read")),
            _ if opened == 0 => bail!("no rings in it"),
            _ => Ok(()),
        }
    }

    /// Adds a ring that was found in a directory.
    fn add_entry(&mut self, path: &Path, whose: Whose) -> Result<()> {
        let file = RingFile::open_entry(path)?;
        let owner = file.metadata()?.uid();
        if whose == Whose::Own && owner != own_uid() {
            bail!("belongs to user {owner}, not to user {}; it is read if it is named", own_uid());
        }
        self.add_ring(path, &file)
    }

    /// Adds a ring as it is now.
    fn add_ring(&mut self, path: &Path, file: &RingFile) -> Result<()> {
        let snapshot = file.snapshot()?;
        if let Some((there, written)) = snapshot.cut {
            say_damaged(format_args!(
                "{}: the file is cut off: {there} of {written} chunks are there",
                path.display()
            ));
        }
        let is_mapped = || {
            is_mapped(file, path, snapshot.process.pid)
                || self.mappings.hold(file, path, snapshot.process.pid)
        };
        let alive = !snapshot.process.ended && is_mapped();
        let part = self.part(snapshot.tables.header().to_vec())?;
        part.life.alive |= alive;
        part.life.gone |= !alive;
        part.life.owner_uid = file.metadata()?.uid();
        for (chunk, tag, words) in snapshot.tables.pages() {
            part.page(chunk, tag, words.to_vec());
        }
        for piece in snapshot.pieces {
            let store = Store::Held(piece.words.as_slice().into());
            part.index.add(&piece, store);
        }
        part.heads = snapshot.heads;
        Ok(())
    }

    /// Adds a trace. Where it is a `file`, the records stay in there.
    fn add_trace(&mut self, input: impl Read, file: Option<&Rc<File>>) -> Result<()> {
        let mut reader = TraceReader::new(input)?;
        let mut numbers: HashMap<u32, usize> = HashMap::new();
        while let Some(block) = reader.next_block()? {
            if let Content::Header(words) = block.content {
                let number = self.part_number(words)?;
                numbers.insert(block.process, number);
                continue;
            }
            // Blocks before their process's header are nobody's.
            let Some(part) = numbers.get(&block.process).and_then(|&n| self.parts.get_mut(n)) else {
                continue;
            };
            match block.content {
                Content::Header(_) => {}
                Content::End => part.life.gone = true,
                Content::Page { chunk, tag, words } => part.page(chunk, tag, words),
                Content::Retract { seq } => part.index.retract(seq),
                Content::Piece(piece) => {
                    let store = store(&piece, block.content_offset, file);
                    part.index.add(&piece, store);
                    let last = part.drained.entry(piece.chunk).or_default();
                    *last = piece.seq.max(*last);
                }
            }
        }
        if let Some(cut) = reader.cut() {
            say_damaged(format_args!("{cut}"));
        }
        Ok(())
    }

    /// The part of the process whose ring has this header, which is kept.
    fn part(&mut self, header: Vec<u64>) -> Result<&mut Part> {
        let number = self.part_number(header)?;
        self.parts.get_mut(number).context("no such process")
    }

    fn part_number(&mut self, header: Vec<u64>) -> Result<usize> {
        let uuid = process_info(&header)?.uuid;
        let number = *self.by_uuid.entry(uuid).or_insert_with(|| {
            let life = Life { owner_uid: own_uid(), ..Life::default() };
            self.parts.push(Part { life, ..Part::default() });
            self.parts.len() - 1
        });
        let part = &mut self.parts[number];
        if header_age(&header) >= header_age(&part.header) {
            part.header = header;
        }
        Ok(number)
    }

    /// What was opened, by the time at which the processes began.
    pub(crate) fn finish(self) -> Result<Vec<Process>> {
        let mut processes = Vec::with_capacity(self.parts.len());
        for mut part in self.parts {
            part.take_back();
            let info = process_info(&part.header)?;
            let pages = part.pages.into_iter().map(|(chunk, (tag, words))| (chunk, tag, words));
            let tables = Tables::new(part.header, pages);
            processes.push(part.index.finish(info, tables, part.life));
        }
        processes.sort_by_key(|process| (process.info.start_mono_ns, process.info.pid));
        for (id, process) in (0..).zip(&mut processes) {
            process.id = id;
        }
        Ok(processes)
    }
}

impl Part {
    /// Forgets what a collector copied, and was killed before it noted that the
    /// program had overwritten it, and counted it as lost, in the meantime.
    fn take_back(&mut self) {
        for head in &self.heads {
            if let Some(&seq) = self.drained.get(&head.chunk)
                && head.overwrote(seq)
            {
                self.index.retract(seq);
            }
        }
    }

    /// Keeps a page, or the later one of two copies, whichever is read first.
    fn page(&mut self, chunk: u32, tag: u8, words: Vec<u64>) {
        const CHUNKS_MAX: u32 = (RING_MAX_BYTES / CHUNK_BYTES as u64) as u32;
        let later = self
            .pages
            .get(&chunk)
            .is_none_or(|(old_tag, old)| *old_tag != tag || page_age(tag, &words) >= page_age(tag, old));
        if chunk < CHUNKS_MAX && later {
            self.pages.insert(chunk, (tag, words));
        }
    }
}

/// Of two copies of a header, the later one has the greater age: all that is
/// compared only ever grows.
fn header_age(words: &[u64]) -> [u64; 7] {
    use layout::header::*;
    [ENDED, NEXT_SEQ, CLAIM_CURSOR, FREED_EPOCH, OTHER_LOSSES, REENTERED, TABLE_FULL]
        .map(|at| words.get(at).copied().unwrap_or(0))
}

/// The same for a page: words become other than zero and stay so, and those of
/// the ledger that count grow.
fn page_age(tag: u8, words: &[u64]) -> u64 {
    let words = words.get(CHUNK_HEADER_WORDS..).unwrap_or_default();
    match tag == Table::Ledger.tag() {
        true => {
            words.chunks(LEDGER_WORDS).filter_map(|line| line.get(1)).fold(0, |sum, &n| sum.saturating_add(n))
        }
        false => words.iter().filter(|&&word| word != 0).count() as u64,
    }
}

fn store(piece: &Piece, content_offset: u64, file: Option<&Rc<File>>) -> Store {
    /// Words of a piece's block before its records.
    const PIECE_HEAD_BYTES: u64 = 16;
    match file {
        Some(file) => Store::OnDisk {
            file: Rc::clone(file),
            offset: content_offset + PIECE_HEAD_BYTES,
            words: piece.words.len() as u32,
        },
        None => Store::Held(piece.words.as_slice().into()),
    }
}

/// Whether process `pid` runs and has the ring `file`, found at `path`, mapped.
/// After an exec the process lives on, but not with this ring; and numbers are
/// used again.
pub(crate) fn is_mapped(file: &RingFile, path: &Path, pid: u32) -> bool {
    let of_process = format!("/proc/{pid}/maps");
    let (Ok(maps), Ok(metadata)) = (std::fs::read(&of_process), file.metadata()) else {
        return Path::new(&of_process).exists();
    };
    maps.split(|&b| b == b'\n').any(is_mapping_of(&metadata, path))
}

/// Whether a line of a process's maps is one of the file.
fn is_mapping_of(metadata: &Metadata, path: &Path) -> impl Fn(&[u8]) -> bool {
    let inode = metadata.ino().to_string();
    let path = path.canonicalize().unwrap_or_default();
    move |line| {
        let mut fields = line.split(|&b| b == b' ').filter(|field| !field.is_empty());
        // Some file systems show other inodes here than they tell elsewhere,
        // and a path may be another file's by now: either will do.
        fields.nth(4) == Some(inode.as_bytes())
            || !path.as_os_str().is_empty() && line.ends_with(path.as_os_str().as_bytes())
    }
}

/// The rings that processes of other namespaces have mapped: they have other numbers
/// here than they know.
#[derive(Default)]
pub(crate) struct Mappings(OnceCell<Vec<(u32, Vec<u8>)>>);

impl Mappings {
    /// Whether one of them that knows itself as `pid` has this one.
    pub(crate) fn hold(&self, file: &RingFile, path: &Path, pid: u32) -> bool {
        let lines = self.0.get_or_init(|| {
            let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
            processes.filter_map(|process| rings_of(&process.path())).flatten().collect()
        });
        file.metadata().is_ok_and(|metadata| {
            let is_it = is_mapping_of(&metadata, path);
            lines.iter().any(|(inner, line)| *inner == pid && is_it(line))
        })
    }
}

/// The rings that a process of another namespace has mapped, with its number there.
fn rings_of(process: &Path) -> Option<Vec<(u32, Vec<u8>)>> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let inner: u32 = numbers.split_whitespace().skip(1).last()?.parse().ok()?;
    let maps = std::fs::read(process.join("maps")).ok()?;
    let lines = maps.split(|&b| b == b'\n').filter(|line| line.ends_with(b".ring"));
    Some(lines.map(|line| (inner, line.to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Body, merge};
    use crate::trace::TraceWriter;
    use proptest::prelude::*;
    use traceshim_ring::layout::{CHUNK_WORDS, MAGIC, VERSION, header};
    use traceshim_ring::read::process_info;
    use traceshim_ring::record::kind;

    /// A header that is believed, with whatever else.
    fn header_of(mut words: Vec<u64>) -> Vec<u64> {
        words.resize(CHUNK_WORDS, 0);
        words[header::MAGIC] = MAGIC;
        words[header::VERSION] = u64::from(VERSION) | (CHUNK_BYTES as u64) << 32;
        // As many chunks as the largest ring has, and no more.
        words[header::CHUNKS] = (words[header::CHUNKS] % (RING_MAX_BYTES / CHUNK_BYTES as u64)) | 8;
        words
    }

    #[test]
    fn a_ring_that_claims_more_than_there_can_be_is_refused() {
        let mut words = header_of(Vec::new());
        words[header::CHUNKS] = u64::from(u32::MAX);
        assert!(process_info(&words).is_err());
    }

    /// Words that are often small, often references, and sometimes anything.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn word(&mut self) -> u64 {
            let x = self.next();
            match x % 5 {
                0 => x >> 58,
                1 => x >> 54,
                2 => x,
                // The head of a record of a known kind.
                _ => (1 + x % 19) | (1 + (x >> 8) % 8) << 8 | ((x >> 16) % 3) << 16 | (x >> 40) << 32,
            }
        }

        fn words(&mut self, most: usize) -> Vec<u64> {
            let len = self.next() as usize % most;
            (0..len).map(|_| self.word()).collect()
        }
    }

    #[test]
    fn of_copies_the_one_made_last_counts_whichever_is_read_first() {
        let exit = u64::from(kind::CALLBACK_EXIT) | 1 << 8;
        let owner = [u64::from(kind::OWNER) | 6 << 8, 7 | 7 << 32, 1, 10, 0, 0];
        let copy = |exits: usize, lost: u64, others: u64, name: &[u64]| {
            let mut head = header_of(Vec::new());
            head[header::OTHER_LOSSES] = others;
            let mut bytes = Vec::new();
            let mut writer = TraceWriter::new(&mut bytes).unwrap();
            writer.header(0, &head).unwrap();
            let page = |words: &[u64]| [&[0; CHUNK_HEADER_WORDS], words].concat();
            writer.page(0, 1, Table::Ledger.tag(), &page(&[7, lost, 20, 30])).unwrap();
            writer.page(0, 2, Table::Strings.tag(), &page(name)).unwrap();
            let words = [&owner[..], &vec![exit; exits]].concat();
            writer.piece(0, &Piece { chunk: 3, seq: 1, words, open: true }).unwrap();
            bytes
        };
        let (early, late) = (copy(2, 5, 1, &[]), copy(3, 6, 2, &[3 | 1 << 32, 0x63_6261]));
        for order in [[&early, &late], [&late, &early]] {
            let mut inputs = Inputs::default();
            for bytes in order {
                inputs.add_trace(&bytes[..], None).unwrap();
            }
            let process = &inputs.finish().unwrap()[0];
            let mut events = 0;
            merge(std::slice::from_ref(process), |_, event| {
                events += usize::from(matches!(event.body, Body::CallbackExit { .. }));
                true
            });
            assert_eq!((events, process.lost()), (3, 8));
            let at = (2 * CHUNK_BYTES + CHUNK_HEADER_WORDS * 8) / 16;
            assert_eq!(process.tables.string(at as u32).as_deref(), Some(&b"abc"[..]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn a_trace_may_say_anything(seed in 1..u64::MAX) {
            let mut random = Random(seed);
            let mut bytes = Vec::new();
            let mut writer = TraceWriter::new(&mut bytes).unwrap();
            writer.header(0, &header_of(random.words(CHUNK_WORDS))).unwrap();
            for _ in 0..8 {
                let (chunk, table) = (random.next() as u32 % 9, random.next() as u8 % 6);
                writer.page(0, chunk, Table::Strings.tag() + table, &random.words(CHUNK_WORDS)).unwrap();
                let (seq, words) = (random.next() % 5, random.words(300));
                writer.piece(0, &Piece { chunk: 1, seq, words, open: false }).unwrap();
            }
            let mut inputs = Inputs::default();
            inputs.add_trace(&bytes[..], None).unwrap();
            let processes = inputs.finish().unwrap();
            let mut last = HashMap::new();
            merge(&processes, |_, event| {
                let process = &processes[0];
                if let Some(stack) = event.body.stack() {
                    let _ = process.tables.stack(stack);
                }
                let _ = (process.module_epoch(event.ticks), process.module_at(event.ticks, event.ticks));
                let last = last.entry(event.thread).or_insert(0);
                if event.thread != u32::MAX {
                    assert!(*last <= event.ts_ns, "time goes back");
                    *last = event.ts_ns;
                }
                true
            });
        }
    }
}
