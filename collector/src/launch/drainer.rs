//! From the rings of a session into a trace, while the programs run.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io::{Error, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use traceshim_ring::drain::Drain;
use traceshim_ring::layout::CHUNK_HEADER_WORDS;
use traceshim_ring::read::{
    Piece, ProcessInfo, ReadError, Source, chunk_heads, header_words, process_info, read_pages,
};
use traceshim_ring::record::{Head, kind};

use super::session::SessionDir;
use crate::input::{Mappings, is_mapped, own_uid};
use crate::show::say;
use crate::trace::TraceWriter;

/// What was taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Rings.
    pub(crate) rings: u64,
    /// Processes that left anything in one.
    pub(crate) processes: u64,
    /// Records that are events.
    pub(crate) events: u64,
    /// Entries of callbacks.
    pub(crate) callbacks: u64,
    /// Births of threads.
    pub(crate) births: u64,
    /// Events that found no room.
    pub(crate) lost: u64,
}

/// Takes the rings of a session, each chunk exactly once.
pub(crate) struct Drainer<W: Write> {
    out: Out<W>,
    /// By what tells files apart, since a program that executes another one may
    /// leave its ring's name to it. Those that are finished too: a ring that is
    /// left alone isn't opened again.
    rings: HashMap<FileId, Ring>,
    /// Files that are called like rings and are none of ours; said once.
    refused: HashSet<PathBuf>,
}

/// Device and inode.
type FileId = (u64, u64);

