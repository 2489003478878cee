//! The mapping: the ring's, and those of files that are read.
//!
//! What is mapped is shared with another process, so it is only ever seen as
//! atomic words; a `&[u8]` of it does not exist.
#![allow(unsafe_code)]

use crate::guard::{Guarded, guard};
use crate::layout::{
    CHUNK_BYTES, CHUNK_WORDS, FLAG_OVERWRITE, FLAG_TSC, MAGIC, RING_MAX_BYTES, RING_MIN_BYTES, VERSION,
    header,
};
use crate::record::pair;
use crate::ring::Ring;
use crate::room::Room;
use crate::session::ring_name;
use crate::stamp::FileStamp;
use crate::sync::{AtomicU64, Ordering};
use memmap2::{Advice, MmapMut, MmapOptions};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Error, ErrorKind, Result};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::slice;

/// Chunks that stay behind the last used one at the end: destructors that run
/// after ours still have something to say.
const SPARE_CHUNKS: usize = 8;

/// What a new ring's header says.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // The fields are those of `layout::header`.
pub struct NewRing {
    pub bytes: u64,
    pub overwrite: bool,
    pub tsc: bool,
    pub pid: u32,
    pub ppid: u32,
    pub uuid: [u64; 2],
    pub start_mono_ns: u64,
    pub start_real_ns: u64,
    pub stack_depth: u32,
}

/// A mapped ring.
#[derive(Debug)]
pub struct RingMap {
    words: &'static [AtomicU64],
    index: &'static [AtomicU64],
    /// Of a ring made by [`RingMap::create`].
    room: Option<&'static Room>,
    path: PathBuf,
    /// Device and inode, so that nobody else's file is cut at the end.
    identity: (u64, u64),
    /// What a collector holds of it.
    _held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    _guarded: Guarded,
    _map: MmapMut,
}

