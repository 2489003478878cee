//! The functions that stand before libc's, by what they are about. A hook
//! knows threads, modules and processes; how events get into the ring it
//! leaves to [`crate::recording`].

pub(crate) mod dl;
pub(crate) mod leaving;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod sandbox;
pub(crate) mod threads;
