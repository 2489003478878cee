//! What a tracer is made of: the session directory, and a ring in it.
#![allow(unsafe_code)]

use super::{EPOCH, Tracer};
use crate::clock::{TickClock, nanoseconds};
use crate::say;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use traceshim_ring::env::{Config, Overflow};
use traceshim_ring::layout::header;
use traceshim_ring::mapping::{NewRing, RingMap};
use traceshim_ring::session::{check_dir, default_dir, is_of_record};

/// Makes the ring, and the tracer around it; or says why not, and what follows, if
/// nobody has said so before.
pub(super) fn make(
    config: &'static Config,
    what_follows: &str,
    is_first: impl FnOnce() -> bool,
) -> Option<&'static Tracer> {
    let (path, error) = match try_make(config) {
        Ok(tracer) => return Some(tracer),
        Err(refused) => refused,
    };
    // Children that are out of reach of a recording (another user, another root)
    // or outlive it come by the dozen, and whoever started them may read what
    // they say on standard error.
    let out_of_reach = matches!(error.raw_os_error(), Some(libc::EACCES | libc::ENOENT));
    let line = format_args!("{}: {error}; {what_follows}", path.display());
    if out_of_reach && is_of_record(&path) {
        say::info(line)
    } else if is_first() {
        say::error(line)
    }
    None
}

fn try_make(config: &'static Config) -> Result<&'static Tracer, (PathBuf, std::io::Error)> {
    let dir = session_dir(config)?;
    let clock = TickClock::choose();
    let exe = std::env::current_exe().unwrap_or_default();
    let name = exe.file_name().unwrap_or_else(|| "unknown".as_ref());
    let new = NewRing {
        bytes: ring_bytes(config),
        overwrite: config.overflow == Overflow::Overwrite,
        tsc: clock == TickClock::Tsc,
        pid: std::process::id(),
        ppid: std::os::unix::process::parent_id(),
        uuid: random(),
        start_mono_ns: nanoseconds(libc::CLOCK_MONOTONIC),
        start_real_ns: nanoseconds(libc::CLOCK_REALTIME),
        stack_depth: config.stack_depth,
    };
    let map = RingMap::create(&dir, name.as_bytes(), &new).map_err(|error| (dir.clone(), error))?;
    let ring = map.ring_static().ok_or_else(|| (dir, std::io::ErrorKind::InvalidData.into()))?;
    let epoch = EPOCH.fetch_add(1, Ordering::AcqRel) + 1;
    let tracer = Box::leak(Box::new(Tracer {
        ring,
        config,
        clock,
        epoch,
        pid: new.pid,
        stack_depth: config.stack_depth,
        unwinder: config.unwinder,
        map,
        recorded: AtomicBool::new(false),
        ended: AtomicBool::new(false),
    }));
    tracer.sync(0);
    let exe = ring.string(exe.as_os_str().as_bytes());
    tracer.set(header::EXE, u64::from(exe));
    Ok(tracer)
}

/// Less than this is little memory for a process.
pub(super) const LITTLE_MEMORY: u64 = 256 << 20;

/// How much memory the process may have.
pub(super) fn memory_limit() -> u64 {
    let ask = |resource| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid place for the result.
        let asked = unsafe { libc::getrlimit(resource, &raw mut limit) };
        if asked == 0 { limit.rlim_cur } else { libc::RLIM_INFINITY }
    };
    ask(libc::RLIMIT_AS).min(ask(libc::RLIMIT_DATA))
}

/// The size of the ring: as the user says, or else a small part of what the
/// process may have.
fn ring_bytes(config: &Config) -> u64 {
    let is_default = config.ring_bytes == Config::default().ring_bytes;
    if is_default { config.ring_bytes.min(memory_limit() / 16) } else { config.ring_bytes }
}

/// What tells this ring from all others.
fn random() -> [u64; 2] {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    if got == bytes.len() as isize {
        let value = u128::from_le_bytes(bytes);
        return [value as u64, (value >> 64) as u64];
    }
    // Where the kernel gives no more, what it gave the program at its start; the
    // rest tells it from its forked children.
    // SAFETY: asks the kernel's table for the address of 16 random bytes.
    let at_start = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const u64;
    // SAFETY: on the initial stack, which stays.
    let word = |n| if at_start.is_null() { 0 } else { unsafe { at_start.wrapping_add(n).read_unaligned() } };
    [word(0) ^ nanoseconds(libc::CLOCK_MONOTONIC), word(1) ^ u64::from(std::process::id())]
}

/// The session directory, made where it isn't there yet.
fn session_dir(config: &Config) -> Result<PathBuf, (PathBuf, std::io::Error)> {
    // SAFETY: always succeeds.
    let uid = unsafe { libc::geteuid() };
    let (dir, is_named) = match &config.dir {
        Some(dir) => (dir.clone(), true),
        None => (default_dir(std::env::var_os("XDG_RUNTIME_DIR"), uid), false),
    };
    let make = || {
        if is_of_record(&dir) {
            // It was there before us, or the recording is over.
            return Ok(());
        }
        if is_named && let Some(parent) = dir.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&dir) {
            // Whatever the umask took away.
            Ok(()) => std::fs::set_permissions(&dir, Permissions::from_mode(0o700)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    };
    match make().and_then(|()| check_dir(&dir, is_named, uid)) {
        Ok(()) => Ok(dir),
        Err(error) => Err((dir, error)),
    }
}
