//! The bytes that the shim and the collector agree on.

pub mod stack;
