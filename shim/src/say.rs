//! What the shim says on standard error: one line each, through no buffer.
#![allow(unsafe_code)]

use crate::errno::KeepErrno;
use crate::sandbox;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use traceshim_ring::env::LogLevel;

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Error as u8);
/// Device and inode of standard error at the start: a program that closes it
/// gets its number for another file, which no line of ours may end in.
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);

/// Sets what is said.
pub(crate) fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// At the start: where lines go to.
pub(crate) fn find_stderr() {
    let (device, inode) = stderr().unwrap_or((0, 0));
    DEVICE.store(device, Ordering::Relaxed);
    INODE.store(inode, Ordering::Relaxed);
}

/// What file it is now.
fn stderr() -> Option<(u64, u64)> {
    // SAFETY: all zero is valid.
    let mut file: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `file` is a valid place for the answer.
    let asked = unsafe { libc::fstat(2, &raw mut file) };
    (asked == 0).then_some((file.st_dev, file.st_ino))
}

/// Whether a line would get through now, without waiting and without a signal
/// that a pipe has no reader.
fn is_writable() -> bool {
    let mut poll = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid descriptor; no time to wait.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents == libc::POLLOUT
}

struct Line {
    bytes: [u8; 1024],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            // What is said names files and values of others: no control
            // characters get through.
            let mut utf8 = [0; 4];
            let part = if c.is_control() { "?" } else { c.encode_utf8(&mut utf8) }.as_bytes();
            // The last place is the line's end.
            let (from, to) = (self.len, self.len + part.len());
            if to < self.bytes.len()
                && let Some(place) = self.bytes.get_mut(from..to)
            {
                place.copy_from_slice(part);
                self.len = to;
            }
        }
        Ok(())
    }
}

fn say(level: LogLevel, text: fmt::Arguments<'_>) {
    if LEVEL.load(Ordering::Relaxed) < level as u8 || !sandbox::allows(sandbox::LINE) {
        return;
    }
    let _errno = KeepErrno::new();
    let known = (DEVICE.load(Ordering::Relaxed), INODE.load(Ordering::Relaxed));
    if stderr() != Some(known) || !is_writable() {
        return;
    }
    let mut line = Line { bytes: [0; 1024], len: 0 };
    let _ = write!(line, "traceshim: {text}");
    if let Some(end) = line.bytes.get_mut(line.len) {
        *end = b'\n';
    }
    // SAFETY: the buffer is valid for that many bytes. One write, so that the
    // line isn't torn; a closed descriptor is nobody's concern.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len + 1) };
}

/// Why there is no tracing, or not all of it.
pub(crate) fn error(text: fmt::Arguments<'_>) {
    say(LogLevel::Error, text);
}

/// What the shim does.
pub(crate) fn info(text: fmt::Arguments<'_>) {
    say(LogLevel::Info, text);
}
