//! Which chunks of a new ring may be touched: those whose space is there.
//!
//! A page of a sparse file on a full disk is a SIGBUS for whoever touches it
//! first, and reserving a whole ring costs milliseconds and megabytes where the
//! file system is memory, which most processes never use. So the kernel is asked
//! to fill in the pages of the next chunks, which fails where a store would be
//! deadly (`MADV_POPULATE_WRITE`, Linux 5.14). Where the kernel doesn't know it,
//! all of the space is reserved at once.
//!
//! What is known lies in the process's own memory: a ring may say anything.
#![allow(unsafe_code)]

use crate::layout::CHUNK_BYTES;
use std::io::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Chunks that are filled in at a time: 256 KiB, some 10,000 callbacks.
const STEP: u32 = 64;
/// Chunks for the ledger that are there from the start: where there is no more
/// space, the losses of some 500 threads can still be told apart.
const LEDGER: u32 = 4;

/// A run of chunks that are claimed for one purpose, and how far their space is
/// there.
#[derive(Debug)]
struct Run {
    to: u32,
    usable: AtomicU32,
}

/// The room of a ring in the process that writes it.
#[derive(Debug)]
pub(crate) struct Room {
    base: *const u8,
    /// Chunks for records and tables, and those that are kept for the ledger.
    runs: [Run; 2],
    /// Nothing may be asked of the kernel any more.
    is_closed: AtomicBool,
}

// SAFETY: the address is that of a mapping that all threads share, and is only
// handed to the kernel.
unsafe impl Sync for Room {}
// SAFETY: as above.
unsafe impl Send for Room {}

impl Room {
    /// The room of a ring mapped at `base`, with nothing in it yet.
    pub(crate) fn new(base: *const u8, records_end: u32, chunks: u32) -> Room {
        let run = |from, to| Run { to, usable: AtomicU32::new(from) };
        Room {
            base,
            runs: [run(0, records_end), run(records_end, chunks)],
            is_closed: AtomicBool::new(false),
        }
    }

    /// Fills in the header and the first chunks. `Unsupported`: the kernel
    /// doesn't do that, all of the space has to be reserved otherwise.
    pub(crate) fn begin(&self) -> Result<()> {
        for (run, step) in self.runs.iter().zip([STEP, LEDGER]) {
            self.fill(run, step).map_err(|error| match error.raw_os_error() {
                // What a store would have met: the file system has no more.
                Some(libc::EFAULT) => Error::from_raw_os_error(libc::ENOSPC),
                Some(libc::EINVAL | libc::ENOSYS | libc::EPERM) => ErrorKind::Unsupported.into(),
                _ => error,
            })?;
        }
        Ok(())
    }

    /// All of the space is there.
    pub(crate) fn is_reserved(&self) {
        for run in &self.runs {
            run.usable.store(run.to, Ordering::Release);
        }
    }

    /// One past the last of the chunks before `to`, the end of a run, that may be
    /// touched; and whether there may be more.
    #[inline]
    pub(crate) fn usable(&self, to: u32) -> (u32, bool) {
        let Some(run) = self.run(to) else { return (0, false) };
        let usable = run.usable.load(Ordering::Acquire);
        (usable, usable < to && !self.is_closed.load(Ordering::Acquire))
    }

    /// Makes more chunks usable before `to`. Any number of threads may come at
    /// once, and in signal handlers: what is filled in twice stays as it is.
    #[cold]
    pub(crate) fn extend(&self, to: u32) -> bool {
        let Some(run) = self.run(to).filter(|_| !self.is_closed.load(Ordering::Acquire)) else {
            return false;
        };
        let done = self.fill(run, STEP);
        if let Err(error) = &done
            && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
        {
            self.is_closed.store(true, Ordering::Release);
        }
        done.is_ok()
    }

    /// From now on the kernel is asked for nothing: what can be had is taken.
    pub(crate) fn close(&self) {
        for run in &self.runs {
            while self.usable(run.to).1 && self.extend(run.to) {}
        }
        self.is_closed.store(true, Ordering::Release);
    }

    fn run(&self, to: u32) -> Option<&Run> {
        self.runs.iter().find(|run| run.to == to)
    }

    fn fill(&self, run: &Run, step: u32) -> Result<()> {
        let from = run.usable.load(Ordering::Acquire);
        let to = from.saturating_add(step).min(run.to);
        let (at, len) = (from as usize * CHUNK_BYTES, to.saturating_sub(from) as usize * CHUNK_BYTES);
        let start = self.base.wrapping_add(at).cast_mut().cast();
        // SAFETY: the range lies in the ring's mapping, whose content stays as it
        // is; nothing else is mapped there while the process lives.
        let done = unsafe { libc::madvise(start, len, libc::MADV_POPULATE_WRITE) };
        if done != 0 {
            return Err(Error::last_os_error());
        }
        run.usable.fetch_max(to, Ordering::AcqRel);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mapping of a file that ends in the middle of it: what lies behind can't
    /// be filled in, as on a full disk.
    fn short_file(chunks: u32, of: u32) -> memmap2::MmapMut {
        let file = tempfile::tempfile().unwrap();
        file.set_len(u64::from(chunks) * CHUNK_BYTES as u64).unwrap();
        // SAFETY: nobody else knows the file.
        unsafe { memmap2::MmapOptions::new().len(of as usize * CHUNK_BYTES).map_mut(&file) }.unwrap()
    }

    #[test]
    fn where_there_is_no_more_space_the_room_ends() {
        let map = short_file(3 * STEP + 7, 1000);
        let room = Room::new(map.as_ptr(), 900, 1000);
        // The ledger's share lies behind the end.
        assert_eq!(room.begin().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(room.usable(900), (STEP, true));
        assert!(room.extend(900) && room.extend(900));
        assert_eq!(room.usable(900), (3 * STEP, true));
        assert!(!room.extend(900));
        assert_eq!((room.usable(900), room.usable(1000)), ((3 * STEP, false), (900, false)));
        assert!(!room.extend(900) && !room.extend(1000));
    }

    #[test]
    fn a_room_that_is_closed_asks_for_nothing() {
        let map = short_file(1000, 1000);
        let room = Room::new(map.as_ptr(), 900, 1000);
        room.begin().unwrap();
        assert_eq!((room.usable(900), room.usable(1000)), ((STEP, true), (900 + LEDGER, true)));
        room.close();
        assert_eq!((room.usable(900), room.usable(1000)), ((900, false), (1000, false)));
        assert!(!room.extend(900));

        let room = Room::new(std::ptr::null(), 900, 1000);
        room.is_reserved();
        assert_eq!((room.usable(900), room.usable(1000)), ((900, false), (1000, false)));
        assert_eq!(room.usable(17), (0, false));
    }
}
