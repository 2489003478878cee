//! Running a command with the shim, and taking what it records.

mod drainer;
mod pipe_signal;
mod session;
mod shim;

pub(crate) use drainer::{Counts, Drainer};
pub(crate) use pipe_signal::inherit as inherit_pipe_signal;
pub(crate) use session::{SessionDir, parent};
pub(crate) use shim::{SANITIZER_OPTIONS, find, preload, sanitizer_options};
