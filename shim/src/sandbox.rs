//! Which system calls the tracer may make: all of them, unless a seccomp filter
//! might kill for one. The one place that decides; whoever is about to make a
//! call on the tracer's behalf asks [`allows`] first, and leaves undone what
//! isn't allowed.
//!
//! A filter that is installed through libc is read, and what it does with each
//! call is worked out ([`filter`]). Of one that was there before the program
//! began nothing can be read: its calls are tried out ([`trial`]).
#![allow(unsafe_code)]

mod filter;
mod trial;

pub(crate) use trial::{begin, vouch, withdraw};

use crate::arch;
use crate::clock::TickClock;
use crate::errno::{self, KeepErrno};
use crate::tracer;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Arguments with which a call does nothing.
type Arguments = [u64; 6];
/// An address and a length that no call takes.
const ODD: Arguments = [1, 0, 0, 0, 0, 0];
const NULL: Arguments = [0; 6];
const NO_FILE: Arguments = [u64::MAX, 0, 0, 0, 0, 0];

/// What comes of a call with these arguments, wherever it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It fails; one that seems to succeed isn't made at all.
    Failure,
    /// It succeeds, as the call does with all arguments.
    Success,
    /// It may fail for reasons of its own.
    Either,
}
use Outcome::{Either, Failure, Success};

