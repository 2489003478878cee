//! Reading a trace, whole or cut off, from a file or a pipe.

use std::io::{ErrorKind, Read};

use traceshim_ring::read::Piece;

use super::{CONTENT_MAX_BYTES, HEAD_BYTES, MAGIC, VERSION, checksum, kind};

/// Why something isn't a trace that can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("not a trace")]
    NotATrace,
    #[error("trace format version {0}, this program reads version {VERSION}")]
    Version(u32),
}

/// What a block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Header(Vec<u64>),
    Page { chunk: u32, tag: u8, words: Vec<u64> },
    Piece(Piece),
    Retract { seq: u64 },
    End,
}

/// A block, and where in the file its content begins.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) process: u32,
    pub(crate) content_offset: u64,
    pub(crate) content: Content,
}

/// Reads block after block.
pub(crate) struct TraceReader<R> {
    input: R,
    offset: u64,
    content: Vec<u8>,
    cut: Option<String>,
}

impl<R: Read> TraceReader<R> {
    /// Checks that `input` begins as a trace does.
    pub(crate) fn new(mut input: R) -> Result<TraceReader<R>, TraceError> {
        let mut head = [0; 16];
        match input.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(TraceError::NotATrace);
            }
            other => other?,
        }
        if head[..8] != MAGIC {
            return Err(TraceError::NotATrace);
        }
        match u32_at(&head, 8) {
            VERSION => Ok(TraceReader { input, offset: 16, content: Vec::new(), cut: None }),
            other => Err(TraceError::Version(other)),
        }
    }

    /// The next block that this version knows. `None` at the end, and where the
    /// rest is damaged: then [`TraceReader::cut`] says so.
    pub(crate) fn next_block(&mut self) -> Result<Option<Block>, TraceError> {
        while self.cut.is_none() {
            let mut head = [0; HEAD_BYTES];
            match fill(&mut self.input, &mut head)? {
                0 => return Ok(None),
                HEAD_BYTES => {}
                _ => return Ok(self.stop("the trace is cut off")),
            }
            let [kind, process, len, crc] = [0, 4, 8, 12].map(|at| u32_at(&head, at));
            if len > CONTENT_MAX_BYTES || len % 8 != 0 {
                return Ok(self.stop("damaged block"));
            }
            self.content.resize(len as usize, 0);
            if fill(&mut self.input, &mut self.content)? != self.content.len() {
                return Ok(self.stop("the trace is cut off"));
            }
            // A fuzzer can't guess them, and is to see what lies behind.
            if !cfg!(fuzzing) && checksum(kind, process, &self.content) != crc {
                return Ok(self.stop("damaged block"));
            }
            let content_offset = self.offset + HEAD_BYTES as u64;
            self.offset = content_offset + u64::from(len);
            let words: Vec<u64> = words(&self.content).collect();
            match decode(kind, words) {
                Some(Some(content)) => return Ok(Some(Block { process, content_offset, content })),
                Some(None) => {}
                None => return Ok(self.stop("damaged block")),
            }
        }
        Ok(None)
    }

    /// Where and why reading stopped before the end of the input.
    pub(crate) fn cut(&self) -> Option<&str> {
        self.cut.as_deref()
    }

    fn stop(&mut self, why: &str) -> Option<Block> {
        self.cut = Some(format!("{why} at byte {}; what comes before is shown", self.offset));
        None
    }
}

/// `None`: too short for its kind. `Some(None)`: a kind of a later version.
fn decode(kind: u32, mut words: Vec<u64>) -> Option<Option<Content>> {
    Some(Some(match kind {
        kind::HEADER => Content::Header(words),
        kind::PAGE => {
            let first = *words.first()?;
            words.remove(0);
            Content::Page { chunk: first as u32, tag: (first >> 32) as u8, words }
        }
        kind::PIECE => {
            let (seq, place) = (*words.first()?, *words.get(1)?);
            words.drain(..2);
            Content::Piece(Piece { chunk: place as u32, seq, words, open: place >> 32 != 0 })
        }
        kind::RETRACT => Content::Retract { seq: *words.first()? },
        kind::END => Content::End,
        _ => return Some(None),
    }))
}

/// The words in `bytes`.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.as_chunks::<8>().0.iter().map(|&chunk| u64::from_le_bytes(chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |&chunk| u32::from_le_bytes(chunk))
}

/// Reads until `to` is full or the input ends; how much was read.
fn fill(input: &mut impl Read, to: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < to.len() {
        match input.read(&mut to[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
