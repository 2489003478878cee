//! The collector: drains what libtraceshim.so recorded, symbolizes it and
//! shows it.
//!
//! The path of an event through this program: `launch` runs a command and
//! drains its rings into a `trace`; `input` opens rings and traces as one
//! thing; `model` finds threads and events in them; `resolve` and `symbols`
//! name stacks; `show` prints. `cli` holds a file for each command.
//!
//! `doctor` says of a program that doesn't run yet what would be traced;
//! `presets` knows which functions of common libraries take callbacks.
//!
//! A library, so that a fuzzer can reach what a program can't be asked for.

#![deny(unsafe_code)]

mod cli;
mod doctor;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod histogram;
mod input;
mod launch;
mod model;
mod presets;
mod resolve;
mod show;
mod stats;
mod symbols;
mod trace;

pub use cli::run;
