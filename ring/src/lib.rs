//! The bytes that the shim and the collector agree on.
//!
//! The path of an event through this crate: [`ring`] finds room in a chunk, which
//! it has from `claim`, and publishes a [`record`]; stacks, names and modules that
//! it refers to are interned in a [`table`]; what finds no room is counted in the
//! `ledger`. [`mapping`] makes the file that all of it lies in, and `room` says
//! how much of it may be touched. In the collector's process [`file`](mod@file)
//! and [`drain`] copy it out, [`read`] makes sense of the tables, and [`clock`]
//! turns ticks into nanoseconds.
//!
//! [`env`](mod@env) and [`session`] hold what both sides must call alike: the
//! environment variables and the names of files; [`choice`], what is traced of a
//! program. The bytes are defined in [`layout`] and `docs/ring-format.md`.
//!
//! Atomics come from one module that switches to loom's, so that the protocol
//! itself, which contains no unsafe code, is what the model checker runs.

#[cfg(not(loom))]
pub mod choice;
mod claim;
pub mod clock;
#[cfg(not(loom))]
pub mod drain;
#[cfg(not(loom))]
pub mod env;
#[cfg(not(loom))]
pub mod file;
pub mod glob;
#[cfg(not(loom))]
pub mod guard;
pub mod layout;
mod ledger;
#[cfg(not(loom))]
pub mod mapping;
pub mod read;
pub mod record;
pub mod ring;
#[cfg(not(loom))]
mod room;
#[cfg(not(loom))]
pub mod session;
pub mod stack;
pub mod stamp;
pub mod sync;
pub mod table;
