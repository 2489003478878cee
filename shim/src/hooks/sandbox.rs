//! Programs that forbid themselves system calls (seccomp): what is not allowed
//! may kill them. From then on the tracer makes none on its own: its ring is
//! mapped and its space reserved, and recording needs no kernel. What needs one is left undone: the
//! ring isn't cut at the end, forked children run untraced, and libraries that
//! are opened later stay unknown.
#![allow(unsafe_code)]

use crate::arch::{self, Context, around_entry};
use crate::clock::TickClock;
use crate::state::ThreadState;
use crate::tracer;
use std::sync::atomic::{AtomicU32, Ordering};

/// Sandboxes that there are, or that are being entered: they never end.
static ON: AtomicU32 = AtomicU32::new(0);

/// Whether system calls are to be avoided.
#[inline]
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed) > 0
}

/// Before the call that may forbid everything. The strict mode takes the
/// time-stamp counter away, too; and the other clock may be a system call.
pub(super) fn enter(mode: u64) {
    let asks_kernel = tracer::current().is_some_and(|tracer| tracer.clock == TickClock::Monotonic);
    if asks_kernel || mode as u32 == libc::SECCOMP_MODE_STRICT {
        no_clock();
    }
    if let Some(tracer) = tracer::current() {
        tracer.reserve_all();
    }
    ON.fetch_add(1, Ordering::AcqRel);
}

/// Before it is deadly to ask for the time.
pub(super) fn no_clock() {
    tracer::disable(format_args!("the program forbids itself to read clocks"));
}

/// After it.
pub(super) fn entered(succeeded: bool) {
    if !succeeded {
        ON.fetch_sub(1, Ordering::AcqRel);
    }
}

around_entry! {
    /// `syscall`: how sandboxes are entered without `prctl`. All other calls
    /// pass on at once.
    syscall, crate::real::SYSCALL, before_syscall, after_syscall;
    "cmp edi, 317" // SYS_seccomp
    "je 5f"
    "cmp edi, 157" // SYS_prctl
    "je 5f"
    "cmp qword ptr [rip + {real}], 0"
    "je 5f"
    "jmp qword ptr [rip + {real}]"
    "5:"
}

/// The mode of the sandbox that these arguments of `syscall` ask for.
fn mode_asked(args: &[u64; 6]) -> Option<u64> {
    match args[0] as i64 {
        // The operations that set a mode are one less than the mode.
        libc::SYS_seccomp => Some((args[1] & 0xffff_ffff) + 1).filter(|&mode| mode <= 2),
        libc::SYS_prctl if args[1] as i32 == libc::PR_SET_SECCOMP => Some(args[2]),
        _ => None,
    }
}

unsafe extern "C-unwind" fn before_syscall(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    if let Some(mode) = mode_asked(&context.args)
        && tracer::current().is_some()
    {
        enter(mode);
        context.live = arch::AROUND;
    }
}

unsafe extern "C-unwind" fn after_syscall(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let failed = unsafe { (*context).result } as i64 != 0;
    entered(!failed);
}
