//! x86-64, System V ABI, glibc.
#![allow(unsafe_code)]

mod context;
mod entry;
mod gate;
mod inside_call;
mod readable;
mod registrar;
mod shell;
mod thread_start;
mod tls;
mod trampoline;
mod widen;

pub(crate) use context::Context;
pub(crate) use context::{enter, reload};
pub(crate) use entry::{AROUND, INSTEAD, around_entry, caller_entry, event_entry, fork_like};
pub(crate) use gate::gate;
pub(crate) use gate::{give_back, make_spare_blocks, on_this_thread, prepare_vector_state};
pub(crate) use inside_call::inside_call;
pub(crate) use readable::is_readable;
pub(crate) use registrar::{REGISTRARS, argument, number_of_registrar, registrar};
pub(crate) use shell::shell;
pub(crate) use thread_start::start_stub;
pub(crate) use tls::{held, state_of_thread};
pub(crate) use trampoline::{STUBS, is_stub, stub};
pub(crate) use widen::{Passed, is_unseen, pass_on};

/// The ticks that events carry where it is invariant: the time-stamp counter.
#[inline(always)]
pub(crate) fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets
    // programs use it unless they asked not to (`PR_SET_TSC`).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A system call, past libc.
///
/// # Safety
/// As the call demands.
pub(crate) unsafe fn system_call(number: libc::c_long, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the caller's promise; the kernel changes these two registers.
    unsafe {
        std::arch::asm!(
            "syscall",
            inout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Whether the time-stamp counter runs at one rate in every power state.
pub(crate) fn tsc_is_invariant() -> bool {
    let leaf = |n: u32| core::arch::x86_64::__cpuid(n);
    leaf(0x8000_0000).eax >= 0x8000_0007 && leaf(0x8000_0007).edx & 1 << 8 != 0
}

/// `mprotect`, past every library. Whether it succeeded.
pub(crate) fn protect(start: u64, bytes: u64, access: libc::c_int) -> bool {
    let mut result = libc::SYS_mprotect;
    // SAFETY: the caller knows its pages; the kernel changes these registers only.
    unsafe {
        std::arch::asm!(
            "syscall", inlateout("rax") result, in("rdi") start, in("rsi") bytes, in("rdx") i64::from(access),
            lateout("rcx") _, lateout("r11") _, options(nostack),
        );
    }
    result == 0
}

/// Whether returns are checked against a stack of their own (CET).
pub(crate) fn has_shadow_stack() -> bool {
    let mut pointer = 0u64;
    // SAFETY: reads that stack's pointer; does nothing where there is none.
    unsafe { std::arch::asm!("rdsspq {0}", inout(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where indirect calls and jumps must lead to (CET), and ours all do.
    #[test]
    fn whatever_is_called_indirectly_begins_with_endbr64() {
        let stubs = (0..STUBS).map(|n| stub(n as u16).unwrap());
        let registrars = (0..REGISTRARS).map(|n| registrar(n, 0).unwrap());
        let others = [shell(), inside_call(), widen::entry(), start_stub as *const () as u64];
        for at in stubs.chain(registrars).chain(others) {
            // SAFETY: code of this library.
            let first: [u8; 4] = unsafe { (at as *const [u8; 4]).read() };
            assert_eq!(first, [0xf3, 0x0f, 0x1e, 0xfa], "{at:#x}");
        }
    }
}
