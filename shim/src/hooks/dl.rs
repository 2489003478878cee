//! Modules that come and go, and names that are looked up in them.
//!
//! libc's functions look at their caller: for the directories that its module
//! names, for its namespace, for what comes next. So where the caller may matter
//! the call passes on as if we weren't there.
#![allow(unsafe_code)]

use crate::arch::{self, AROUND, Context, INSTEAD, around_entry, caller_entry};
use crate::callbacks::{self, Ready};
use crate::elf::{Version, Wanted};
use crate::modules::{self, Kind};
use crate::recording::inside;
use crate::state::ThreadState;
use crate::tracer;
use crate::{real, registration, say, scope};
use std::ffi::CStr;

around_entry! {
    /// `dlopen`: what is opened is hooked before the caller gets it.
    dlopen, crate::real::DLOPEN, before_dlopen, after_dlopen
}
around_entry! {
    /// `dlclose`: what is gone is forgotten before anything takes its place.
    dlclose, crate::real::DLCLOSE, super::threads::before_always, after_dlclose
}
around_entry! {
    /// `dlmopen`: what is in another namespace has a libc of its own, past us.
    dlmopen, crate::real::DLMOPEN, before_dlmopen, super::process::never
}
around_entry! {
    /// `dlsym`: a host function that C code looks up is a callback, too; and
    /// whoever looks up what we stand before gets us.
    dlsym, crate::real::DLSYM, before_dlsym, super::process::never
}
around_entry! {
    /// `dlvsym`: the same with a version.
    dlvsym, crate::real::DLVSYM, before_dlvsym, super::process::never
}
around_entry! {
    /// `dladdr`: a trampoline is shown as the function that it stands for.
    dladdr, crate::real::DLADDR, before_dladdr, super::process::never
}
around_entry! {
    /// `dladdr1`: the same.
    dladdr1, crate::real::DLADDR1, before_dladdr, super::process::never
}
caller_entry! {
    /// Every module that is linked with the C runtime's `crti.o` begins its
    /// `_init` with a call of this function, where somebody defines it: a hook
    /// for profilers. The loader runs that `_init` before any constructor of the
    /// module, and when all that came with it is mapped and relocated. So this is
    /// where callbacks from constructors are still to come, whoever opened the
    /// library, and from whatever place.
    __gmon_start__ => on_initialiser
}

unsafe extern "C" fn on_initialiser(caller: u64) {
    // What the program began with is hooked already, and is initialised without
    // the loader's lock: another thread may be in the middle of opening something.
    if tracer::current().is_some() && !modules::is_from_start(caller) {
        arch::on_this_thread(after_relocation, 0);
    }
}

unsafe extern "C-unwind" fn after_relocation(_: *mut Context, thread: *mut ThreadState) {
    refresh(thread, Ready::All);
}

unsafe extern "C-unwind" fn after_dlopen(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let handle = unsafe { (*context).result };
    if handle != 0 {
        refresh(thread, Ready::Opened(dynamic_of(handle)));
    }
}

unsafe extern "C-unwind" fn after_dlclose(_: *mut Context, thread: *mut ThreadState) {
    refresh(thread, Ready::Known);
}

fn refresh(thread: *mut ThreadState, ready: Ready) {
    // SAFETY: the callers are called by the gate.
    unsafe { inside(thread, |recording| callbacks::refresh(recording.tracer, Some(recording), ready)) }
}

/// The part of the loader's `struct link_map` that is public; a handle is one.
#[repr(C)]
struct LinkMap {
    addr: u64,
    name: *const libc::c_char,
    dynamic: u64,
}

/// Where the dynamic section of an open library is.
fn dynamic_of(handle: u64) -> u64 {
    // SAFETY: `dlopen` returned it to the program, which has not closed it.
    unsafe { (*(handle as *const LinkMap)).dynamic }
}

/// Where the library that is opened may depend on who asks, this passes on, and
/// the library is hooked by [`__gmon_start__`] or at the next chance.
unsafe extern "C-unwind" fn before_dlopen(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    let [path, flags, ..] = context.args;
    scope::note_flags(flags as i32);
    if tracer::current().is_none() || path == 0 {
        return;
    }
    // SAFETY: the program passes it to `dlopen`.
    let path = unsafe { CStr::from_ptr(path as *const libc::c_char) }.to_bytes();
    if path.is_empty() || path.contains(&b'$') {
        return;
    }
    let caller = context.caller().ip.wrapping_sub(1);
    if path.contains(&b'/') || !caller_matters(caller) {
        context.live = AROUND;
    }
}

