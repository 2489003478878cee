//! Programs that forbid themselves system calls: where they do. What follows
//! is in [`crate::sandbox`].
#![allow(unsafe_code)]

use crate::arch::{self, Context, around_entry};
use crate::sandbox;
use crate::state::ThreadState;
use crate::tracer;

/// `syscall`, where it forks, which may be without libc's knowledge.
#[unsafe(naked)]
unsafe extern "C" fn forks() {
    arch::fork_like!(crate::real::SYSCALL)
}

around_entry! {
    /// `syscall`: how sandboxes are entered without `prctl`, and processes made
    /// without `fork`. All other calls pass on at once.
    syscall, crate::real::SYSCALL, before_syscall, after_syscall;
    "cmp edi, 317" // SYS_seccomp
    "je 5f"
    "cmp edi, 157" // SYS_prctl
    "je 5f"
    "cmp edi, 56" // SYS_clone
    "je 6f"
    "cmp edi, 57" // SYS_fork
    "je 6f"
    "cmp edi, 435" // SYS_clone3
    "je 6f"
    "cmp qword ptr [rip + {real}], 0"
    "je 5f"
    "jmp qword ptr [rip + {real}]"
    "6:"
    "jmp {forks}"
    "5:",
    forks = forks
}

const STRICT: u64 = libc::SECCOMP_MODE_STRICT as u64;
const FILTER: u64 = libc::SECCOMP_MODE_FILTER as u64;

/// The mode of the sandbox that these arguments of `syscall` ask for, and where
/// the filter is.
fn asked(args: &[u64; 6]) -> Option<(u64, u64)> {
    match args[0] as i64 {
        libc::SYS_seccomp => match args[1] as u32 {
            // With anything else the strict mode is refused; libseccomp asks so whether
            // there is such a call.
            libc::SECCOMP_SET_MODE_STRICT if args[2] as u32 == 0 && args[3] == 0 => Some((STRICT, 0)),
            libc::SECCOMP_SET_MODE_FILTER => Some((FILTER, args[3])),
            _ => None,
        },
        libc::SYS_prctl if args[1] as i32 == libc::PR_SET_SECCOMP => Some((args[2], args[3])),
        _ => None,
    }
}

unsafe extern "C-unwind" fn before_syscall(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    if tracer::current().is_some()
        && let Some((mode, filter)) = asked(&context.args)
        && let Some(set) = sandbox::enter(mode, filter)
    {
        (context.note[0], context.live) = (set, arch::AROUND);
    }
}

unsafe extern "C-unwind" fn after_syscall(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &*context };
    // What succeeds may be a descriptor, too.
    sandbox::entered(context.note[0], context.result as i64 != -1);
}
