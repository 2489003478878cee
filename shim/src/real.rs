//! The table of real functions: those that come after ours in lookup order.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! real_functions {
    ($($static_name:ident = $name:literal;)*) => {
        $(pub(crate) static $static_name: AtomicU64 = AtomicU64::new(0);)*

        /// Looks every function up. Called before the first use of any: from
        /// our constructor, or from an entry that runs even earlier.
        pub(crate) extern "C" fn resolve_all() {
            $(resolve(&$static_name, $name);)*
        }
    };
}

real_functions! {
    PTHREAD_CREATE = c"pthread_create";
    THRD_CREATE = c"thrd_create";
    PTHREAD_SETNAME_NP = c"pthread_setname_np";
    DLOPEN = c"dlopen";
    DLCLOSE = c"dlclose";
    FORK = c"fork";
    EXIT_NOW = c"_exit";
    EXIT_NOW_C99 = c"_Exit";
    QUICK_EXIT = c"quick_exit";
    EXECVE = c"execve";
    EXECV = c"execv";
    EXECVP = c"execvp";
    EXECVPE = c"execvpe";
    EXECL = c"execl";
    EXECLP = c"execlp";
    EXECLE = c"execle";
}

fn resolve(to: &AtomicU64, name: &CStr) {
    if to.load(Ordering::Relaxed) == 0 {
        // SAFETY: the name is a C string; RTLD_NEXT finds what the program
        // would call without us, other preloaded libraries included.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        to.store(found as u64, Ordering::Release);
    }
}
