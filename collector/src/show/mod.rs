//! What people and programs see.

pub(crate) mod escape;

use std::fmt::Arguments;
use std::io::Write;

/// Says something on standard error. A standard error that is gone is no
/// reason to stop.
pub(crate) fn say(message: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "collector: {message}");
}
