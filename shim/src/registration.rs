//! Function pointers that are handed over at run time: `TRACESHIM_CALLBACK_ARGS`
//! names the functions that take some, and in which arguments.
//!
//! A registrar stands in the slots of whoever imports such a function, the host
//! included, and answers lookups of its name. It hands on a trampoline in the
//! pointer's place: for one pointer always the same, so that the two sides can
//! still compare what they were given.
#![allow(unsafe_code)]

use crate::arch::{self, Context, REGISTRARS};
use crate::callbacks;
use crate::lock::{self, Lock};
use crate::modules;
use crate::recording::inside;
use crate::state::ThreadState;
use crate::tracer::Tracer;
use crate::{sandbox, say};
use std::ffi::CStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::OnceLock;
use traceshim_ring::env::CallbackArg;

/// A function that takes callbacks, and in which arguments.
type Taker = (u64, &'static [CallbackArg]);

/// What each registrar stands before, for whoever makes one.
static TAKERS: Lock<Vec<Taker>> = Lock::new(Vec::new());
/// The same, for whoever must not wait.
static KNOWN: [OnceLock<Taker>; REGISTRARS] = [const { OnceLock::new() }; REGISTRARS];

/// Small numbers stand for something else (`SIG_IGN`, `SQLITE_TRANSIENT`), and
/// so do the largest: nothing is mapped there.
const LOWEST: u64 = 64 << 10;
const HIGHEST: u64 = 1 << 47;

/// What the names of libc's own headers become in a program, with the same
/// pointers among the arguments.
const BEHIND_HEADERS: [(&[u8], &[u8]); 3] = [
    (b"__cxa_atexit", b"atexit"),
    (b"__cxa_at_quick_exit", b"at_quick_exit"),
    (b"__register_atfork", b"pthread_atfork"),
];

/// In which arguments the function `name` takes a callback.
pub(crate) fn arguments_of(tracer: &Tracer, name: &CStr) -> Option<&'static [CallbackArg]> {
    let (name, named) = (name.to_bytes(), &tracer.config.callback_args);
    let header = || BEHIND_HEADERS.iter().find(|(behind, _)| *behind == name);
    named.get(name).or_else(|| named.get(header()?.1)).map(Vec::as_slice)
}

/// The registrar before the function at `target`; the same one each time.
pub(crate) fn registrar(target: u64, arguments: &'static [CallbackArg]) -> Option<u64> {
    let mut takers = TAKERS.lock();
    let n = takers.iter().position(|&taker| taker == (target, arguments)).unwrap_or(takers.len());
    let Some(place) = KNOWN.get(n) else {
        say::error(format_args!(
            "more than {REGISTRARS} functions take callbacks; the others are not traced"
        ));
        return None;
    };
    place.get_or_init(|| (target, arguments));
    if n == takers.len() {
        takers.push((target, arguments));
    }
    arch::registrar(n, target)
}

/// The function that a registrar stands before.
pub(crate) fn behind(address: u64) -> Option<u64> {
    KNOWN.get(arch::number_of_registrar(address)?)?.get().map(|taker| taker.0)
}

/// A function that takes a callback was called.
pub(crate) unsafe extern "C-unwind" fn on_register(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the registrar's own context.
    let context = unsafe { &mut *context };
    let Some(&(taker, arguments)) = KNOWN.get(context.id as usize).and_then(OnceLock::get) else { return };
    for argument in arguments {
        let applies = argument.only_if.is_none_or(|(other, from, to)| {
            // SAFETY: whoever named the function says that it has the argument.
            let value = unsafe { arch::argument(context, other).read() };
            // An int: the upper half of its register may hold anything.
            (from..=to).contains(&(value as u32))
        });
        let place = arch::argument(context, argument.argument);
        // SAFETY: as above.
        let pointer = unsafe { place.read() };
        if !applies || !is_callback(pointer, taker) {
            continue;
        }
        let mut wrapped = None;
        // SAFETY: called by the gate.
        unsafe {
            inside(thread, |recording| {
                // Without a name: the collector finds it from the address.
                wrapped = callbacks::trampoline(recording.tracer, pointer, b"");
            });
        }
        if let Some(stub) = wrapped {
            // SAFETY: as above; the place is the callee's to change.
            unsafe { place.write(stub) };
        }
    }
}

/// Whether a value is a function to be wrapped. In a module it must be code;
/// what is in none may be a closure made at run time. What belongs to libc or to
/// whoever takes it is no callback, and may be compared there: libcurl knows
/// `fread`, and `qsort` with `strcmp` never leaves libc. Calls of a function whose
/// entry is patched are seen anyway.
fn is_callback(value: u64, taker: u64) -> bool {
    if !(LOWEST..HIGHEST).contains(&value) || arch::is_stub(value) || callbacks::is_patched(value) {
        return false;
    }
    let in_module = {
        let registry = modules::registry();
        registry.find(value).map(|module| {
            module.code.iter().any(|code| code.contains(&value))
                && !(module.is_libc() || module.contains(taker))
                && module.stand_ins.binary_search(&value).is_err()
        })
    };
    // A closure is handed over again and again; the system is asked once.
    in_module.unwrap_or_else(|| callbacks::is_hooked(value) || is_executable(value))
}

/// Whether the system lets code at this address be executed.
fn is_executable(address: u64) -> bool {
    if !sandbox::allows(sandbox::READ) {
        return false;
    }
    let Ok(maps) = File::open("/proc/self/maps") else { return false };
    let holds = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        range.contains(&address).then(|| rest.as_bytes().get(2) == Some(&b'x'))
    };
    // Paths may be any bytes; none is looked at.
    let mut lines = BufReader::new(maps).split(b'\n').map_while(Result::ok);
    lines.find_map(|line| holds(&String::from_utf8_lossy(&line))).unwrap_or(false)
}

/// Before a fork: nobody else is half-way through a change.
pub(crate) fn lock_for_fork(tries: usize) {
    lock::lock_for_fork(&TAKERS, tries);
}

/// After a fork, in both processes.
pub(crate) fn unlock_after_fork() {
    lock::unlock_after_fork(&TAKERS);
}

/// In a forked child.
///
/// # Safety
/// The calling thread is the only one.
pub(crate) unsafe fn forget_others() {
    // SAFETY: the caller's promise.
    unsafe { lock::free_in_child(&TAKERS) };
}
