//! Changing a module's code.
#![allow(unsafe_code)]

use super::prologue::{JUMP, Prologue};
use super::refusal::Refusal;
use crate::modules::Loaded;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;

/// How much is looked at behind a function.
const BEHIND: u64 = 16;
const PAGE: u64 = 4096;

/// The process's memory as a file. The system lets a program write there what
/// it may only execute, as for a debugger: the pages are never anything else
/// than executable, so that nothing can go wrong half-way, and nothing is ever
/// writable and executable.
pub(super) struct Text(File);

impl Text {
    pub(super) fn open() -> std::io::Result<Text> {
        Ok(Text(OpenOptions::new().read(true).write(true).open("/proc/self/mem")?))
    }

    /// Puts a jump to `to` in the prologue's place.
    pub(super) fn jump(&self, prologue: &Prologue, to: u64) -> std::io::Result<()> {
        let jump = jump(prologue, to)?;
        self.0.write_all_at(&jump, prologue.at)?;
        let mut found = [0; JUMP as usize];
        self.0.read_exact_at(&mut found, prologue.at)?;
        (found == jump).then_some(()).ok_or_else(|| Error::other("it doesn't stay changed"))
    }
}

/// The same while other threads may come by, where the jump takes the place of
/// one instruction, so that none can be in the middle of what changes.
///
/// Code that another processor executes must not be written to: what it has
/// fetched may be old bytes and new ones (Intel SDM volume 3, 9.1.3, "Handling
/// self- and cross-modifying code"; AMD APM volume 2, 7.6.1). So nothing is: a
/// copy of the page, with the jump in it, takes the page's place. The kernel does
/// that under a lock for which whoever executes there has to wait, having first
/// taken the old page from every processor's translation buffers by an interrupt,
/// which serialises it. Each thread executes the old page or the new one.
pub(super) fn jump_in_new_page(prologue: &Prologue, to: u64) -> std::io::Result<()> {
    let start = prologue.at & !(PAGE - 1);
    let bytes = (prologue.at + JUMP - start).next_multiple_of(PAGE) as usize;
    let jump = jump(prologue, to)?;
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory.
    let copy = unsafe { libc::mmap(std::ptr::null_mut(), bytes, writable, kind, -1, 0) };
    if copy == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    // SAFETY: pages of a module's code, which nobody else changes, and new ones.
    unsafe { std::ptr::copy_nonoverlapping(start as *const u8, copy.cast(), bytes) };
    let at = copy.cast::<u8>().wrapping_add((prologue.at - start) as usize);
    // SAFETY: within the new pages.
    unsafe { std::ptr::copy_nonoverlapping(jump.as_ptr(), at, jump.len()) };
    let executable = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: the new pages.
    let ready = unsafe { libc::mprotect(copy, bytes, executable) } == 0;
    let place = |flags| {
        // SAFETY: code takes the place of code that does the same.
        unsafe { libc::mremap(copy, bytes, bytes, flags, start as *mut libc::c_void) }
    };
    if ready && place(libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) != libc::MAP_FAILED {
        return Ok(());
    }
    let error = Error::last_os_error();
    // SAFETY: the new pages, which nobody knows.
    unsafe { libc::munmap(copy, bytes) };
    Err(error)
}

fn jump(prologue: &Prologue, to: u64) -> std::io::Result<[u8; JUMP as usize]> {
    let far = || Error::new(ErrorKind::InvalidInput, "the jump is too long");
    let distance = i32::try_from(to.wrapping_sub(prologue.at + JUMP) as i64).map_err(|_| far())?;
    let mut jump = [0xe9, 0, 0, 0, 0];
    jump[1..].copy_from_slice(&distance.to_le_bytes());
    Ok(jump)
}

/// Whether this thread is the only one, so that no other can be in the middle
/// of what is about to change.
pub(super) fn is_only_thread() -> bool {
    std::fs::read("/proc/self/stat").is_ok_and(|stat| number_of_threads(&stat) == Some(1))
}

/// The twentieth field, behind the command's name in brackets, in which anything
/// may be. (To list `/proc/self/task` takes memory of the program's allocator,
/// which may not have begun.)
fn number_of_threads(stat: &[u8]) -> Option<u64> {
    let behind = stat.rsplit(|&b| b == b')').next()?;
    let field = behind.split(|&b| b == b' ').filter(|field| !field.is_empty()).nth(17)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Where the process begins.
pub(super) fn program_entry() -> u64 {
    // SAFETY: asks the kernel's table for a number.
    unsafe { libc::getauxval(libc::AT_ENTRY) }
}

/// A function's code, and a little of what follows it. The registry is locked
/// for as long as they are used, so that the module stays.
pub(super) fn of_function(module: &Loaded, avma: u64, size: u64) -> Result<(&[u8], &[u8]), Refusal> {
    let end = avma.checked_add(size).ok_or(Refusal::NotCode)?;
    let code =
        module.code.iter().find(|code| code.contains(&avma) && end <= code.end).ok_or(Refusal::NotCode)?;
    let bytes = |start: u64, len: u64| {
        // SAFETY: within a readable segment of a loaded module. It changes only
        // where we write, while nobody has such a slice.
        unsafe { std::slice::from_raw_parts(start as *const u8, len as usize) }
    };
    Ok((bytes(avma, size), bytes(end, BEHIND.min(code.end - end))))
}

/// Code of a module from `address` on.
pub(crate) fn code_from(module: &Loaded, address: u64) -> Option<&[u8]> {
    let end = module.code.iter().find(|code| code.contains(&address))?.end;
    of_function(module, address, end - address).ok().map(|(code, _)| code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted() {
        let stat = |name: &str, threads: u32| {
            format!("4711 ({name}) S 1 4711 4711 0 -1 4194560 9 0 0 0 0 0 0 0 20 0 {threads} 0 5 6 7\n")
                .into_bytes()
        };
        assert_eq!(number_of_threads(&stat("app", 1)), Some(1));
        assert_eq!(number_of_threads(&stat("a) S 1 2 (b", 23)), Some(23));
        assert_eq!(number_of_threads(b"4711 (app) S 1"), None);
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().count() as u64;
        let (one, two) = (std::thread::spawn(std::thread::park), std::thread::spawn(std::thread::park));
        let count = number_of_threads(&std::fs::read("/proc/self/stat").unwrap());
        assert!(count >= Some(3), "{count:?}, {tasks} before");
        for thread in [one, two] {
            thread.thread().unpark();
            thread.join().unwrap();
        }
    }
}
