#![allow(unused_imports, unused_macros)] // Not every test that has the shared module begins captures.
//! The stub that a capture starts in: it hands on the registers as they are for
//! its caller.

/// Defines the assembly function `$symbol`, which calls `$to` with its own first
/// argument and a pointer to the caller's `Regs`.
macro_rules! capture_stub {
    ($symbol:literal, $to:path) => {
        std::arch::global_asm!(
            concat!(".globl ", $symbol),
            concat!(".type ", $symbol, ",@function"),
            concat!($symbol, ":"),
            ".cfi_startproc",
            "sub rsp, 72",
            ".cfi_adjust_cfa_offset 72",
            "mov rax, [rsp + 72]",
            "mov [rsp], rax",
            "lea rax, [rsp + 80]",
            "mov [rsp + 8], rax",
            "mov [rsp + 16], rbp",
            "mov [rsp + 24], rbx",
            "mov [rsp + 32], r12",
            "mov [rsp + 40], r13",
            "mov [rsp + 48], r14",
            "mov [rsp + 56], r15",
            "mov rsi, rsp",
            "call {to}",
            "add rsp, 72",
            ".cfi_adjust_cfa_offset -72",
            "ret",
            ".cfi_endproc",
            concat!(".size ", $symbol, ", . - ", $symbol),
            to = sym $to,
        );
    };
}
pub(crate) use capture_stub;