impl RingMap {
    /// Makes a ring file in `dir` and maps it, with space reserved for its first
    /// chunks; that of more is reserved when they are needed.
    ///
    /// An error where the file system doesn't have the space for all. The file's descriptor is closed again: the program may close or count its
    /// descriptors as it likes.
    pub fn create(dir: &Path, exe: &[u8], new: &NewRing) -> Result<RingMap> {
        let bytes = new.bytes.clamp(RING_MIN_BYTES, RING_MAX_BYTES) / CHUNK_BYTES as u64 * CHUNK_BYTES as u64;
        let (file, path) = create_file(dir, exe, new.pid)?;
        let made = map_new(&file, bytes).and_then(|map| {
            let meta = file.metadata()?;
            let room = Room::new(map.as_ptr(), records_end(bytes), chunks(bytes));
            match room.begin() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Unsupported => reserve(&file, bytes, &room)?,
                Err(error) => return Err(error),
            }
            Ok((map, room, (meta.dev(), meta.ino())))
        });
        let (map, room, identity) = match made {
            Ok(made) => made,
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
        };
        let index = MmapOptions::new().len(index_bytes(bytes)).no_reserve_swap().map_anon()?;
        let (words, index) = (leak(map), leak(index));
        write_header(words, bytes, new);
        let room = Some(&*Box::leak(Box::new(room)));
        Ok(RingMap { words, index, room, path, identity, _held: None })
    }

    /// Maps an existing ring for the collector, and locks it against others for
    /// as long as `file` is open.
    pub(crate) fn of_file(file: &File, path: &Path) -> Result<RingMap> {
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::Error(error) => error,
            std::fs::TryLockError::WouldBlock => {
                Error::new(ErrorKind::WouldBlock, "another collector drains it")
            }
        })?;
        let meta = file.metadata()?;
        let bytes = meta.len().min(RING_MAX_BYTES) / CHUNK_BYTES as u64 * CHUNK_BYTES as u64;
        if !meta.is_file() || bytes == 0 {
            return Err(Error::new(ErrorKind::InvalidData, "not a ring file"));
        }
        // SAFETY: others may change the file at any time; it is only seen
        // through atomics, and looked after where it gets shorter.
        let map = unsafe { MmapOptions::new().len(bytes as usize).map_mut(file) }?;
        // SAFETY: the mapping lives as long as `self`, which keeps it, and the
        // slice doesn't leave `self` with a longer lifetime than a borrow.
        let words = unsafe { slice::from_raw_parts(map.as_ptr().cast::<AtomicU64>(), map.len() / 8) };
        let identity = (meta.dev(), meta.ino());
        let held = Held { _guarded: guard(map.as_ptr(), map.len())?, _map: map };
        Ok(RingMap { words, index: &[], room: None, path: path.to_owned(), identity, _held: Some(held) })
    }

    /// A view for the time that this mapping is borrowed. `None`: the header
    /// makes no sense.
    pub fn ring(&self) -> Option<Ring<'_>> {
        let ring = Ring::new(self.words, self.index)?;
        Some(self.room.map_or(ring, |room| ring.within(room)))
    }

    /// A view that lasts for the process's lifetime, of a ring made by
    /// [`RingMap::create`]; those are never unmapped.
    pub fn ring_static(&self) -> Option<Ring<'static>> {
        let room = self.room?;
        Some(Ring::new(self.words, self.index)?.within(room))
    }

    /// Reserves all of the ring's space that can be had. From now on, that a ring
    /// grows makes no system call.
    pub fn reserve_all(&self) {
        if let Some(room) = self.room {
            room.close();
        }
    }

    /// In a forked child, which the ring isn't mapped in: other memory in its
    /// place, for code that the fork interrupted in the middle of a write.
    pub fn stand_in(&self) {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        let start = self.words.as_ptr().cast_mut().cast();
        // SAFETY: replaces nothing, and the words stay valid as atomics.
        unsafe { libc::mmap(start, self.words.len() * 8, access, kind, -1, 0) };
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts the file behind its last used chunk, at the clean end of the
    /// process; removes it where `keep` is false.
    ///
    /// Threads may still run: what they write beyond the cut goes to memory
    /// that nobody reads, and never faults.
    pub fn trim(&self, keep: bool) -> Result<()> {
        let total = self.words.len() * 8;
        let used = self.ring().map_or(1, |ring| ring.high_water()) as usize + SPARE_CHUNKS;
        let used = (used * CHUNK_BYTES).min(total);
        if used < total {
            // SAFETY: the range lies within our own mapping, to the page, and
            // is seen as atomics only; replacing it by zeroed memory is a
            // change of values, which atomics allow.
            let tail = unsafe { self.words.as_ptr().cast::<u8>().add(used) };
            // SAFETY: see above.
            let new = unsafe {
                libc::mmap(
                    tail.cast_mut().cast(),
                    total - used,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if new == libc::MAP_FAILED {
                return Err(Error::last_os_error());
            }
        }
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(&self.path)?;
        let meta = file.metadata()?;
        if (meta.dev(), meta.ino()) != self.identity {
            return Err(Error::new(ErrorKind::NotFound, "the ring's file was replaced"));
        }
        if keep { file.set_len(used as u64) } else { std::fs::remove_file(&self.path) }
    }
}

impl RingMap {
    /// Gives all memory of a ring made by [`RingMap::create`] back.
    ///
    /// # Safety
    /// Nobody uses a view of it, now or later.
    pub unsafe fn unmap(&self) {
        for words in [self.words, self.index] {
            // SAFETY: a mapping of ours, of which the caller is the last user.
            unsafe { libc::munmap(words.as_ptr().cast_mut().cast(), size_of_val(words)) };
        }
    }

    /// Lets the memory be paged out where the process keeps all of its own from it.
    pub fn unlock(&self) {
        for words in [self.words, self.index] {
            // SAFETY: a mapping of ours, whose content stays.
            unsafe { libc::munlock(words.as_ptr().cast(), size_of_val(words)) };
        }
    }
}

impl Drop for RingMap {
    fn drop(&mut self) {
        // The words must not outlive their mapping.
        self.words = &[];
    }
}

fn leak(map: MmapMut) -> &'static [AtomicU64] {
    let (start, words) = (map.as_ptr().cast::<AtomicU64>(), map.len() / 8);
    std::mem::forget(map);
    // SAFETY: the mapping is page-aligned, readable and writable, was not
    // handed out before, and is never unmapped since its owner is forgotten.
    unsafe { slice::from_raw_parts(start, words) }
}

/// One place in the index for every 64 bytes of ring.
fn index_bytes(ring_bytes: u64) -> usize {
    ((ring_bytes / 64).next_power_of_two().clamp(1 << 10, 1 << 22) * 8) as usize
}

/// Makes the file under the first name that is free.
fn create_file(dir: &Path, exe: &[u8], pid: u32) -> Result<(File, PathBuf)> {
    for nth in 0..10_000 {
        let path = dir.join(ring_name(exe, pid, nth));
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path);
        match opened {
            Ok(file) => {
                // Whatever the umask took away.
                if let Err(error) = file.set_permissions(Permissions::from_mode(0o600)) {
                    let _ = std::fs::remove_file(&path);
                    return Err(error);
                }
                return Ok((file, path));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::AlreadyExists, "too many rings of this process"))
}

fn chunks(bytes: u64) -> u32 {
    (bytes / CHUNK_BYTES as u64) as u32
}

/// Where the chunks begin that are kept for the ledger.
fn records_end(bytes: u64) -> u32 {
    chunks(bytes) - (chunks(bytes) / 64).max(1)
}

/// Gives a new file its length, without any space, and maps it.
fn map_new(file: &File, bytes: u64) -> Result<MmapMut> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    // Growing a file beyond this limit is a SIGXFSZ, deadly by default.
    if got == 0 && limit.rlim_cur < bytes {
        return Err(Error::new(ErrorKind::FileTooLarge, "RLIMIT_FSIZE is smaller than the ring"));
    }
    if has_no_space(file, bytes) {
        return Err(Error::from_raw_os_error(libc::ENOSPC));
    }
    file.set_len(bytes)?;
    // SAFETY: the file was made by us just now, exclusively and with mode 0600;
    // what others change in it is seen through atomics only.
    let map = unsafe { MmapOptions::new().len(bytes as usize).map_mut(file) }?;
    // A forked child must not write into its parent's ring; the shim notices the
    // fork and makes a ring for the child. Where a sandbox forbids to ask for it,
    // the shim has no page either that tells it of forks, and asks the kernel
    // before each event which process it is in.
    let _ = map.advise(Advice::DontFork);
    // Nothing is in the file yet: reading ahead of the first fault would only
    // clear pages, megabytes of them.
    let _ = map.advise(Advice::Random);
    Ok(map)
}

