//! Names as people write them.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// The longest name that is demangled: demanglers recurse.
const MANGLED_CAP_BYTES: usize = 4096;

/// How many times as long a name may get.
const GROWTH: usize = 64;

/// The name of a symbol, demangled where it is mangled and that is wanted.
/// Bytes that aren't UTF-8 become `\xNN`.
pub(crate) fn name(raw: &[u8], demangle: bool) -> String {
    let text = utf8(raw);
    // Without its prefix a short C name can be that of a C++ operator: `pt`.
    let is_mangled = text.trim_start_matches('_').len() < text.len() && text.contains(['Z', 'R', 'D']);
    if !demangle || !is_mangled || raw.len() > MANGLED_CAP_BYTES {
        return text.into_owned();
    }
    let mut short = Bounded { text: String::new(), left: GROWTH * raw.len() };
    let written = match rustc_demangle::try_demangle(&text) {
        // `#`: without the hash at the end.
        Ok(rust) => write!(short, "{rust:#}").is_ok(),
        Err(_) => cpp_demangle::Symbol::new(&*text).is_ok_and(|cpp| {
            cpp.structured_demangle(&mut short, &cpp_demangle::DemangleOptions::default()).is_ok()
        }),
    };
    if written { short.text } else { text.into_owned() }
}

/// Text of no more than so many bytes. Parts of a mangled name refer to others,
/// so that a few can stand for millions.
struct Bounded {
    text: String,
    left: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.left = self.left.checked_sub(part.len()).ok_or(fmt::Error)?;
        self.text.push_str(part);
        Ok(())
    }
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
    fn a_name_that_grows_without_end_stays_as_it_is() {
        // Would be a megabyte.
        assert_eq!(name(b"_RYB_B_", true), "_RYB_B_");
        // Each template's arguments are the one before, twice.
        let mut cpp = String::from("_Z1f1AIiiE");
        for before in "0123456789ABCDEFGHIJ".chars() {
            cpp += &format!("S_IS{before}_S{before}_E");
        }
        assert!(name(&cpp.as_bytes()[..30], true).starts_with("f(A<int, int>, A<A<int, int>, A<int, int> >"));
        assert_eq!(name(cpp.as_bytes(), true), cpp);
    }

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
