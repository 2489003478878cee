//! A ring file, opened to be read. It is read with `pread` and never mapped:
//! a file that gets shorter under us is an error, not a signal.

use crate::layout::CHUNK_BYTES;
use crate::read::{ReadError, Snapshot, Source, snapshot};
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A ring file.
#[derive(Debug)]
pub struct RingFile {
    file: File,
}

impl RingFile {
    /// Opens a ring that somebody named, without touching it.
    pub fn open(path: &Path) -> Result<RingFile, ReadError> {
        RingFile::open_with(OpenOptions::new().read(true), path, 0)
    }

    /// Opens a ring that was found in a directory: no link is followed.
    pub fn open_entry(path: &Path) -> Result<RingFile, ReadError> {
        RingFile::open_with(OpenOptions::new().read(true), path, libc::O_NOFOLLOW)
    }

    /// Opens a ring that was found in a directory, to take from it.
    pub(crate) fn open_to_drain(path: &Path) -> Result<RingFile, ReadError> {
        RingFile::open_with(OpenOptions::new().read(true).write(true), path, libc::O_NOFOLLOW)
    }

    /// Only regular files are taken.
    fn open_with(options: &mut OpenOptions, path: &Path, flags: i32) -> Result<RingFile, ReadError> {
        // Not to hang on a pipe that somebody left in the directory.
        let file = options.custom_flags(flags | libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
        match file.metadata()?.is_file() {
            true => Ok(RingFile { file }),
            false => Err(ReadError::NotARing),
        }
    }

    /// What the system tells of the file.
    pub fn metadata(&self) -> std::io::Result<Metadata> {
        self.file.metadata()
    }

    /// The open file, for its mapping and its lock.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether the file begins as a ring does.
    pub fn is_ring(&self) -> bool {
        let mut word = [0];
        self.copy(0, &mut word) == 1 && word[0] == crate::layout::MAGIC
    }

    /// The ring as it is now.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        let bytes = self.file.metadata()?.len();
        if bytes < CHUNK_BYTES as u64 {
            if bytes >= 8 && !self.is_ring() {
                return Err(ReadError::NotARing);
            }
            return Err(ReadError::TooShort(bytes));
        }
        snapshot(self)
    }
}

impl Source for RingFile {
    fn copy(&self, at: usize, to: &mut [u64]) -> usize {
        let mut buffer = [0u8; CHUNK_BYTES];
        let mut done = 0;
        while done < to.len() {
            let want = ((to.len() - done) * 8).min(CHUNK_BYTES);
            let Ok(got) = self.file.read_at(&mut buffer[..want], (at + done) as u64 * 8) else {
                return done;
            };
            let words = buffer[..got].chunks_exact(8).map(|bytes| {
                let mut word = [0; 8];
                word.copy_from_slice(bytes);
                u64::from_le_bytes(word)
            });
            let before = done;
            for (to, word) in to[done..].iter_mut().zip(words) {
                *to = word;
                done += 1;
            }
            if done == before {
                break;
            }
        }
        done
    }

    fn chunks(&self) -> u32 {
        let bytes = self.file.metadata().map_or(0, |m| m.len());
        u32::try_from(bytes / CHUNK_BYTES as u64).unwrap_or(u32::MAX)
    }
}
