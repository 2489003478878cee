//! Whether a function whose entry is patched was called by its own module.
//!
//! Such calls aren't callbacks: they go on to the function itself. A module also
//! calls other modules which then jump on, and these are callbacks: what tells
//! them apart is the call before the return address.
#![allow(unsafe_code)]

use crate::patch::Words;
use std::arch::naked_asm;
use std::mem::offset_of;

/// More than what is looked at of a called entry.
const LOOKED_AT: i32 = 32;

/// What a thunk leads to when the return address is in the function's own
/// module. r11: its [`Words`]; at rsp - 8: the caller's r11.
pub(crate) fn inside_call() -> u64 {
    decide as *const () as u64
}

/// Changes no register. Below the stack pointer are 128 bytes that nobody else
/// touches, signal handlers included.
#[unsafe(naked)]
unsafe extern "C" fn decide() {
    naked_asm!(
        ".cfi_startproc",
        "endbr64",
        "mov [rsp - 16], rax",
        "mov [rsp - 24], rcx",
        "mov rax, [rsp]",
        "movsxd rcx, dword ptr [rax - 4]",
        "add rcx, rax",
        // call [rip + distance]: rcx is the slot.
        "cmp word ptr [rax - 6], 0x15ff",
        "je 3f",
        // call distance: rcx is the target.
        "cmp byte ptr [rax - 5], 0xe8",
        "jne 4f",
        "mov rax, rcx",
        "sub rax, [r11 + {code}]",
        "cmp rax, [r11 + {code_bytes}]",
        "jae 4f",
        "add rax, {looked_at}",
        "cmp rax, [r11 + {code_bytes}]",
        "jae 4f",
        // Is it an entry of the procedure linkage table, with endbr64 and bnd
        // or without?
        "cmp dword ptr [rcx], 0xfa1e0ff3",
        "jne 1f",
        "add rcx, 4",
        "1:",
        // Some linkers put the entry's number into r11 first.
        "cmp word ptr [rcx], 0xbb41",
        "jne 6f",
        "add rcx, 6",
        "6:",
        "cmp byte ptr [rcx], 0xf2",
        "jne 2f",
        "add rcx, 1",
        "2:",
        "cmp word ptr [rcx], 0x25ff",
        "jne 4f",
        "movsxd rax, dword ptr [rcx + 2]",
        "lea rcx, [rcx + rax + 6]",
        // The slots in which the module has this function's own address.
        "3:",
        "cmp rcx, [r11 + {own_slots}]",
        "je 4f",
        "cmp rcx, [r11 + {own_slots} + 8]",
        "je 4f",
        // A pointer of the module's own to the function.
        "mov rax, [r11 + {address}]",
        "cmp rax, [rcx]",
        "je 4f",
        // Another module was called, and jumped here.
        "mov rax, [r11 + {stub}]",
        "jmp 5f",
        "4:",
        "mov rax, [r11 + {copy}]",
        "5:",
        "mov [rsp - 32], rax",
        "mov rax, [rsp - 16]",
        "mov rcx, [rsp - 24]",
        "mov r11, [rsp - 8]",
        "jmp [rsp - 32]",
        ".cfi_endproc",
        stub = const offset_of!(Words, stub),
        copy = const offset_of!(Words, copy),
        code = const offset_of!(Words, code),
        code_bytes = const offset_of!(Words, code_bytes),
        own_slots = const offset_of!(Words, own_slots),
        address = const offset_of!(Words, address),
        looked_at = const LOOKED_AT,
    )
}
