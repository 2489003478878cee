//! The table of real functions: those that come after ours in lookup order.
#![allow(unsafe_code)]

use crate::direct;
use crate::elf::{Dynamic, Wanted};
use crate::hooks::{dl, leaving, memory, process, sandbox, threads};
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
    MLOCKALL = c"mlockall", memory::mlockall;
    FORK = c"fork", process::fork;
    FORK_ONLY = c"_Fork", process::_Fork;
    CLONE = c"clone", process::clone;
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
    SETUID = c"setuid", leaving::setuid;
    SETEUID = c"seteuid", leaving::seteuid;
    SETREUID = c"setreuid", leaving::setreuid;
    SETRESUID = c"setresuid", leaving::setresuid;
    SETFSUID = c"setfsuid", leaving::setfsuid;
    CHROOT = c"chroot", leaving::chroot;
}

/// The loader's list of what is loaded, as debuggers read it.
#[repr(C)]
struct LinkMap {
    bias: u64,
    name: *const libc::c_char,
    dynamic: *const u8,
    next: *const LinkMap,
}

/// Where that list begins.
#[repr(C)]
struct DebugState {
    version: libc::c_int,
    first: *const LinkMap,
}

unsafe extern "C" {
    #[link_name = "_r_debug"]
    static DEBUG_STATE: DebugState;
    #[link_name = "_DYNAMIC"]
    static OUR_DYNAMIC: u8;
}

/// What the gate calls, which must be libc's own: a sanitizer's runtime stands
/// before them, too, and may not have begun.
pub(crate) static SET_CANCEL_STATE: AtomicU64 = AtomicU64::new(0);
pub(crate) static SET_CANCEL_TYPE: AtomicU64 = AtomicU64::new(0);

/// Both ways of looking up are ours now, so these two are looked for by hand, in
/// what comes after us. No function is called for it: a sanitizer's runtime that
/// stands before one would ask for it by way of ours.
fn resolve_lookups() {
    if DLSYM.load(Ordering::Relaxed) != 0 {
        return;
    }
    // SAFETY: the loader's variable, which it has filled in by now.
    let mut next = unsafe { DEBUG_STATE.first };
    let mut ours = None;
    // SAFETY: the list is whole, and nothing is loaded or unloaded before the
    // program's first constructor.
    while let Some(map) = unsafe { next.as_ref() } {
        next = map.next;
        // SAFETY: the module is loaded.
        let dynamic = unsafe { Dynamic::at(map.dynamic as u64, map.bias) };
        let Some(ours) = &ours else {
            if map.dynamic == &raw const OUR_DYNAMIC {
                ours = Some(dynamic);
            }
            continue;
        };
        for (place, name) in [(&DLSYM, c"dlsym"), (&DLVSYM, c"dlvsym")] {
            if let Some(found) = dynamic.find(name, Wanted::Newest)
                && place.load(Ordering::Relaxed) == 0
            {
                place.store(found.function(), Ordering::Release);
            }
        }
        if dynamic.exports(c"gnu_get_libc_version") {
            let own = [
                (&SET_CANCEL_STATE, c"pthread_setcancelstate"),
                (&SET_CANCEL_TYPE, c"pthread_setcanceltype"),
            ];
            for (place, name) in own {
                if let Some(found) = dynamic.find(name, Wanted::Newest) {
                    place.store(found.function(), Ordering::Release);
                }
            }
            direct::bind(ours, &dynamic);
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
