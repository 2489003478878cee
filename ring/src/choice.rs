//! What is traced of a program: whose side a module is on, and which of the
//! host's functions are hooked. The shim decides by it, and the collector's
//! `doctor` says beforehand what the shim will decide.

use crate::env::Config;
use crate::glob;
use std::ffi::CStr;

/// Whose side a module is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Its exported functions are what C calls back.
    Host,
    /// Everything else of the program's.
    CSide,
    /// A C++ runtime, which makes threads in its caller's name.
    Forwarder,
    /// The loader and the vdso: never touched. (So is the shim, which knows
    /// itself by its address.)
    Untouchable,
}

/// What the Python interpreter exports, in whatever module it is.
pub const INTERPRETER: &CStr = c"Py_BytesMain";

/// Allocators that a host brings along are interposed, not called back: they
/// are left alone unless they are named.
const ALLOCATORS: [&[u8]; 12] = [
    b"malloc",
    b"free",
    b"calloc",
    b"realloc",
    b"reallocarray",
    b"memalign",
    b"aligned_alloc",
    b"posix_memalign",
    b"valloc",
    b"pvalloc",
    b"malloc_usable_size",
    b"cfree",
];

impl Side {
    /// That of the module at `path`. `first`: it is the main executable.
    /// `exports_interpreter`: whether it exports [`INTERPRETER`].
    pub fn of(config: &Config, path: &[u8], first: bool, exports_interpreter: impl FnOnce() -> bool) -> Side {
        let name = file_name(path);
        let begins = |prefixes: [&[u8]; 2]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if !first && (name.is_empty() || begins([b"ld-linux", b"linux-vdso"])) {
            return Side::Untouchable;
        }
        let is_host = match config.host.as_slice() {
            // A program that only starts an interpreter in a library is not
            // what the library's C modules call back: the interpreter is.
            [] => first || exports_interpreter(),
            globs => globs.iter().any(|(glob, _)| is_named(path, glob)),
        };
        match is_host {
            true => Side::Host,
            false if begins([b"libstdc++.so", b"libc++.so"]) => Side::Forwarder,
            false => Side::CSide,
        }
    }
}

/// Whether a function that the host module at `path` exports counts as the
/// host's: where `TRACESHIM_HOST` names functions, only those do.
pub fn is_host_function(config: &Config, path: &[u8], function: &[u8]) -> bool {
    config.host.iter().all(|(glob, only)| match only {
        Some(only) if is_named(path, glob) => glob::matches(only, function),
        _ => true,
    })
}

/// Whether the host's function of this name is hooked in its callers' slots, if
/// it isn't interposed.
pub fn is_wanted(config: &Config, name: &[u8]) -> bool {
    config.callbacks.selects(name) && (is_named_in_full(config, name) || !is_internal(name))
}

/// Whether a host that exports this name stands before a function of the
/// toolchain's, as sanitizers do, and isn't called back. `is_toolchains`: whether
/// one of its libraries (see [`is_of_toolchain`]) has the function, too.
pub fn is_interposed(config: &Config, name: &[u8], is_toolchains: impl FnOnce() -> bool) -> bool {
    !is_named_in_full(config, name) && is_toolchains()
}

/// Whether the module at `path` is a library that compilers link programs with.
pub fn is_of_toolchain(path: &[u8]) -> bool {
    const NAMES: [&[u8]; 10] = [
        b"libc.so",
        b"libm.so",
        b"libpthread.so",
        b"libdl.so",
        b"librt.so",
        b"libgcc_s.so",
        b"libstdc++.so",
        b"libc++.so",
        b"libc++abi.so",
        b"libunwind.so",
    ];
    NAMES.iter().any(|name| file_name(path).starts_with(name))
}

fn is_named_in_full(config: &Config, name: &[u8]) -> bool {
    config.callbacks.include.iter().any(|glob| glob == name)
}

/// Whether the host's function of this name, exported or not, is patched at its
/// entry.
pub fn is_wanted_inline(config: &Config, name: &[u8]) -> bool {
    let any = |globs: &[Vec<u8>]| globs.iter().any(|glob| glob::matches(glob, name));
    let callbacks = &config.callbacks;
    let named = || callbacks.inline.iter().any(|glob| glob == name);
    any(&callbacks.inline) && !any(&callbacks.exclude) && (!is_internal(name) || named())
}

