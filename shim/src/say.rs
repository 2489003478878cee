//! What the shim says on standard error: one line each, through no buffer.
#![allow(unsafe_code)]

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use traceshim_ring::env::LogLevel;

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Error as u8);

/// Sets what is said.
pub(crate) fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
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
    if LEVEL.load(Ordering::Relaxed) < level as u8 {
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
