//! The table of real functions: those that come after ours in lookup order.
#![allow(unsafe_code)]

use crate::elf::{Dynamic, Wanted};
use crate::hooks::{dl, process, sandbox, threads};
use findshlibs::{Segment as _, SharedLibrary as _, TargetSharedLibrary};
use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// An entry of ours and the function that it stands before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) entry: u64,
    pub(crate) real: u64,
}

macro_rules! real_functions {
    ($($static_name:ident = $name:literal, $entry:path;)*) => {
        $(pub(crate) static $static_name: AtomicU64 = AtomicU64::new(0);)*

        /// Looks every function up. Called before the first use of any: from
        /// our constructor, or from an entry that runs even earlier.
        pub(crate) extern "C" fn resolve_all() {
            resolve_lookups();
            $(resolve(&$static_name, $name);)*
        }

        /// Our entry of this name.
        pub(crate) fn stands_before(name: &CStr) -> Option<Pair> {
            $(if name == $name {
                let real = $static_name.load(Ordering::Relaxed);
                return Some(Pair { entry: $entry as *const () as u64, real });
            })*
            None
        }
    };
}

real_functions! {
    PTHREAD_CREATE = c"pthread_create", threads::pthread_create;
    THRD_CREATE = c"thrd_create", threads::thrd_create;
    PTHREAD_SETNAME_NP = c"pthread_setname_np", threads::pthread_setname_np;
    PRCTL = c"prctl", threads::prctl;
    SYSCALL = c"syscall", sandbox::syscall;
    DLOPEN = c"dlopen", dl::dlopen;
    DLCLOSE = c"dlclose", dl::dlclose;
    DLMOPEN = c"dlmopen", dl::dlmopen;
    DLSYM = c"dlsym", dl::dlsym;
    DLVSYM = c"dlvsym", dl::dlvsym;
    DLADDR = c"dladdr", dl::dladdr;
    DLADDR1 = c"dladdr1", dl::dladdr1;
    FORK = c"fork", process::fork;
    EXIT_NOW = c"_exit", process::_exit;
    EXIT_NOW_C99 = c"_Exit", process::_Exit;
    QUICK_EXIT = c"quick_exit", process::quick_exit;
    EXECVE = c"execve", process::execve;
    EXECV = c"execv", process::execv;
    EXECVP = c"execvp", process::execvp;
    EXECVPE = c"execvpe", process::execvpe;
    EXECL = c"execl", process::execl;
    EXECLP = c"execlp", process::execlp;
    EXECLE = c"execle", process::execle;
}

/// Both ways of looking up are ours now, so these two are looked for by hand.
fn resolve_lookups() {
    if DLSYM.load(Ordering::Relaxed) != 0 {
        return;
    }
    let ours = resolve_all as *const () as u64;
    let mut after = false;
    TargetSharedLibrary::each(|library| {
        let bias = library.virtual_memory_bias().0 as u64;
        let at = |name: &str| {
            let segment = library.segments().find(|segment| segment.name() == name)?;
            Some(bias.wrapping_add(segment.stated_virtual_memory_address().0 as u64))
        };
        let is_ours = library.segments().filter(|segment| segment.is_code()).any(|segment| {
            let start = bias.wrapping_add(segment.stated_virtual_memory_address().0 as u64);
            (start..start + segment.len() as u64).contains(&ours)
        });
        // SAFETY: the module is loaded for as long as the list is held.
        let dynamic = at("DYNAMIC").filter(|_| after).map(|at| unsafe { Dynamic::at(at, bias) });
        for (place, name) in [(&DLSYM, c"dlsym"), (&DLVSYM, c"dlvsym")] {
            let found = dynamic.and_then(|dynamic| dynamic.find(name, Wanted::Newest));
            if let Some(found) = found.filter(|_| place.load(Ordering::Relaxed) == 0) {
                place.store(found.function(), Ordering::Release);
            }
        }
        after |= is_ours;
    });
}

fn resolve(to: &AtomicU64, name: &CStr) {
    if to.load(Ordering::Relaxed) == 0 {
        // What the program would call without us, other preloads included.
        to.store(dlsym(libc::RTLD_NEXT, name), Ordering::Release);
    }
}

/// libc's own `dlsym`, asked by us; 0 where there is no such symbol.
pub(crate) fn dlsym(handle: *mut libc::c_void, name: &CStr) -> u64 {
    type Dlsym = unsafe extern "C" fn(*mut libc::c_void, *const libc::c_char) -> *mut libc::c_void;
    let real = DLSYM.load(Ordering::Acquire);
    if real == 0 {
        return 0;
    }
    // SAFETY: the function of this name has this type.
    let real: Dlsym = unsafe { std::mem::transmute(real as usize) };
    // SAFETY: a C string; handles come from the program or are constants.
    unsafe { real(handle, name.as_ptr()) as u64 }
}

/// The same with a version.
pub(crate) fn dlvsym(handle: *mut libc::c_void, name: &CStr, version: &CStr) -> u64 {
    type Dlvsym = unsafe extern "C" fn(
        *mut libc::c_void,
        *const libc::c_char,
        *const libc::c_char,
    ) -> *mut libc::c_void;
    let real = DLVSYM.load(Ordering::Acquire);
    if real == 0 {
        return 0;
    }
    // SAFETY: the function of this name has this type.
    let real: Dlvsym = unsafe { std::mem::transmute(real as usize) };
    // SAFETY: as above.
    unsafe { real(handle, name.as_ptr(), version.as_ptr()) as u64 }
}
