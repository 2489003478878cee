//! From the rings of a session into a trace, while the programs run.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use traceshim_ring::drain::Drain;
use traceshim_ring::layout::CHUNK_HEADER_WORDS;
use traceshim_ring::read::{Piece, ProcessInfo, ReadError, Source, header_words, process_info, read_pages};
use traceshim_ring::record::{Head, kind};

use super::session::SessionDir;
use crate::input::is_mapped;
use crate::show::say;
use crate::trace::TraceWriter;

/// What was taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Processes with a ring.
    pub(crate) processes: u64,
    /// Records that are events.
    pub(crate) events: u64,
    /// Entries of callbacks.
    pub(crate) callbacks: u64,
    /// Births of threads.
    pub(crate) births: u64,
    /// Events that found no room.
    pub(crate) lost: u64,
    /// Processes that go on without us.
    pub(crate) running: u64,
}

/// Takes the rings of a session, each chunk exactly once.
pub(crate) struct Drainer<W: Write> {
    trace: TraceWriter<W>,
    rings: HashMap<PathBuf, Ring>,
    counts: Counts,
    next_number: u32,
}

/// One ring that is being drained.
struct Ring {
    drain: Drain,
    /// The number of its process in the trace, once there is something of it.
    number: Option<u32>,
    /// How much of each table page is in the trace, by a sum over its words.
    pages: HashMap<u32, u64>,
    done: bool,
}

impl<W: Write> Drainer<W> {
    /// Drains into `out`.
    pub(crate) fn new(out: W) -> Result<Drainer<W>> {
        let mut trace = TraceWriter::new(out)?;
        trace.flush()?;
        Ok(Drainer { trace, rings: HashMap::new(), counts: Counts::default(), next_number: 0 })
    }

    /// What was taken so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes everything that is complete now; whether that was anything.
    pub(crate) fn poll(&mut self, session: &SessionDir) -> Result<bool> {
        self.discover(session);
        let mut any = false;
        for (path, ring) in &mut self.rings {
            if ring.done {
                continue;
            }
            let taken = ring.take_closed(&mut self.trace, &mut self.next_number, &mut self.counts);
            any |= taken.with_context(|| path.display().to_string())?;
            // A process of a script that has ended is finished right away: such
            // scripts make thousands.
            if ring.info().is_ok_and(|info| info.ended && !is_mapped(path, info.pid)) {
                ring.finish(path, &mut self.trace, &mut self.next_number, &mut self.counts)?;
            }
        }
        self.rings.retain(|_, ring| !ring.done);
        Ok(any)
    }

    /// Takes the rest, when the command has ended. What still runs keeps its
    /// ring; what it wrote so far is copied.
    pub(crate) fn finish(&mut self, session: &SessionDir) -> Result<()> {
        self.discover(session);
        for (path, ring) in &mut self.rings {
            if !ring.done {
                ring.finish(path, &mut self.trace, &mut self.next_number, &mut self.counts)
                    .with_context(|| path.display().to_string())?;
            }
        }
        self.trace.flush()?;
        Ok(())
    }

    /// Opens rings that weren't there before.
    fn discover(&mut self, session: &SessionDir) {
        for path in session.rings() {
            if self.rings.contains_key(&path) {
                continue;
            }
            match Drain::open(&path) {
                Ok(drain) => {
                    self.counts.processes += 1;
                    let ring = Ring { drain, number: None, pages: HashMap::new(), done: false };
                    self.rings.insert(path, ring);
                }
                // Its process is just making it, or has removed it.
                Err(ReadError::NotARing | ReadError::TooShort(_) | ReadError::Io(_)) => {}
                Err(error) => say(format_args!("{}: {error}", path.display())),
            }
        }
    }
}

impl Ring {
    fn info(&self) -> Result<ProcessInfo> {
        Ok(process_info(&header_words(self.drain.file())?)?)
    }

    fn take_closed<W: Write>(
        &mut self,
        trace: &mut TraceWriter<W>,
        next_number: &mut u32,
        counts: &mut Counts,
    ) -> Result<bool> {
        let pieces = self.drain.closed()?;
        if pieces.is_empty() {
            return Ok(false);
        }
        let number = self.write_tables(trace, next_number)?;
        for piece in &pieces {
            trace.piece(number, piece)?;
        }
        // The program may reuse a chunk only once its copy is out of our hands:
        // if this process is killed, the next collector finds the rest.
        trace.flush()?;
        for piece in &pieces {
            if self.drain.confirm(piece) {
                counts.add(piece);
            } else {
                trace.retract(number, piece.seq)?;
            }
        }
        Ok(true)
    }

    /// Writes the header, and the table pages that changed. Tables are read
    /// after the records that refer to them.
    fn write_tables<W: Write>(&mut self, trace: &mut TraceWriter<W>, next_number: &mut u32) -> Result<u32> {
        let file = self.drain.file();
        let header = header_words(file)?;
        let readable = process_info(&header)?.high_water.min(file.chunks());
        let number = *self.number.get_or_insert_with(|| {
            *next_number += 1;
            *next_number - 1
        });
        trace.header(number, &header)?;
        for (chunk, tag, words) in read_pages(file, readable) {
            // A page only ever changes by words that become other than zero,
            // and by modules that get the time of their unloading.
            let sum = words
                .iter()
                .skip(CHUNK_HEADER_WORDS)
                .fold(1u64, |sum, word| sum.rotate_left(5).wrapping_add(*word).wrapping_mul(0x9E37_79B9));
            if self.pages.insert(chunk, sum) != Some(sum) {
                trace.page(number, chunk, tag, &words)?;
            }
        }
        Ok(number)
    }

    /// Takes what is left of a process that has ended, and removes its ring. Of
    /// one that runs on, everything is copied and nothing is taken.
    fn finish<W: Write>(
        &mut self,
        path: &Path,
        trace: &mut TraceWriter<W>,
        next_number: &mut u32,
        counts: &mut Counts,
    ) -> Result<()> {
        self.done = true;
        let running = is_mapped(path, self.info()?.pid);
        let snapshot = self.drain.snapshot()?;
        counts.lost += snapshot.tables.losses().iter().map(|loss| loss.count).sum::<u64>();
        if self.number.is_some() || !snapshot.pieces.is_empty() || !snapshot.tables.losses().is_empty() {
            let number = self.write_tables(trace, next_number)?;
            for piece in &snapshot.pieces {
                trace.piece(number, piece)?;
                counts.add(piece);
            }
            if !running {
                trace.end(number)?;
            }
            trace.flush()?;
        }
        if running {
            counts.running += 1;
        } else {
            // Everything is in the trace; a ring that is gone already is fine.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }
}

impl Counts {
    fn add(&mut self, piece: &Piece) {
        let mut at = 0;
        while let Some(&word) = piece.words.get(at) {
            let head = Head::of(word);
            self.events += u64::from(head.is_event());
            self.callbacks += u64::from(head.kind == kind::CALLBACK_ENTER);
            self.births += u64::from(head.kind == kind::THREAD_BIRTH);
            at += usize::from(head.len).max(1);
        }
    }
}
