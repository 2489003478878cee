//! Registrars: stubs that stand before functions which take a callback.
//!
//! One replaces the function pointer among its arguments and passes on by a
//! jump, with the caller's return address and stack arguments in place.
#![allow(unsafe_code)]

use super::context::Context;
use super::gate::gate;
use crate::registration::on_register;
use std::arch::{global_asm, naked_asm};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many functions can have one.
pub(crate) const REGISTRARS: usize = 256;

static TARGETS: [AtomicU64; REGISTRARS] = [const { AtomicU64::new(0) }; REGISTRARS];

unsafe extern "C" {
    #[link_name = "traceshim_registrars"]
    static REGISTRAR_0: [u8; 16];
}

// As the stubs of trampolines: the number follows from the address.
global_asm!(
    ".text",
    ".p2align 6",
    ".globl traceshim_registrars",
    ".hidden traceshim_registrars",
    ".type traceshim_registrars, @function",
    "traceshim_registrars:",
    ".cfi_startproc",
    ".rept {registrars}",
    ".p2align 4, 0xcc",
    "endbr64",
    "lea r11, [rip - 11]",
    "jmp {common}",
    ".endr",
    ".p2align 4, 0xcc",
    ".cfi_endproc",
    ".size traceshim_registrars, . - traceshim_registrars",
    registrars = const REGISTRARS,
    common = sym common,
);

/// The address of registrar `n`, which from now on passes on to `target`.
pub(crate) fn registrar(n: usize, target: u64) -> Option<u64> {
    TARGETS.get(n)?.store(target, Ordering::Release);
    Some(&raw const REGISTRAR_0 as u64 + n as u64 * 16)
}

/// Where argument number `n` of a registrar's caller lies, counted from 1: six
/// in the context, which are registers again when the registrar passes on, the
/// others above the return address, in an area that belongs to who is called.
pub(crate) fn argument(context: &mut Context, n: u8) -> *mut u64 {
    let n = usize::from(n).saturating_sub(1);
    let in_registers = context.args.len();
    match context.args.get_mut(n) {
        Some(register) => register,
        None => (context.frame() as *mut u64).wrapping_add(2 + n - in_registers),
    }
}

/// Which registrar is at `address`.
pub(crate) fn number_of_registrar(address: u64) -> Option<usize> {
    let offset = address.wrapping_sub(&raw const REGISTRAR_0 as u64) as usize;
    (offset < REGISTRARS * 16).then_some(offset / 16)
}

#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        ".cfi_startproc",
        super::context::enter!(),
        "lea rax, [rip + traceshim_registrars]",
        "sub r11, rax",
        "shr r11, 4",
        "mov [rbp - 56], r11",
        "lea rdi, [rbp - 160]",
        "lea rsi, [rip + {register}]",
        "mov edx, 1",
        "call {gate}",
        super::context::reload!(),
        "mov r11, [rbp - 56]",
        "leave",
        ".cfi_def_cfa rsp, 8",
        "push rax",
        ".cfi_adjust_cfa_offset 8",
        "lea rax, [rip + {targets}]",
        "mov r11, [rax + r11 * 8]",
        "pop rax",
        ".cfi_adjust_cfa_offset -8",
        "jmp r11",
        ".cfi_endproc",
        frame = const 160,
        register = sym on_register,
        targets = sym TARGETS,
        gate = sym gate,
    )
}
