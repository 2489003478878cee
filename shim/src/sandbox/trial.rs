//! A program that begins under a seccomp filter: nothing can be known of what
//! that does but by trying, and what it kills for kills whoever tries. So a
//! child tries, which does nothing else. But making a child is a system call
//! itself: it is made only where something shows that the filter lets processes
//! be made. Until then there are no calls but those that the loader has just
//! made for the program: `openat`, `read`, `close` and `mmap`.
#![allow(unsafe_code)]

use super::{ALL, Arguments, CALLS, Call, MODULES, Outcome, RING, Set, allows, forbid, has};
use crate::{arch, tracer};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use traceshim_ring::env::{Config, Filtered};
use traceshim_ring::session::{default_dir, vouch_name};

const STATUS: &CStr = c"/proc/thread-self/status";

/// At the start: finds out what a filter allows, if there is one. `false`: not
/// what tracing takes; then everything is forbidden.
pub(crate) fn begin(config: Option<&Config>) -> bool {
    let own = match Status::read(STATUS) {
        Ok(status) => status,
        // Without /proc there is no way to ask.
        Err(libc::ENOENT | libc::ENOTDIR) => return true,
        Err(_) => Status { mode: 2, ..Status::default() },
    };
    if own.mode == 0 || vouched(config, &own) {
        return true;
    }
    let asked = config.is_some_and(|config| config.filtered == Filtered::Try);
    let forbidden = if asked || lets_processes_be_made(&own) { try_out() } else { ALL };
    forbid(forbidden);
    allows(RING) && allows(MODULES)
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Status {
    parent: u32,
    /// 0: no filter; 2: some.
    mode: u32,
    /// How many, 0 where the kernel doesn't say (before Linux 5.9).
    filters: u32,
}

impl Status {
    fn read(path: &CStr) -> Result<Status, i32> {
        let mut text = [0; 4096];
        Ok(Status::parse(read_file(path, &mut text)?))
    }

    fn parse(text: &[u8]) -> Status {
        let field = |name: &[u8]| {
            let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(name))?;
            std::str::from_utf8(line).ok()?.trim().parse().ok()
        };
        Status {
            parent: field(b"PPid:").unwrap_or(0),
            mode: field(b"Seccomp:").unwrap_or(0),
            filters: field(b"Seccomp_filters:").unwrap_or(0),
        }
    }
}

/// Whether the filter can be seen to let processes be made. The parent has the
/// same one, and made us; or the process is a container's first, whose filter is
/// the container runtime's for all that is to run there.
fn lets_processes_be_made(own: &Status) -> bool {
    if own.parent == 0 {
        let exists = |path| read_file(path, &mut []).is_ok();
        return std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
            || exists(c"/.dockerenv")
            || exists(c"/run/.containerenv");
    }
    let parent = CString::new(format!("/proc/{}/status", own.parent)).unwrap_or_default();
    Status::read(&parent).is_ok_and(|parent| own.filters > 0 && parent.filters == own.filters)
}

/// What the child tells.
struct Progress {
    /// Which call it is making.
    at: AtomicU32,
    /// Calls that can't have been made.
    fake: AtomicU64,
}

/// What kills a child that tries it; everything, where that is too much.
fn try_out() -> Set {
    // SAFETY: asks for a fresh page, which a child will share.
    let page = unsafe { raw(libc::SYS_mmap, [0, 4096, ACCESS, SHARED, u64::MAX, 0]) };
    if page <= 0 {
        return ALL;
    }
    // SAFETY: mapped just now, zero, and unmapped by nobody.
    let progress = unsafe { &*(page as *const Progress) };
    let (mut killed, mut from) = (0, 0);
    while from < CALLS.len() {
        // SAFETY: the child has a copy of everything, and ends in `try_from`. The
        // call is over when the child is, so that there is nothing to wait for.
        let child = unsafe { raw(libc::SYS_clone, [libc::CLONE_VFORK as u64, 0, 0, 0, 0, 0]) };
        if child < 0 {
            return ALL;
        }
        if child == 0 {
            try_from(progress, from);
        }
        let reached = progress.at.load(Ordering::SeqCst) as usize;
        killed |= progress.fake.load(Ordering::SeqCst);
        if reached < CALLS.len() {
            killed |= 1 << reached;
        }
        from = reached.max(from) + 1;
        if !has(killed, Call::Wait4) {
            // SAFETY: nobody else knows of the child.
            unsafe { raw(libc::SYS_wait4, [child as u64, 0, libc::__WALL as u64, 0, 0, 0]) };
        }
        if RING.iter().chain(MODULES).any(|&call| has(killed, call)) {
            return ALL;
        }
    }
    killed
}