fn id_of(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

/// Where all rings' content goes.
struct Out<W: Write> {
    trace: TraceWriter<W>,
    counts: Counts,
    next_number: u32,
}

/// One ring that is being drained.
struct Ring {
    path: PathBuf,
    drain: Drain,
    /// The number of its process in the trace, once there is something of it.
    number: Option<u32>,
    /// How much of each table page is in the trace, by a sum over its words.
    pages: HashMap<u32, u64>,
    /// Whether it was seen mapped by the process that it names: a number of
    /// another namespace of processes says nothing here.
    was_mapped: bool,
    done: bool,
}

impl<W: Write> Drainer<W> {
    /// Drains into `out`.
    pub(crate) fn new(out: W) -> Result<Drainer<W>> {
        let mut trace = TraceWriter::new(out)?;
        trace.flush()?;
        let out = Out { trace, counts: Counts::default(), next_number: 0 };
        Ok(Drainer { out, rings: HashMap::new(), refused: HashSet::new() })
    }

    /// What was taken so far.
    pub(crate) fn counts(&self) -> Counts {
        self.out.counts
    }

    /// Takes everything that is complete now; whether that was anything.
    pub(crate) fn poll(&mut self, session: &SessionDir) -> Result<bool> {
        self.each(session, |ring, out| {
            let any = ring.take_closed(out)?;
            // A process of a script that has ended, or was killed, is finished
            // right away: such scripts make thousands.
            let info = ring.info()?;
            if (info.ended || ring.is_orphaned(info.pid)) && !ring.is_mapped(info.pid) {
                ring.finish(out, &Mappings::default())?;
            }
            Ok(any)
        })
    }

    /// Takes the rest, when the command has ended. What still runs keeps its
    /// ring; what it wrote so far is copied.
    pub(crate) fn finish(&mut self, session: &SessionDir) -> Result<()> {
        // As often as there are new ones: so many may be left that they can't be
        // open all at once.
        // And what is mapped is asked for each time: of the new ones, too.
        let mut any = true;
        while any {
            let mappings = Mappings::default();
            any = self.each(session, |ring, out| ring.finish(out, &mappings).map(|()| true))?;
        }
        self.out.trace.flush()?;
        Ok(())
    }

    /// Does something with each ring that isn't finished. A program can ruin
    /// its own ring, and that must not cost the others'.
    fn each(
        &mut self,
        session: &SessionDir,
        mut act: impl FnMut(&mut Ring, &mut Out<W>) -> Result<bool>,
    ) -> Result<bool> {
        self.discover(session);
        let mut any = false;
        for ring in self.rings.values_mut().filter(|ring| !ring.done) {
            match act(ring, &mut self.out) {
                Ok(did) => any |= did,
                Err(error) if error.is::<ReadError>() => {
                    say(format_args!("{}: {error:#}; its ring is left alone", ring.path.display()));
                    ring.done = true;
                }
                Err(error) => return Err(error),
            }
        }
        // A file that is gone can't be met again.
        self.rings.retain(|_, ring| !ring.done || ring.is_there());
        Ok(any)
    }

    /// Opens rings that weren't there before.
    fn discover(&mut self, session: &SessionDir) {
        for path in session.rings() {
            let known = path.symlink_metadata().is_ok_and(|file| self.rings.contains_key(&id_of(&file)));
            if known || self.refused.contains(&path) {
                continue;
            }
            match open_own(&path) {
                Ok((id, drain)) => {
                    self.out.counts.rings += 1;
                    let pages = HashMap::new();
                    let mut ring = Ring { path, drain, number: None, pages, was_mapped: false, done: false };
                    ring.was_mapped = ring.info().is_ok_and(|info| ring.is_mapped(info.pid));
                    self.rings.insert(id, ring);
                }
                // Its process is just making it, or has removed it.
                Err(ReadError::NotARing | ReadError::TooShort(_)) => {}
                Err(ReadError::Io(error)) if error.kind() != ErrorKind::PermissionDenied => {}
                Err(error) => {
                    say(format_args!("{}: {error}; it is left alone", path.display()));
                    self.refused.insert(path);
                }
            }
        }
    }
}

/// Opens a ring of this user's. Somebody else's was put there to be taken.
fn open_own(path: &Path) -> Result<(FileId, Drain), ReadError> {
    let drain = Drain::open(path)?;
    let file = drain.file().metadata()?;
    let owner = file.uid();
    if owner != own_uid() {
        let why = format!("belongs to user {owner}, not to user {}", own_uid());
        return Err(Error::new(ErrorKind::PermissionDenied, why).into());
    }
    Ok((id_of(&file), drain))
}

impl Ring {
    fn is_mapped(&self, pid: u32) -> bool {
        is_mapped(self.drain.file(), &self.path, pid)
    }

    /// Whether its process, which was here, is no more.
    fn is_orphaned(&self, pid: u32) -> bool {
        self.was_mapped && !Path::new(&format!("/proc/{pid}")).exists()
    }

    /// Whether its name still leads to the file.
    fn is_there(&self) -> bool {
        let (there, ours) = (self.path.symlink_metadata(), self.drain.file().metadata());
        there.is_ok_and(|there| ours.is_ok_and(|ours| id_of(&there) == id_of(&ours)))
    }

    /// Removes the file, unless another one has its name by now.
    fn remove(&self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn info(&self) -> Result<ProcessInfo> {
        Ok(process_info(&header_words(self.drain.file())?)?)
    }

    fn take_closed<W: Write>(&mut self, out: &mut Out<W>) -> Result<bool> {
        let pieces = self.drain.closed()?;
        if pieces.is_empty() {
            return Ok(false);
        }
        let number = self.write_tables(out)?;
        for piece in &pieces {
            out.trace.piece(number, piece)?;
        }
        // The program may reuse a chunk only once its copy is out of our hands:
        // if this process is killed, the next collector finds the rest.
        out.trace.flush()?;
        for piece in &pieces {
            // Of a file that was cut short in the meantime there is nothing to
            // give back; the copy is good.
            if self.drain.confirm(piece) || piece.chunk >= self.drain.file().chunks() {
                out.counts.add(piece);
            } else {
                out.trace.retract(number, piece.seq)?;
            }
        }
        Ok(true)
    }

    /// Writes the header, and the table pages that changed. Tables are read
    /// after the records that refer to them.
    fn write_tables<W: Write>(&mut self, out: &mut Out<W>) -> Result<u32> {
        let file = self.drain.file();
        let header = header_words(file)?;
        let readable = process_info(&header)?.high_water.min(file.chunks());
        let number = *self.number.get_or_insert_with(|| {
            out.counts.processes += 1;
            out.next_number += 1;
            out.next_number - 1
        });
        out.trace.header(number, &header)?;
        for (chunk, tag, words) in read_pages(file, &chunk_heads(file, readable)) {
            // A page only ever changes by words that become other than zero,
            // and by modules that get the time of their unloading.
            let sum = words
                .iter()
                .skip(CHUNK_HEADER_WORDS)
                .fold(1u64, |sum, word| sum.rotate_left(5).wrapping_add(*word).wrapping_mul(0x9E37_79B9));
            if self.pages.insert(chunk, sum) != Some(sum) {
                out.trace.page(number, chunk, tag, &words)?;
            }
        }
        Ok(number)
    }

    /// Takes what is left of a process that has ended, and removes its ring. Of
    /// one that runs on, everything is copied and nothing is taken.
    fn finish<W: Write>(&mut self, out: &mut Out<W>, mappings: &Mappings) -> Result<()> {
        self.done = true;
        let info = self.info()?;
        let running = self.is_mapped(info.pid)
            || !info.ended && !self.was_mapped && mappings.hold(self.drain.file(), &self.path, info.pid);
        let snapshot = self.drain.snapshot()?;
        let lost = snapshot.tables.losses().iter().map(|loss| loss.count);
        out.counts.lost = lost.fold(out.counts.lost, u64::saturating_add);
        // A program that recorded nothing but its own start removes its ring at
        // its end; whether it was open here by then is chance.
        let removed = !self.is_there() && snapshot.pieces.iter().all(|piece| heads(piece).all(is_start));
        let holds_any = !snapshot.pieces.is_empty() || !snapshot.tables.losses().is_empty();
        if self.number.is_some() || holds_any && !removed {
            let number = self.write_tables(out)?;
            for piece in &snapshot.pieces {
                out.trace.piece(number, piece)?;
                out.counts.add(piece);
            }
            if !running {
                out.trace.end(number)?;
            }
            out.trace.flush()?;
        }
        if !running {
            // Everything is in the trace.
            self.remove();
        }
        Ok(())
    }
}

/// The heads of a piece's records.
fn heads(piece: &Piece) -> impl Iterator<Item = Head> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let head = Head::of(*piece.words.get(at)?);
        at += usize::from(head.len).max(1);
        Some(head)
    })
}

