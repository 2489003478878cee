//! Function pointers that are handed over at run time: `TRACESHIM_CALLBACK_ARGS`
//! names the functions that take one, and which argument it is.
//!
//! A registrar stands in the slots of whoever imports such a function, the host
//! included, and answers lookups of its name. It hands on a trampoline in the
//! pointer's place: for one pointer always the same, so that the two sides can
//! still compare what they were given.
#![allow(unsafe_code)]

use crate::arch::{self, Context, REGISTRARS};
use crate::callbacks;
use crate::modules;
use crate::recording::inside;
use crate::say;
use crate::state::ThreadState;
use crate::tracer::Tracer;
use parking_lot::Mutex;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// The function that each registrar stands before.
static TAKERS: Mutex<Vec<u64>> = Mutex::new(Vec::new());
/// Which argument, from 0, is the pointer.
static ARGUMENTS: [AtomicU8; REGISTRARS] = [const { AtomicU8::new(0) }; REGISTRARS];

/// Small numbers stand for something else (`SIG_IGN`, `SQLITE_TRANSIENT`), and
/// so do the largest: nothing is mapped there.
const LOWEST: u64 = 64 << 10;
const HIGHEST: u64 = 1 << 47;

/// Which argument of the function `name` is a callback, counted from 0.
pub(crate) fn argument_of(tracer: &Tracer, name: &CStr) -> Option<u8> {
    let named = tracer.config.callback_args.iter().find(|(function, _)| function == name.to_bytes())?;
    named.1.checked_sub(1)
}

/// The registrar before the function at `target`; the same one each time.
pub(crate) fn registrar(target: u64, argument: u8) -> Option<u64> {
    let mut takers = TAKERS.lock();
    let n = takers.iter().position(|&taker| taker == target).unwrap_or(takers.len());
    let Some(place) = ARGUMENTS.get(n) else {
        say::error(format_args!(
            "more than {REGISTRARS} functions take callbacks; the others are not traced"
        ));
        return None;
    };
    place.store(argument, Ordering::Release);
    if n == takers.len() {
        takers.push(target);
    }
    arch::registrar(n, target)
}

/// A function that takes a callback was called.
pub(crate) unsafe extern "C-unwind" fn on_register(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the registrar's own context.
    let context = unsafe { &mut *context };
    let argument = ARGUMENTS.get(context.id as usize).map_or(0, |n| n.load(Ordering::Acquire));
    let Some(pointer) = context.args.get_mut(usize::from(argument)) else { return };
    if !is_function(*pointer) {
        return;
    }
    // SAFETY: called by the gate.
    unsafe {
        inside(thread, |recording| {
            // Without a name: the collector finds it from the address.
            if let Some(stub) = callbacks::trampoline(recording.tracer, *pointer, b"") {
                *pointer = stub;
            }
        });
    }
}

/// Whether a value can be called: in a module it must be code; what is in none
/// may be a closure made at run time.
fn is_function(value: u64) -> bool {
    if !(LOWEST..HIGHEST).contains(&value) || arch::is_stub(value) {
        return false;
    }
    let registry = modules::registry();
    registry.find(value).is_none_or(|module| module.code.iter().any(|code| code.contains(&value)))
}

/// Before a fork: nobody else is half-way through a change.
pub(crate) fn lock_for_fork() {
    std::mem::forget(TAKERS.lock());
}

/// After a fork, in both processes.
///
/// # Safety
/// Called where [`lock_for_fork`] was, or in the only thread of a child.
pub(crate) unsafe fn unlock_after_fork() {
    if TAKERS.is_locked() {
        // SAFETY: the caller's promise.
        unsafe { TAKERS.force_unlock() };
    }
}