const ACCESS: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const SHARED: u64 = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64;

/// In the child: makes one call after the other.
fn try_from(progress: &Progress, from: usize) -> ! {
    let make = |n: usize, number: libc::c_long, arguments: Arguments| {
        progress.at.store(n as u32, Ordering::SeqCst);
        // SAFETY: see each call's arguments.
        unsafe { raw(number, arguments) }
    };
    // A call that kills would leave a core dump: one byte is too little even for
    // those that are piped to a program.
    let limit = [1u64, 1];
    let arguments = [0, libc::RLIMIT_CORE as u64, limit.as_ptr() as u64, 0, 0, 0];
    make(Call::Prlimit as usize, libc::SYS_prlimit64, arguments);
    for (n, call) in CALLS.iter().enumerate().skip(from) {
        let failed = make(n, call.number, call.arguments) < 0;
        if failed && call.outcome == Outcome::Success || !failed && call.outcome == Outcome::Failure {
            progress.fake.fetch_or(1 << n, Ordering::SeqCst);
        }
    }
    progress.at.store(CALLS.len() as u32, Ordering::SeqCst);
    loop {
        // SAFETY: the child's end.
        unsafe { raw(libc::SYS_exit_group, [0; 6]) };
    }
}

/// Where this process, if it should execute another program, has left word that
/// its filters allow everything.
static VOUCHED: AtomicPtr<Vouched> = AtomicPtr::new(std::ptr::null_mut());
struct Vouched {
    pid: u32,
    path: CString,
}

/// After a filter has been read that allows everything, as all before it do:
/// says so to the program that this process may execute. The word is a file's
/// name, since that is all that the new program can ask for without risk.
pub(crate) fn vouch() {
    let Some(config) = tracer::config().filter(|_| super::allows_all()) else { return };
    let Some((pid, path)) = Status::read(STATUS).ok().and_then(|status| word(config, &status)) else {
        return;
    };
    let made =
        File::options().write(true).create_new(true).mode(0o600).open(OsStr::from_bytes(path.to_bytes()));
    if made.is_ok() {
        note(pid, path);
    }
}

fn note(pid: u32, path: CString) {
    VOUCHED.store(Box::into_raw(Box::new(Vouched { pid, path })), Ordering::Release);
}

/// At the process's end.
pub(crate) fn withdraw() {
    // SAFETY: made by `vouch`, and never freed.
    let vouched = unsafe { VOUCHED.load(Ordering::Acquire).as_ref() };
    if let Some(Vouched { pid, path }) = vouched
        && super::allows_all()
        && *pid == std::process::id()
    {
        let _ = std::fs::remove_file(OsStr::from_bytes(path.to_bytes()));
    }
}

/// Whether this process, in its life before it executed this program, has left
/// word about these very filters.
fn vouched(config: Option<&Config>, own: &Status) -> bool {
    let word = config.filter(|_| own.filters > 0).and_then(|config| word(config, own));
    let Some((pid, path)) = word else { return false };
    let vouched = Opened::new(&path).is_ok_and(|file| file.is_own());
    if vouched {
        note(pid, path);
    }
    vouched
}

