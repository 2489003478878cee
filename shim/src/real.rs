//! The table of real functions: those that come after ours in lookup order.
#![allow(unsafe_code)]

use crate::hooks::{dl, process, threads};
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
            resolve_dlsym();
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
    DLOPEN = c"dlopen", dl::dlopen;
    DLCLOSE = c"dlclose", dl::dlclose;
    DLSYM = c"dlsym", dl::dlsym;
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

/// `dlsym` itself can only be found by its sibling, which we don't stand
/// before. Its version is libc's since 2.34, or libdl's before that.
fn resolve_dlsym() {
    for version in [c"GLIBC_2.34", c"GLIBC_2.2.5"] {
        if DLSYM.load(Ordering::Relaxed) == 0 {
            // SAFETY: two C strings.
            let found = unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) };
            DLSYM.store(found as u64, Ordering::Release);
        }
    }
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