/// Whether nobody wrote a call of it: an allocator, or a function whose name is
/// reserved for compilers and their libraries (C11 7.1.3), such as what they
/// instrument code with.
fn is_internal(name: &[u8]) -> bool {
    is_allocator(name) || [&b"__"[..], b"_Unwind_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Whether it allocates or frees memory: `malloc` and its family, C++'s
/// `operator new` and `delete`.
pub fn is_allocator(name: &[u8]) -> bool {
    ALLOCATORS.contains(&name) || name.starts_with(b"_Zn") || name.starts_with(b"_Zd")
}

/// Whether a pattern means the module at `path`, by its file name or all of it.
fn is_named(path: &[u8], glob: &[u8]) -> bool {
    glob::matches(glob, file_name(path)) || glob::matches(glob, path)
}

/// What follows the last slash.
pub fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn config(name: &str, value: &str) -> Config {
        Config::read(|asked| (asked == name).then(|| OsString::from(value))).unwrap()
    }

    fn side(config: &Config, path: &str, first: bool, interpreter: bool) -> Side {
        Side::of(config, path.as_bytes(), first, || interpreter)
    }

    #[test]
    fn the_executable_and_the_interpreter_are_the_host() {
        let auto = Config::default();
        assert_eq!(side(&auto, "/bin/app", true, false), Side::Host);
        assert_eq!(side(&auto, "", true, false), Side::Host);
        assert_eq!(side(&auto, "/lib/libpython3.11.so.1.0", false, true), Side::Host);
        assert_eq!(side(&auto, "/lib/libfoo.so", false, false), Side::CSide);
        assert_eq!(side(&auto, "/lib/libstdc++.so.6", false, false), Side::Forwarder);
        for path in ["/lib64/ld-linux-x86-64.so.2", "linux-vdso.so.1", ""] {
            assert_eq!(side(&auto, path, false, false), Side::Untouchable);
        }
    }

    #[test]
    fn what_compilers_and_their_libraries_have_is_no_callback_unless_it_is_named() {
        let (auto, named) =
            (Config::default(), config("TRACESHIM_CALLBACKS", "auto,__tsan_read8,qsort,malloc"));
        for name in [&b"__tsan_read8"[..], b"__gmon_start__", b"_Unwind_Resume", b"malloc", b"_Znwm"] {
            assert!(!is_wanted(&auto, name));
            assert!(is_wanted(&named, name) == [&b"__tsan_read8"[..], b"malloc"].contains(&name));
        }
        assert!(is_wanted(&auto, b"_PyErr_Format") && is_wanted(&auto, b"_init_row"));
        assert!(is_interposed(&auto, b"qsort", || true) && !is_interposed(&auto, b"qsort", || false));
        assert!(!is_interposed(&named, b"qsort", || true));
        assert!(is_of_toolchain(b"/lib/libc.so.6") && !is_of_toolchain(b"/lib/libcurl.so.4"));
    }

    #[test]
    fn a_named_host_replaces_them() {
        let named = config("TRACESHIM_HOST", "libengine.so*,/opt/app!on_*");
        assert_eq!(side(&named, "/bin/app", true, true), Side::CSide);
        assert_eq!(side(&named, "/lib/libengine.so.1", false, false), Side::Host);
        assert_eq!(side(&named, "/opt/app", true, false), Side::Host);
        assert!(is_host_function(&named, b"/opt/app", b"on_row"));
        assert!(!is_host_function(&named, b"/opt/app", b"off_row"));
        assert!(is_host_function(&named, b"/lib/libengine.so", b"off_row"));
    }

    #[test]
    fn entries_are_patched_where_inline_names_them() {
        let inline = config("TRACESHIM_CALLBACKS", "inline:host_*,!host_hot,inline:free,g");
        assert!(is_wanted_inline(&inline, b"host_f") && is_wanted_inline(&inline, b"free"));
        assert!(!is_wanted_inline(&inline, b"host_hot") && !is_wanted_inline(&inline, b"g"));
        let globs = config("TRACESHIM_CALLBACKS", "inline:*");
        assert!(is_wanted_inline(&globs, b"f") && !is_wanted_inline(&globs, b"malloc"));
    }

    #[test]
    fn allocators_must_be_named_in_full() {
        let globs = config("TRACESHIM_CALLBACKS", "*,free");
        assert!(is_wanted(&globs, b"host_f") && is_wanted(&globs, b"free"));
        assert!(!is_wanted(&globs, b"malloc") && !is_wanted(&globs, b"_Znwm"));
        assert!(!is_wanted(&config("TRACESHIM_CALLBACKS", "none"), b"host_f"));
    }
}
