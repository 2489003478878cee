//! What people and programs see.
//!
//! [`fields`] says what each kind of event carries; a [`Printer`] gives it a
//! form. Everything that comes from the traced program goes through
//! [`escape`].

pub(crate) mod escape;
pub(crate) mod fields;
mod json;
pub(crate) mod names;
pub(crate) mod stacks;
mod text;
pub(crate) mod time;

use std::fmt::Arguments;
use std::io::Write;

use crate::model::{Event, Process};
pub(crate) use json::{JsonPrinter, list, object};
use names::Names;
use stacks::StackCache;
pub(crate) use text::TextPrinter;

/// A form in which events are printed.
pub(crate) trait Printer {
    /// Prints one event of `process`.
    fn event(
        &mut self,
        out: &mut dyn Write,
        names: &mut Names<'_>,
        process: &Process,
        event: &Event,
    ) -> std::io::Result<()>;

    /// The stacks that were printed.
    fn stacks(&self) -> &StackCache;
}

/// Says something on standard error. A standard error that is gone is no
/// reason to stop. Paths and names may hold anything.
pub(crate) fn say(message: Arguments<'_>) {
    let message = escape::text_string(message.to_string().as_bytes());
    if cfg!(any(fuzzing, test)) {
        // Captured by the test, and of no interest to a fuzzer.
        eprintln!("collector: {message}");
        return;
    }
    let _ = writeln!(std::io::stderr().lock(), "collector: {message}");
}

static DAMAGED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Says what is wrong with an input, of which something is
/// missing then.
pub(crate) fn say_damaged(what: std::fmt::Arguments<'_>) {
    DAMAGED.store(true, std::sync::atomic::Ordering::Relaxed);
    say(what);
}

/// Whether there was any.
pub(crate) fn is_damaged() -> bool {
    DAMAGED.load(std::sync::atomic::Ordering::Relaxed)
}
