//! Running a command with the shim, and taking what it records.

mod drainer;
mod session;
mod shim;
mod verdict;

pub(crate) use drainer::{Counts, Drainer};
pub(crate) use session::SessionDir;
pub(crate) use shim::{find, preload};
#[cfg(any(fuzzing, test))]
pub(crate) use verdict::inspect_file;
pub(crate) use verdict::{Program, why_untraced};
