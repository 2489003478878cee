//! Entries that are called by name: exported functions in assembly, since a
//! Rust prologue would change the very registers that a stack starts with.

/// In a context's `live`: call the real function from our frame.
pub(crate) const AROUND: u64 = 1;
/// In a context's `live`: return what the handler said.
pub(crate) const INSTEAD: u64 = 2;

/// An exported function that records an event and returns.
macro_rules! event_entry {
    ($(#[$doc:meta])* $name:ident => $handler:path) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub(crate) unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                ".cfi_startproc",
                "endbr64",
                $crate::arch::enter!(),
                "cmp dword ptr [rip + {started}], 0",
                "jne 1f",
                "call {initialise}",
                "1:",
                "lea rdi, [rbp - 160]",
                "lea rsi, [rip + {handler}]",
                "xor edx, edx",
                "call {gate}",
                "mov rax, [rbp - 40]",
                "leave",
                ".cfi_def_cfa rsp, 8",
                "ret",
                ".cfi_endproc",
                frame = const 160,
                started = sym $crate::tracer::STARTED,
                initialise = sym $crate::tracer::initialise,
                handler = sym $handler,
                gate = sym $crate::arch::gate,
            )
        }
    };
}

/// An exported function that stands before a real one of the same name.
///
/// `$before` decides by what it puts into `live`. [`AROUND`]: the real function
/// is called from here, with the arguments as they then are, and `$after` runs
/// with the result. [`INSTEAD`]: `result` is returned. Else control passes on as
/// if we weren't there: a jump, with the caller's return address in place.
///
/// `$early` is assembly that comes before all of it, for what isn't even worth
/// asking; it may use the labels from 5 on, and the functions that are named.
macro_rules! around_entry {
    ($(#[$doc:meta])* $name:ident, $real:path, $before:path, $after:path
     $(; $($early:literal)* $(, $label:ident = $function:path)*)?) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub(crate) unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                ".cfi_startproc",
                "endbr64",
                $($($early,)*)?
                $crate::arch::enter!(),
                "cmp qword ptr [rip + {real}], 0",
                "jne 1f",
                "call {resolve}",
                "1:",
                "cmp dword ptr [rip + {started}], 0",
                "jne 3f",
                "call {initialise}",
                "3:",
                "lea rdi, [rbp - 160]",
                "lea rsi, [rip + {before}]",
                "xor edx, edx",
                "call {gate}",
                $crate::arch::reload!(),
                "cmp qword ptr [rbp - 48], {around}",
                "je 2f",
                "ja 4f",
                "leave",
                ".cfi_remember_state",
                ".cfi_def_cfa rsp, 8",
                "jmp qword ptr [rip + {real}]",
                ".cfi_restore_state",
                "2:",
                "call qword ptr [rip + {real}]",
                "mov [rbp - 40], rax",
                "lea rdi, [rbp - 160]",
                "lea rsi, [rip + {after}]",
                "xor edx, edx",
                "call {gate}",
                "4:",
                "mov rax, [rbp - 40]",
                "leave",
                ".cfi_def_cfa rsp, 8",
                "ret",
                ".cfi_endproc",
                frame = const 160,
                around = const $crate::arch::AROUND,
                started = sym $crate::tracer::STARTED,
                initialise = sym $crate::tracer::initialise,
                real = sym $real,
                resolve = sym $crate::real::resolve_all,
                before = sym $before,
                after = sym $after,
                gate = sym $crate::arch::gate,
                $($($label = sym $function,)*)?
            )
        }
    };
}

/// An exported function that hands on where it was called from.
macro_rules! caller_entry {
    ($(#[$doc:meta])* $name:ident => $handler:path) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub(crate) unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                ".cfi_startproc",
                "endbr64",
                "mov rdi, [rsp]",
                "jmp {handler}",
                ".cfi_endproc",
                handler = sym $handler,
            )
        }
    };
}

/// The body of a function that forks, without handlers: calls the real one, with
/// its arguments, and tells the child.
macro_rules! fork_like {
    ($real:path) => {
        std::arch::naked_asm!(
            ".cfi_startproc",
            "endbr64",
            $crate::arch::enter!(),
            "cmp qword ptr [rip + {real}], 0",
            "jne 1f",
            "call {resolve}",
            "1:",
            $crate::arch::reload!(),
            "call qword ptr [rip + {real}]",
            "test rax, rax",
            "jnz 2f",
            "call {child}",
            "xor eax, eax",
            "2:",
            "leave",
            ".cfi_def_cfa rsp, 8",
            "ret",
            ".cfi_endproc",
            frame = const 160,
            real = sym $real,
            resolve = sym $crate::real::resolve_all,
            child = sym $crate::hooks::process::after_plain_fork,
        )
    };
}

pub(crate) use {around_entry, caller_entry, event_entry, fork_like};
