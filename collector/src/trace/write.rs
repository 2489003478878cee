//! Appending to a trace.

use std::io::{Result, Write};

use traceshim_ring::read::Piece;

use super::{CONTENT_MAX_BYTES, MAGIC, VERSION, checksum, kind};

/// Writes blocks. Whoever needs them on disk flushes.
pub(crate) struct TraceWriter<W> {
    out: W,
    content: Vec<u8>,
}

impl<W: Write> TraceWriter<W> {
    /// Begins a trace.
    pub(crate) fn new(mut out: W) -> Result<TraceWriter<W>> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&[0; 4])?;
        Ok(TraceWriter { out, content: Vec::new() })
    }

    /// A ring's header.
    pub(crate) fn header(&mut self, process: u32, words: &[u64]) -> Result<()> {
        self.block(kind::HEADER, process, &[], words)
    }

    /// A page of a table.
    pub(crate) fn page(&mut self, process: u32, chunk: u32, tag: u8, words: &[u64]) -> Result<()> {
        let used = words.iter().rposition(|&w| w != 0).map_or(0, |last| last + 1);
        let first = u64::from(chunk) | u64::from(tag) << 32;
        self.block(kind::PAGE, process, &[first], &words[..used])
    }

    /// Records.
    pub(crate) fn piece(&mut self, process: u32, piece: &Piece) -> Result<()> {
        let place = u64::from(piece.chunk) | u64::from(piece.open) << 32;
        self.block(kind::PIECE, process, &[piece.seq, place], &piece.words)
    }

    /// Takes back a piece that was written.
    pub(crate) fn retract(&mut self, process: u32, seq: u64) -> Result<()> {
        self.block(kind::RETRACT, process, &[seq], &[])
    }

    /// Says that nothing more comes of a process.
    pub(crate) fn end(&mut self, process: u32) -> Result<()> {
        self.block(kind::END, process, &[], &[])
    }

    /// Hands everything written so far to the system.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }

    fn block(&mut self, kind: u32, process: u32, first: &[u64], rest: &[u64]) -> Result<()> {
        self.content.clear();
        for word in first.iter().chain(rest) {
            self.content.extend_from_slice(&word.to_le_bytes());
        }
        debug_assert!(self.content.len() <= CONTENT_MAX_BYTES as usize);
        let crc = checksum(kind, process, &self.content);
        for word in [kind, process, self.content.len() as u32, crc] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(&self.content)
    }
}
