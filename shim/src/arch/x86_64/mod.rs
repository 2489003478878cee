//! x86-64, System V ABI, glibc.
#![allow(unsafe_code)]

mod context;
mod entry;
mod gate;
mod inside_call;
mod registrar;
mod shell;
mod thread_start;
mod tls;
mod trampoline;
mod widen;

pub(crate) use context::Context;
pub(crate) use context::{enter, reload};
pub(crate) use entry::{AROUND, INSTEAD, around_entry, caller_entry, event_entry};
pub(crate) use gate::gate;
pub(crate) use gate::{give_back, on_this_thread, prepare_vector_state};
pub(crate) use inside_call::inside_call;
pub(crate) use registrar::{REGISTRARS, argument, number_of_registrar, registrar};
pub(crate) use shell::shell;
pub(crate) use thread_start::start_stub;
pub(crate) use tls::state_of_thread;
pub(crate) use trampoline::{STUBS, is_stub, retarget, stub};
pub(crate) use widen::retarget_wide;

/// The ticks that events carry where it is invariant: the time-stamp counter.
#[inline(always)]
pub(crate) fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets
    // programs use it unless they asked not to (`PR_SET_TSC`).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Whether the time-stamp counter runs at one rate in every power state.
pub(crate) fn tsc_is_invariant() -> bool {
    let leaf = |n: u32| core::arch::x86_64::__cpuid(n);
    leaf(0x8000_0000).eax >= 0x8000_0007 && leaf(0x8000_0007).edx & 1 << 8 != 0
}