/// This process's id, and the file that vouches for it with so many filters. The
/// time of its start tells it from others of the same id.
fn word(config: &Config, status: &Status) -> Option<(u32, CString)> {
    let mut text = [0; 1024];
    let text = read_file(c"/proc/self/stat", &mut text).ok()?;
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    let pid = number(text.split(|&b| b == b' ').next()?)?;
    // Behind the name, which may hold anything: the 22nd field of all.
    let behind = text.get(text.iter().rposition(|&b| b == b')')? + 2..)?;
    let start = number(behind.split(|&b| b == b' ').nth(19)?)?;
    // SAFETY: asks the kernel's table for a number.
    let uid = unsafe { libc::getauxval(libc::AT_EUID) } as u32;
    let dir = config.dir.clone().unwrap_or_else(|| default_dir(std::env::var_os("XDG_RUNTIME_DIR"), uid));
    let path = dir.join(vouch_name(pid as u32, start, status.filters));
    Some((pid as u32, CString::new(path.into_os_string().into_vec()).ok()?))
}

/// A file, opened as the loader opens libraries.
struct Opened(u64);

impl Opened {
    fn new(path: &CStr) -> Result<Opened, i32> {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let arguments = [super::AT_CWD, path.as_ptr() as u64, flags as u64, 0, 0, 0];
        // SAFETY: a C string.
        match unsafe { raw(libc::SYS_openat, arguments) } {
            error @ ..0 => Err(-error as i32),
            fd => Ok(Opened(fd as u64)),
        }
    }

    /// As much as there is room for.
    fn read<'a>(&self, to: &'a mut [u8]) -> Result<&'a [u8], i32> {
        let mut len = 0;
        while let Some(rest) = to.get_mut(len..).filter(|rest| !rest.is_empty()) {
            let arguments = [self.0, rest.as_mut_ptr() as u64, rest.len() as u64, 0, 0, 0];
            // SAFETY: the buffer is valid for its length.
            match unsafe { raw(libc::SYS_read, arguments) } {
                error @ ..0 => return Err(-error as i32),
                0 => break,
                read => len += read as usize,
            }
        }
        Ok(to.get(..len).unwrap_or_default())
    }

    /// Whether it is this user's.
    fn is_own(&self) -> bool {
        // SAFETY: all zero is valid.
        let mut file: libc::stat = unsafe { std::mem::zeroed() };
        let (path, to) = (c"".as_ptr() as u64, &raw mut file as u64);
        // SAFETY: `file` is a valid place for the answer.
        let asked =
            unsafe { raw(libc::SYS_newfstatat, [self.0, path, to, libc::AT_EMPTY_PATH as u64, 0, 0]) };
        // SAFETY: asks the kernel's table for a number.
        asked == 0 && u64::from(file.st_uid) == unsafe { libc::getauxval(libc::AT_EUID) }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours.
        unsafe { raw(libc::SYS_close, [self.0, 0, 0, 0, 0, 0]) };
    }
}

fn read_file<'a>(path: &CStr, to: &'a mut [u8]) -> Result<&'a [u8], i32> {
    Opened::new(path)?.read(to)
}

/// A system call past libc, and past whoever stands before it.
///
/// # Safety
/// As the call demands.
unsafe fn raw(number: libc::c_long, arguments: Arguments) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { arch::system_call(number, arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let text = b"Name:\tx\nPPid:\t12\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t3\nSpeculation";
        assert_eq!(Status::parse(text), Status { parent: 12, mode: 2, filters: 3 });
        // Before Linux 5.9.
        assert_eq!(Status::parse(b"PPid:\t1\nSeccomp:\t2\n"), Status { parent: 1, mode: 2, filters: 0 });
        assert!(Status::read(STATUS).is_ok_and(|own| own.parent == std::os::unix::process::parent_id()));
    }

    /// Nothing kills here, and whatever is tried has no effect.
    #[test]
    fn all_calls_are_tried_and_survived() {
        assert_eq!(try_out(), 0);
    }
}