/// Whether the file system says that it has less than that. The space isn't
/// reserved yet, but a ring must not be what fills a disk up.
fn has_no_space(file: &File, bytes: u64) -> bool {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut fs: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and `fs` a valid place for the result.
    let got = unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut fs) };
    // Some file systems don't tell, or have no bounds: then all is zero.
    got == 0 && fs.f_blocks > 0 && fs.f_bavail.saturating_mul(fs.f_frsize) < bytes
}

/// Reserves all of the space at once. A sandbox may forbid the call for it, but
/// hardly that files are written.
fn reserve(file: &File, bytes: u64, room: &Room) -> Result<()> {
    // SAFETY: the descriptor is open for writing.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => {}
        libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP | libc::EINVAL => write_zeros(file, bytes)?,
        error => return Err(Error::from_raw_os_error(error)),
    }
    room.is_reserved();
    Ok(())
}

fn write_zeros(file: &File, bytes: u64) -> Result<()> {
    static ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    let mut at = 0;
    while at < bytes {
        let some = ZEROS.get(..(bytes - at) as usize).unwrap_or(&ZEROS);
        file.write_all_at(some, at)?;
        at += some.len() as u64;
    }
    Ok(())
}

fn write_header(words: &[AtomicU64], bytes: u64, new: &NewRing) {
    let (chunks, records_end) = (chunks(bytes), records_end(bytes));
    let flags = if new.overwrite { FLAG_OVERWRITE } else { 0 } | if new.tsc { FLAG_TSC } else { 0 };
    let fields = [
        (header::VERSION, pair(VERSION, CHUNK_BYTES as u32)),
        (header::FILE_BYTES, bytes),
        (header::CHUNKS, pair(chunks, chunks - records_end)),
        (header::PIDS, pair(new.pid, new.ppid)),
        (header::FLAGS, flags),
        (header::UUID, new.uuid[0]),
        (header::UUID + 1, new.uuid[1]),
        (header::START_MONO_NS, new.start_mono_ns),
        (header::START_REAL_NS, new.start_real_ns),
        (header::STACK_DEPTH, u64::from(new.stack_depth)),
        (header::OTHER_LOSSES + 1, u64::MAX),
        (header::HIGH_WATER, 1),
    ];
    for (at, value) in fields {
        if let Some(word) = words.get(at) {
            word.store(value, Ordering::Relaxed);
        }
    }
    // The magic last: a file that has it has the rest.
    if let Some(word) = words.get(header::MAGIC) {
        word.store(MAGIC, Ordering::Release);
    }
    debug_assert!(words.len() >= CHUNK_WORDS);
}

/// A file mapped to be read, such as a module with its symbols. What is cut off
/// its file reads as zeros, see [`crate::guard`].
#[derive(Debug)]
pub struct MappedFile {
    _guarded: Guarded,
    map: memmap2::Mmap,
    stamp: FileStamp,
}

impl MappedFile {
    /// Maps a regular file.
    pub fn open(path: &Path) -> Result<MappedFile> {
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        // SAFETY: the mapping is read-only, and looked after where the file gets
        // shorter. Whoever replaces such a file writes a new one; one that is
        // written to in place yields other bytes, which are checked like any.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(MappedFile { _guarded: guard(map.as_ptr(), map.len())?, map, stamp: FileStamp::from(&meta) })
    }

    /// What told the file from others when it was mapped.
    pub fn stamp(&self) -> FileStamp {
        self.stamp
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}
