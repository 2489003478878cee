//! Modules that come and go.
#![allow(unsafe_code)]

use crate::arch::{self, AROUND, Context, INSTEAD, around_entry};
use crate::callbacks;
use crate::errno::KeepErrno;
use crate::modules::{self, Kind};
use crate::recording::inside;
use crate::state::ThreadState;
use crate::tracer;
use std::ffi::CStr;

around_entry! {
    /// `dlopen`: what is opened is hooked before the caller gets it.
    dlopen, crate::real::DLOPEN, before_dlopen, after_change
}
around_entry! {
    /// `dlclose`: what is gone is forgotten before anything takes its place.
    dlclose, crate::real::DLCLOSE, super::threads::before_always, after_change
}

around_entry! {
    /// `dlsym`: a host function that C code looks up is a callback, too; and
    /// whoever looks up what we stand before gets us.
    dlsym, crate::real::DLSYM, before_dlsym, super::process::never
}

unsafe extern "C-unwind" fn before_dlsym(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    let [handle, name, ..] = context.args;
    if name == 0 || context.caller().ip == 0 {
        return;
    }
    // SAFETY: the program passes it to `dlsym`.
    let name = unsafe { CStr::from_ptr(name as *const libc::c_char) };
    if let Some(ours) = crate::real::stands_before(name) {
        // A library that asks for what comes after it, past us. Where another
        // interposer does, and we are in front of it, it must not find us.
        if handle == libc::RTLD_NEXT as u64 && modules::is_libc(ours.real) {
            (context.result, context.live) = (ours.entry, INSTEAD);
        }
        return;
    }
    let asks = modules::kind_of(context.caller().ip.wrapping_sub(1));
    let registers = tracer::current().is_some_and(|t| crate::registration::arguments_of(t, name).is_some());
    if handle == libc::RTLD_NEXT as u64 || !(registers || matches!(asks, Kind::CSide | Kind::Forwarder)) {
        return;
    }
    // A search in a handle doesn't depend on who asks; the default one begins
    // with the executable, whoever asks.
    let by_handle = handle != libc::RTLD_DEFAULT as u64;
    let found = if by_handle { crate::real::dlsym(handle as *mut libc::c_void, name) } else { 0 };
    if by_handle && found == 0 {
        // Not there: the program gets to hear it from libc itself.
        return;
    }
    // SAFETY: called by the gate.
    unsafe {
        inside(thread, |recording| {
            if let Some(stub) = callbacks::trampoline_for_lookup(recording.tracer, name, found) {
                (context.result, context.live) = (stub, INSTEAD);
            }
        });
    }
}

/// libc's `dlopen` looks at its caller: for the directories that the caller's
/// module names, and for its namespace. Where that may matter the call passes
/// on as if we weren't there, and the library is found at the next chance.
unsafe extern "C-unwind" fn before_dlopen(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    if tracer::current().is_none() || context.args[0] == 0 {
        return;
    }
    // SAFETY: the program passes it to `dlopen`.
    let path = unsafe { CStr::from_ptr(context.args[0] as *const libc::c_char) }.to_bytes();
    if path.is_empty() || path.contains(&b'$') {
        return;
    }
    let caller = context.caller().ip.wrapping_sub(1);
    let by_path = path.contains(&b'/');
    if by_path || !caller_matters(caller) {
        context.live = AROUND;
    }
}

/// Whether a search for a bare name depends on the module that asks: it does
/// where that one names directories, or where any but the executable has the
/// kind that is inherited by what it loads.
fn caller_matters(caller: u64) -> bool {
    let registry = modules::registry();
    let asks = registry.find(caller);
    let own = asks.and_then(|module| module.dynamic).is_none_or(|dynamic| dynamic.has_runpath);
    own || registry.modules.iter().skip(1).any(|module| module.dynamic.is_some_and(|d| d.has_rpath))
}

/// Every module that is linked with the C runtime's `crti.o` begins its `_init`
/// with a call of this function, where somebody defines it: a hook for profilers.
/// The loader calls that `_init` before any constructor of the module, and when
/// everything that came with the module is mapped and relocated. So this is where
/// callbacks from constructors are still to come, whoever called `dlopen`, and
/// from whatever place.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) extern "C" fn __gmon_start__() {
    // At the start nothing is new: the constructor of ours looks at everything.
    if tracer::current().is_some() {
        let _errno = KeepErrno::new();
        arch::on_this_thread(after_change, 0);
    }
}

unsafe extern "C-unwind" fn after_change(_: *mut Context, thread: *mut ThreadState) {
    // SAFETY: called by the gate.
    unsafe { inside(thread, |recording| callbacks::refresh(recording.tracer, Some(recording))) }
}
