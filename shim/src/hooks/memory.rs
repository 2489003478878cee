//! Memory that is kept from being paged out: ours counts, too, and may be what is
//! too much.
#![allow(unsafe_code)]

use crate::arch::{self, Context, around_entry};
use crate::sandbox::{self, Call};
use crate::state::ThreadState;
use crate::{alloc, errno, real, tracer};
use std::sync::atomic::Ordering;

unsafe extern "C" {
    /// libc's: not zero while there is but one thread.
    static __libc_single_threaded: libc::c_char;
}

around_entry! {
    /// `mlockall`: where it succeeds the ring doesn't use up what the limit
    /// leaves, and where it fails because of us we are gone.
    mlockall, crate::real::MLOCKALL, before_mlockall, after_mlockall
}

unsafe extern "C-unwind" fn before_mlockall(context: *mut Context, _: *mut ThreadState) {
    if tracer::current().is_some() {
        // SAFETY: the entry's own context.
        let context = unsafe { &mut *context };
        context.live = arch::AROUND;
        context.note[0] = errno::get() as u64;
    }
}

unsafe extern "C-unwind" fn after_mlockall(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    let Some(tracer) = tracer::current().filter(|_| sandbox::allows(&[Call::Munlock, Call::Munmap])) else {
        return;
    };
    // SAFETY: libc's variable.
    let is_single = unsafe { (&raw const __libc_single_threaded).read_volatile() } != 0;
    // With other threads there is nothing to be done: they may be writing to the
    // ring, and taking from the reserve.
    if is_single {
        if failed(context) {
            alloc::shrink_reserve(LEAST_RESERVE);
            call(context);
        }
        if failed(context) {
            // SAFETY: there is no other thread, and this one doesn't use it any more.
            unsafe { tracer.give_up(format_args!("RLIMIT_MEMLOCK leaves no room for the ring")) };
            call(context);
            return;
        }
    }
    if context.result as i32 == 0 && has_limit() {
        tracer.unlock_ring();
    }
}

/// Enough for what is going on where there is no memory.
const LEAST_RESERVE: usize = 256 << 10;

/// Whether the call failed for want of memory.
fn failed(context: &Context) -> bool {
    context.result as i32 != 0 && errno::get() == libc::ENOMEM
}

/// Makes it as if there had been none yet.
fn call(context: &mut Context) {
    type Mlockall = unsafe extern "C" fn(libc::c_int) -> libc::c_int;
    errno::set(context.note[0] as i32);
    // SAFETY: the function of this name has this type.
    let mlockall: Mlockall = unsafe { std::mem::transmute(real::MLOCKALL.load(Ordering::Acquire) as usize) };
    // SAFETY: the program's own call.
    context.result = unsafe { mlockall(context.args[0] as libc::c_int) } as u64;
}

fn has_limit() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    asked == 0 && limit.rlim_cur != libc::RLIM_INFINITY
}
