//! The live consumer: takes closed chunks out of a ring, each exactly once.

use crate::file::RingFile;
use crate::layout::{CHUNK_STATE, CHUNK_WORDS, tag};
use crate::mapping::RingMap;
use crate::read::{Piece, ReadError, Snapshot, Source, header_words, process_info, read_chunk};
use crate::ring::state_parts;
use std::path::Path;

/// A ring that is being drained. One at a time: the file is locked.
#[derive(Debug)]
pub struct Drain {
    map: RingMap,
    file: RingFile,
}

impl Drain {
    /// Opens a ring to drain it. An error of kind `WouldBlock` says that
    /// another collector is at it.
    pub fn open(path: &Path) -> Result<Drain, ReadError> {
        let file = RingFile::open_to_drain(path)?;
        process_info(&header_words(&file)?)?;
        let map = RingMap::of_file(file.file(), path)?;
        Ok(Drain { file, map })
    }

    /// Copies every chunk that is closed now, by ascending `seq`. A chunk stays
    /// in the ring until [`Drain::confirm`].
    pub fn closed(&self) -> Result<Vec<Piece>, ReadError> {
        let high_water = process_info(&header_words(&self.file)?)?.high_water.min(self.file.chunks());
        let mut pieces: Vec<Piece> = (1..high_water)
            .filter(|&chunk| self.tag(chunk) == tag::CLOSED)
            .filter_map(|chunk| read_chunk(&self.file, chunk))
            .filter(|piece| !piece.open)
            .collect();
        pieces.sort_by_key(|piece| piece.seq);
        Ok(pieces)
    }

    fn tag(&self, chunk: u32) -> u8 {
        let mut word = [0];
        self.file.copy(chunk as usize * CHUNK_WORDS + CHUNK_STATE, &mut word);
        state_parts(word[0]).1
    }

    /// Gives a chunk back to the program, after what was in it has been kept.
    ///
    /// `false`: the program overwrote it in the meantime and counted its events
    /// as lost; the copy must be thrown away, or they would count twice.
    pub fn confirm(&self, piece: &Piece) -> bool {
        self.map.ring().is_some_and(|ring| ring.free(piece))
    }

    /// The ring as it is now: what a dead process left, or the tables.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        self.file.snapshot()
    }

    /// The file.
    pub fn file(&self) -> &RingFile {
        &self.file
    }
}
