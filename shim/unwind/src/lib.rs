//! The capture engine of traceshim: the stack of a thread of its own process,
//! right or cut short with a reason, without an allocation, a lock, a system
//! call or a call into libc.
//!
//! One capture, in order:
//!
//! 1. [`ModuleSet`] (built beforehand) knows what is loaded: for each module the
//!    address range and its `.eh_frame`, found by [`sections_of`].
//! 2. [`Capturer::capture`] starts at [`Regs`] and reads memory only through a
//!    [`StackMemory`].
//! 3. An address that was never met is classified from its call frame
//!    information by gimli (`cfi`), framehop takes the step (`stepper`), and where
//!    both agree the step is kept as eight bytes (`rule`, `rules`). What framehop
//!    can't do (signal frames, expressions, other registers) is evaluated here (`expr`).
//! 4. An address that was met before follows its rule (`walk`, `hot`). Where a
//!    start's function keeps a frame pointer throughout (`frame_pointers`) and
//!    the policy allows it, that is what the walk is called after.
//!    Where it meets the last stack (`splice`), it takes over what is unchanged.
//! 5. [`Outcome`] says how long the stack is and why it ends there.
//! 6. What the walk depended on (`trace`) is kept under a number of the caller's
//!    ([`Capturer::remember`]), so that the same stack is known without a walk
//!    ([`Capturer::lookup`], `memo`, `find`, `compare`).
//!
//! `StackStatus::Complete` is claimed only where the call frame information
//! says that the return address is undefined.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("traceshim unwinds x86-64 only");

mod capture;
mod cfi;
mod compare;
mod expr;
mod find;
mod frame_pointers;
mod hot;
mod learn;
mod machine;
mod memo;
mod memory;
mod module;
mod rule;
mod rules;
mod sections;
mod splice;
mod stepper;
mod trace;
mod walk;

pub use capture::{Capturer, Outcome, Policy};
pub use cfi::Frame;
pub use find::find_remembered;
pub use frame_pointers::FramePointers;
pub use machine::Regs;
pub use memo::Kind;
pub use memory::{StackArray, StackBounds, StackMemory};
pub use module::{Module, ModuleDesc, ModuleSet, Moved, Section};
pub use sections::{UnwindSections, sections_of};
pub use traceshim_ring::stack::{FRAME_EXACT, StackStatus, Unwinder};