/// Whether a record is what every process leaves.
fn is_start(head: Head) -> bool {
    !head.is_event() || matches!(head.kind, kind::THREAD_START | kind::MODULE_LOAD | kind::MODULE_UNLOAD)
}

impl Counts {
    fn add(&mut self, piece: &Piece) {
        for head in heads(piece) {
            self.events += u64::from(head.is_event());
            self.callbacks += u64::from(head.kind == kind::CALLBACK_ENTER);
            self.births += u64::from(head.kind == kind::THREAD_BIRTH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traceshim_ring::mapping::{NewRing, RingMap};
    use traceshim_ring::record::{Origin, StackRef};
    use traceshim_ring::ring::{Clock, Cursor, Owner};

    struct Fixed;
    impl Clock for Fixed {
        fn sync(&self) -> (u64, u64) {
            (1, 1)
        }
    }

    fn new_ring(dir: &Path) -> RingMap {
        let new = NewRing {
            bytes: 64 << 10,
            overwrite: false,
            tsc: false,
            pid: 4_000_000,
            ppid: 1,
            uuid: [1, 2],
            start_mono_ns: 1,
            start_real_ns: 1,
            stack_depth: 8,
        };
        RingMap::create(dir, b"app", &new).expect("a ring")
    }

    #[test]
    fn a_program_that_executes_another_leaves_it_the_name_of_its_ring() {
        let dir = tempfile::tempdir().unwrap();
        let session = SessionDir::at(dir.path().to_owned());
        let mut drainer = Drainer::new(Vec::new()).unwrap();
        let first = new_ring(dir.path());
        drainer.poll(&session).unwrap();
        std::fs::remove_file(first.path()).unwrap();
        let second = new_ring(dir.path());
        assert_eq!(first.path(), second.path());
        let ring = second.ring().unwrap();
        let owner = Owner { uid: 1, tid: 1, origin: Origin::Main, creator: 0, name: 0, depth: 0 };
        let stack = StackRef(1);
        let head = (kind::CALLBACK_ENTER, 0);
        ring.put(&mut Cursor::default(), &owner, &Fixed, 5, head, &[u64::from(stack.0)]);
        drainer.poll(&session).unwrap();
        drainer.finish(&session).unwrap();
        assert_eq!((drainer.counts().callbacks, drainer.counts().processes), (1, 1));
    }
}