/// Whether a search for a bare name depends on the module that asks: it does
/// where that one says where to search, or where any but the executable names
/// directories of the kind that is inherited by what it loads.
fn caller_matters(caller: u64) -> bool {
    let registry = modules::registry();
    let asks = registry.find(caller).and_then(|module| module.dynamic);
    asks.is_none_or(|dynamic| dynamic.has_runpath || dynamic.skips_defaults)
        || registry.modules.iter().skip(1).any(|module| module.dynamic.is_some_and(|d| d.has_rpath))
}

unsafe extern "C-unwind" fn before_dlmopen(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let [namespace, path, flags, ..] = unsafe { (*context).args };
    scope::note_flags(flags as i32);
    if namespace as libc::Lmid_t == libc::LM_ID_BASE || tracer::current().is_none() || path == 0 {
        return;
    }
    // SAFETY: the program passes it to `dlmopen`.
    let path = unsafe { CStr::from_ptr(path as *const libc::c_char) };
    say::info(format_args!("{path:?} goes into a namespace of its own, in which nothing is traced"));
}

unsafe extern "C-unwind" fn before_dladdr(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let [address, ..] = unsafe { &mut (*context).args };
    *address = callbacks::behind(*address);
}

unsafe extern "C-unwind" fn before_dlsym(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    answer(unsafe { &mut *context }, thread, None);
}

unsafe extern "C-unwind" fn before_dlvsym(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    let version = context.args[2];
    answer(context, thread, Some(version));
}

/// A search for a name, as the program asks for it.
struct Lookup {
    handle: u64,
    name: &'static CStr,
    version: Option<&'static CStr>,
}

impl Lookup {
    fn has_handle(&self) -> bool {
        self.handle != libc::RTLD_DEFAULT as u64 && self.handle != libc::RTLD_NEXT as u64
    }

    fn by_handle(&self) -> Option<u64> {
        let handle = self.handle as *mut libc::c_void;
        let found = match self.version {
            None => real::dlsym(handle, self.name),
            Some(version) => real::dlvsym(handle, self.name, version),
        };
        // Not there: the program gets to hear it from libc itself.
        (found != 0).then_some(found)
    }

    /// What is found, where it is certain without asking in the caller's name.
    fn find(&self, caller: u64) -> Option<u64> {
        if self.has_handle() {
            return self.by_handle();
        }
        let wanted = match self.version {
            None => Wanted::Newest,
            Some(name) => Wanted::Reference(Some(Version { name, strict: true })),
        };
        let registry = modules::registry();
        let asks = registry.find(caller);
        if self.handle == libc::RTLD_DEFAULT as u64 {
            scope::default(&registry, asks, self.name, wanted)
        } else {
            scope::next(&registry, asks?, self.name, wanted)
        }
    }

    /// Our entry, where the program would find what that stands before.
    fn interposed(&self, ours: real::Pair) -> Option<u64> {
        // A library that asks for what comes after it, past us. Where another
        // interposer does, and we are in front of it, it must not find us.
        let past_us = if self.has_handle() {
            self.by_handle() == Some(ours.real)
        } else {
            self.handle == libc::RTLD_NEXT as u64 && self.version.is_none() && modules::is_libc(ours.real)
        };
        past_us.then_some(ours.entry)
    }
}

fn answer(context: &mut Context, thread: *mut ThreadState, version: Option<u64>) {
    let [handle, name, ..] = context.args;
    let Some(tracer) = tracer::current() else { return };
    if name == 0 || version == Some(0) || context.caller().ip == 0 {
        return;
    }
    // SAFETY: the program passes it to `dlsym`; it is used until that is back.
    let string = |at: u64| unsafe { CStr::from_ptr(at as *const libc::c_char) };
    let lookup = Lookup { handle, name: string(name), version: version.map(string) };
    if lookup.has_handle() {
        // Something that was opened past us, and is about to be used.
        refresh(thread, Ready::Opened(dynamic_of(handle)));
    }
    if let Some(ours) = real::stands_before(lookup.name) {
        if let Some(entry) = lookup.interposed(ours) {
            (context.result, context.live) = (entry, INSTEAD);
        }
        return;
    }
    let caller = context.caller().ip.wrapping_sub(1);
    let asks = modules::kind_of(caller);
    if matches!(asks, Kind::Host | Kind::Untouchable)
        && registration::arguments_of(tracer, lookup.name).is_none()
    {
        return;
    }
    let Some(found) = lookup.find(caller) else { return };
    // SAFETY: the callers are called by the gate.
    unsafe {
        inside(thread, |recording| {
            if let Some(stub) = callbacks::stand_in(recording.tracer, lookup.name, found, asks) {
                (context.result, context.live) = (stub, INSTEAD);
            }
        });
    }
}
