//! SIGPIPE as whoever started us left it. Rust's runtime ignores it before `main`,
//! and `Command` sets it back to the default in children: the command would end
//! where without us it is told that nobody reads.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

static WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Before the runtime begins.
#[ctor::ctor(unsafe)]
fn look() {
    // SAFETY: all zero is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks; `action` is a valid place for the answer.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) };
    WAS_IGNORED.store(asked == 0 && action.sa_sigaction == libc::SIG_IGN, Ordering::Relaxed);
}

/// Has the command begin with it.
pub(crate) fn inherit(command: &mut Command) {
    if WAS_IGNORED.load(Ordering::Relaxed) {
        let ignore = || {
            // SAFETY: one system call.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: it may be called between fork and exec.
        unsafe { command.pre_exec(ignore) };
    }
}
