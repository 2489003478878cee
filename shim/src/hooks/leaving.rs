//! What takes a process out of reach of its session directory: another user id,
//! another root. A forked child makes its ring at its first event, which may
//! come afterwards (a server's workers); so it makes it before.
#![allow(unsafe_code)]

use super::process::never;

use crate::arch::{Context, around_entry};
use crate::recording::inside;
use crate::sandbox;
use crate::state::ThreadState;
use crate::tracer;

macro_rules! leaving_entries {
    ($($name:ident, $real:path;)*) => {
        $(around_entry! {
            /// Sees to the ring and passes on.
            $name, $real, before_leaving, never
        })*
    };
}
leaving_entries! {
    setuid, crate::real::SETUID;
    seteuid, crate::real::SETEUID;
    setreuid, crate::real::SETREUID;
    setresuid, crate::real::SETRESUID;
    setfsuid, crate::real::SETFSUID;
    chroot, crate::real::CHROOT;
}

unsafe extern "C-unwind" fn before_leaving(_: *mut Context, thread: *mut ThreadState) {
    if tracer::forked() && sandbox::allows(sandbox::RING) {
        // SAFETY: called by the gate. Being inside is all that it takes.
        unsafe { inside(thread, |_| {}) }
    }
}