#[derive(Debug)]
struct Trial {
    number: libc::c_long,
    arguments: Arguments,
    outcome: Outcome,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:ident, $arguments:expr, $outcome:expr;)*) => {
        /// A system call that the tracer makes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Call { $($(#[$doc])* $name,)* }

        /// All of them, with how they are tried out.
        const CALLS: &[Trial] =
            &[$(Trial { number: libc::$number, arguments: $arguments, outcome: $outcome },)*];
    };
}
calls! {
    /// In the trial of a filter alone, whose children are waited for.
    Wait4 = SYS_wait4, [u64::MAX, 0, (libc::WNOHANG | libc::__WALL) as u64, 0, 0, 0], Failure;
    // A shared file that isn't there.
    Mmap = SYS_mmap, [0, 4096, 3, 1, u64::MAX, 0], Failure;
    /// Whether memory can be read.
    RtSigprocmask = SYS_rt_sigprocmask, [u64::MAX, 1, 0, 8, 0, 0], Failure;
    Munmap = SYS_munmap, ODD, Failure;
    Munlock = SYS_munlock, ODD, Either;
    Mprotect = SYS_mprotect, ODD, Failure;
    Madvise = SYS_madvise, ODD, Failure;
    // All that the tracer asks for, but no path.
    Openat = SYS_openat, [AT_CWD, 0, RING_FLAGS as u64, 0o600, 0, 0], Failure;
    Read = SYS_read, NO_FILE, Failure;
    Pread = SYS_pread64, NO_FILE, Failure;
    Pwrite = SYS_pwrite64, NO_FILE, Failure;
    Close = SYS_close, NO_FILE, Failure;
    Statx = SYS_statx, NO_FILE, Failure;
    Newfstatat = SYS_newfstatat, NO_FILE, Failure;
    Fstat = SYS_fstat, NO_FILE, Failure;
    Fstatfs = SYS_fstatfs, NO_FILE, Failure;
    Readlink = SYS_readlink, NULL, Failure;
    Getcwd = SYS_getcwd, NULL, Failure;
    Getdents = SYS_getdents64, NO_FILE, Failure;
    Mkdir = SYS_mkdir, NULL, Failure;
    Chmod = SYS_chmod, NULL, Failure;
    Fchmod = SYS_fchmod, NO_FILE, Failure;
    Fallocate = SYS_fallocate, NO_FILE, Failure;
    Ftruncate = SYS_ftruncate, NO_FILE, Failure;
    Unlink = SYS_unlink, NULL, Failure;
    Getpid = SYS_getpid, NULL, Success;
    Getppid = SYS_getppid, NULL, Success;
    Gettid = SYS_gettid, NULL, Success;
    Geteuid = SYS_geteuid, NULL, Success;
    Getrandom = SYS_getrandom, [0, 0, libc::GRND_NONBLOCK as u64, 0, 0, 0], Either;
    Prlimit = SYS_prlimit64, [0, libc::RLIMIT_FSIZE as u64, 0, 0, 0, 0], Either;
    Prctl = SYS_prctl, [libc::PR_GET_NAME as u64, 0, 0, 0, 0, 0], Failure;
    Futex = SYS_futex, [1, (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u64, 0, 0, 0, 0], Failure;
    SchedYield = SYS_sched_yield, NULL, Either;
    Sigaltstack = SYS_sigaltstack, NULL, Either;
    ProcessVmReadv = SYS_process_vm_readv, NULL, Either;
    ClockGettime = SYS_clock_gettime, ODD, Failure; // of one that there is
    Poll = SYS_poll, NULL, Either;
    Write = SYS_write, NO_FILE, Failure;
    /// In the trial of a filter alone. Without CLONE_VM this is refused.
    Clone = SYS_clone, [libc::CLONE_SIGHAND as u64, 0, 0, 0, 0, 0], Failure;
    /// Libc's way to make threads, not ours.
    Clone3 = SYS_clone3, NULL, Failure;
}

const RING_FLAGS: i32 = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
const AT_CWD: u64 = libc::AT_FDCWD as i64 as u64;

use Call::*;

/// What making a ring takes.
pub(crate) const RING: &[Call] = &[
    Geteuid, Mkdir, Chmod, Statx, Openat, Read, Pread, Pwrite, Close, Readlink, Getpid, Getppid, Getrandom,
    Fchmod, Fstatfs, Prlimit, Ftruncate, Fallocate, Madvise, Mmap, Munmap, Unlink,
];
/// What looking at newly loaded modules takes, and hooking them.
pub(crate) const MODULES: &[Call] =
    &[Mmap, Munmap, Mprotect, Openat, Read, Pread, Pwrite, Close, Statx, Readlink, Getcwd, Getdents];
/// What a ring's end takes.
pub(crate) const END: &[Call] = &[Getpid, Mmap, Openat, Statx, Ftruncate, Unlink, Close];
/// What a line on standard error takes.
pub(crate) const LINE: &[Call] = &[Newfstatat, Fstat, Poll, Write];
/// What reading a file of the kernel's takes.
pub(crate) const READ: &[Call] = &[Openat, Read, Statx, Close];

/// How many filters might kill for each call.
pub(crate) static FORBIDDEN: [AtomicU32; CALLS.len()] = [const { AtomicU32::new(0) }; CALLS.len()];

/// Whether all of these calls may be made.
#[inline]
pub(crate) fn allows(calls: &[Call]) -> bool {
    calls.iter().all(|&call| FORBIDDEN.get(call as usize).is_some_and(|n| n.load(Ordering::Relaxed) == 0))
}

/// Whether any call may be made.
pub(crate) fn allows_all() -> bool {
    FORBIDDEN.iter().all(|n| n.load(Ordering::Relaxed) == 0)
}

/// A set of calls: bit n is for the nth of [`CALLS`].
type Set = u64;
const ALL: Set = (1 << CALLS.len()) - 1;
const _: () = assert!(CALLS.len() < Set::BITS as usize);

/// The calls in it.
fn indices(set: Set) -> impl Iterator<Item = usize> {
    (0..CALLS.len()).filter(move |n| set >> n & 1 != 0)
}

fn forbid(set: Set) {
    indices(set).filter_map(|n| FORBIDDEN.get(n)).for_each(|count| {
        count.fetch_add(1, Ordering::AcqRel);
    });
}

fn permit(set: Set) {
    indices(set).filter_map(|n| FORBIDDEN.get(n)).for_each(|count| {
        count.fetch_sub(1, Ordering::AcqRel);
    });
}

/// Before a call that enters a sandbox, in which `program` (a `sock_fprog`'s
/// address) is what filters. What is returned is for [`entered`]; nothing, where the
/// call is refused anyway.
pub(crate) fn enter(mode: u64, program: u64) -> Option<Set> {
    let is_strict = match u32::try_from(mode) {
        // It takes the time-stamp counter away, too.
        Ok(libc::SECCOMP_MODE_STRICT) => true,
        Ok(libc::SECCOMP_MODE_FILTER) if program != 0 => false,
        _ => return None,
    };
    // A child of vfork has a sandbox of its own, and our memory.
    if is_vforked() {
        return None;
    }
    let set = if is_strict { ALL } else { read(program).map_or(ALL, |program| forbidden_by(&program)) };
    let asks_kernel = tracer::current().is_some_and(|tracer| tracer.clock == TickClock::Monotonic);
    if is_strict || asks_kernel && has(set, ClockGettime) {
        no_clock();
    }
    let stays_single = has(set, Clone) && has(set, Clone3);
    if has(set, Mmap) && allows(&[Mmap]) && !stays_single {
        arch::make_spare_blocks(SPARE_BLOCKS);
    }
    if let Some(tracer) = tracer::current().filter(|_| has(set, Madvise) && allows(&[Madvise])) {
        tracer.reserve_all();
    }
    forbid(set);
    Some(set)
}

/// How many more threads are recorded where no memory can be mapped for them.
const SPARE_BLOCKS: usize = 8;

/// After the call.
pub(crate) fn entered(set: Set, succeeded: bool) {
    if !succeeded {
        permit(set);
    } else {
        vouch();
    }
}

/// Before it is deadly to ask for the time.
pub(crate) fn no_clock() {
    tracer::disable(format_args!("the program forbids itself to read clocks"));
}

/// Before the program is sent a signal for system calls that aren't of code that it
/// names (`PR_SET_SYSCALL_USER_DISPATCH`): ours are not.
pub(crate) fn all_dispatched() {
    tracer::disable(format_args!("the program handles system calls itself"));
    forbid(Set::MAX);
}

fn has(set: Set, call: Call) -> bool {
    set >> call as usize & 1 != 0
}

fn forbidden_by(program: &[libc::sock_filter]) -> Set {
    let may_harm = |call: &Trial| filter::may_harm(program, call.number as u32, call.outcome != Success);
    (0..).zip(CALLS).filter(|(_, call)| may_harm(call)).fold(0, |set, (n, _)| set | 1 << n)
}

fn is_vforked() -> bool {
    // SAFETY: always succeeds.
    let pid = || unsafe { libc::getpid() } as u32;
    allows(&[Getpid]) && !tracer::forked() && tracer::current().is_some_and(|tracer| tracer.pid != pid())
}

/// The filter as the program has it, wherever it says that it is.
fn read(program: u64) -> Option<Vec<libc::sock_filter>> {
    let mut header = [0u64; 2];
    copy_own(program, &mut header).then_some(())?;
    let mut filter = vec![0u64; usize::from(header[0] as u16)];
    copy_own(header[1], &mut filter).then_some(())?;
    let instruction = |word: &u64| libc::sock_filter {
        code: *word as u16,
        jt: (word >> 16) as u8,
        jf: (word >> 24) as u8,
        k: (word >> 32) as u32,
    };
    Some(filter.iter().map(instruction).collect())
}

/// A path of the program's, if all of it is mapped: what it hands to the kernel may
/// be any address, and that would be an error there.
///
/// # Safety
/// Where the kernel doesn't say, the program must be right.
pub(crate) unsafe fn path_at(from: u64) -> Option<Vec<u8>> {
    const LIMIT: usize = libc::PATH_MAX as usize;
    const PAGE: usize = 4096;
    let _errno = KeepErrno::new();
    // SAFETY: the caller's promise.
    let trusted = || unsafe { CStr::from_ptr(from as *const libc::c_char) }.to_bytes().to_vec();
    if !allows(&[Getpid, ProcessVmReadv]) {
        return (from != 0).then(trusted);
    }
    let mut found = Vec::new();
    while found.len() < LIMIT {
        let at = from.checked_add(found.len() as u64)?;
        let mut page = [0u8; PAGE];
        let bytes = PAGE - at as usize % PAGE;
        if !read_own(at, page.get_mut(..bytes)?) {
            return (from != 0 && errno::get() != libc::EFAULT).then(trusted);
        }
        let page = page.get(..bytes)?;
        match page.iter().position(|&b| b == 0) {
            Some(end) => {
                found.extend_from_slice(page.get(..end)?);
                return Some(found);
            }
            None => found.extend_from_slice(page),
        }
    }
    None
}

/// Copies words of this process's memory, if all of them are mapped.
fn copy_own(from: u64, to: &mut [u64]) -> bool {
    if !allows(&[Getpid, ProcessVmReadv]) {
        return false;
    }
    // SAFETY: words are bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), size_of_val(to)) };
    read_own(from, bytes)
}

/// The same for bytes, where that is allowed. Where it isn't, errno says why.
fn read_own(from: u64, to: &mut [u8]) -> bool {
    let bytes = to.len();
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: bytes };
    let remote = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: bytes };
    // SAFETY: always succeeds.
    let pid = unsafe { libc::getpid() };
    // SAFETY: the local buffer is ours for its length; the other side is
    // checked by the kernel.
    let copied = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(copied).is_ok_and(|copied| copied == bytes)
}
