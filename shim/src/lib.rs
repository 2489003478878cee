//! `libtraceshim.so`: records where C code and a host program meet.
//!
//! The path of an event: an entry in assembly (`arch`: a hook's, an
//! annotation's or a trampoline's) saves the registers and passes the gate,
//! which refuses a thread that is inside already. The handler behind it
//! (`hooks`, `callbacks`, `annotate`) gets a `Recording`, takes the
//! stack (`stack`, over what `modules` knows is loaded) and publishes a
//! record in the ring that `tracer` has made. What a thread needs for that is
//! in its `state`, and for what is large in its `block`. A callback
//! of which nothing is new takes a shortcut (`fast`).
//!
//! Nothing here may stop, slow or change the program that we are loaded into:
//! see `docs/pitfalls.md`.

// A test build has no exported names, which are all that reaches the entries.
#![cfg_attr(test, allow(dead_code))]

mod alloc;
mod annotate;
mod arch;
mod arguments;
mod block;
mod callbacks;
mod clock;
mod decoder;
mod direct;
mod elf;
mod environment;
mod errno;
mod fast;
mod hooks;
mod loader;
mod lock;
mod modules;
mod patch;
mod real;
mod recording;
mod registration;
mod sandbox;
mod say;
mod scope;
mod signals;
mod slots;
mod stack;
mod state;
mod tracer;

/// Runs when the loader has loaded us. Other libraries' constructors may have
/// run before and called our entries; whoever is first starts the tracer.
#[cfg(not(test))]
mod constructor {
    #![allow(unsafe_code)]
    #[ctor::ctor(unsafe)]
    fn construct() {
        crate::tracer::initialise();
    }
}
