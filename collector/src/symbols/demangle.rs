//! Names as people write them.

use std::borrow::Cow;

/// The longest name that is demangled: demanglers recurse, and a name can be
/// made to expand without end.
const MANGLED_CAP_BYTES: usize = 4096;

/// The name of a symbol, demangled where it is mangled and that is wanted.
/// Bytes that aren't UTF-8 become `\xNN`.
pub(crate) fn name(raw: &[u8], demangle: bool) -> String {
    let text = utf8(raw);
    // Without its prefix a short C name can be that of a C++ operator: `pt`.
    let is_mangled = text.trim_start_matches('_').len() < text.len() && text.contains(['Z', 'R', 'D']);
    if !demangle || !is_mangled || raw.len() > MANGLED_CAP_BYTES {
        return text.into_owned();
    }
    addr2line::demangle_auto(text, None).into_owned()
}

/// Text whose invalid bytes are written out as `\xNN`.
pub(crate) fn utf8(raw: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(raw) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(raw.len() + 8);
    for chunk in raw.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mangled_is_demangled_and_the_rest_left_alone() {
        assert_eq!(name(b"_ZN3foo3barEv", true), "foo::bar()");
        assert_eq!(name(b"_ZN3foo3barEv", false), "_ZN3foo3barEv");
        assert_eq!(name(b"_RNvC6_123foo3bar", true), "123foo::bar");
        assert_eq!(name(b"_ZN4core3ptr4drop17h0123456789abcdefE", true), "core::ptr::drop");
        assert_eq!(name(b"main.(*T).Run", true), "main.(*T).Run");
        for c in ["pt", "dl", "nw", "ix", "cl", "aa", "_st", "__pt"] {
            assert_eq!(name(c.as_bytes(), true), c);
        }
        assert_eq!(name(b"__libc_start_main", true), "__libc_start_main");
        assert_eq!(name(b"a\xffb", true), "a\\xffb");
    }
}
