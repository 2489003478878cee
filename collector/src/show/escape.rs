//! Text from traced programs, made harmless for where it is shown.
//!
//! For people: control characters, and those that reorder text, become
//! `\u{..}`; bytes that aren't UTF-8 become `\xNN`; a backslash is doubled, so
//! that nothing can pretend to be an escape. In JSON: control characters become
//! `\u00NN`, bytes that aren't UTF-8 become the four characters `\xNN`, and what
//! would end a script or begin a comment in a page is written with `\u003c`.

use std::fmt::Write as _;

/// Appends `bytes` for a terminal or a text file.
pub(crate) fn text(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.iter().all(|&b| (b' '..=b'~').contains(&b) && b != b'\\') {
        out.extend_from_slice(bytes);
        return;
    }
    let mut escaped = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => escaped.push_str("\\\\"),
                '\n' => escaped.push_str("\\n"),
                '\t' => escaped.push_str("\\t"),
                '\r' => escaped.push_str("\\r"),
                c if c.is_control() || reorders(c) => {
                    let _ = write!(escaped, "\\u{{{:x}}}", c as u32);
                }
                c => escaped.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    out.extend_from_slice(escaped.as_bytes());
}

/// The same, as a string.
pub(crate) fn text_string(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    text(bytes, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends `bytes` as a JSON string, quotes included.
pub(crate) fn json(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if bytes.iter().all(|&b| (b' '..=b'~').contains(&b) && b != b'\\' && b != b'"' && b != b'<') {
        out.extend_from_slice(bytes);
    } else {
        json_escaped(bytes, out);
    }
    out.push(b'"');
}

#[cold]
fn json_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let mut escaped = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        let mut chars = chunk.valid().chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '<' if matches!(chars.peek(), Some('/' | '!')) => escaped.push_str("\\u003c"),
                '"' => escaped.push_str("\\\""),
                '\\' => escaped.push_str("\\\\"),
                '\n' => escaped.push_str("\\n"),
                '\t' => escaped.push_str("\\t"),
                '\r' => escaped.push_str("\\r"),
                c if c.is_control() => {
                    let _ = write!(escaped, "\\u{:04x}", c as u32);
                }
                c => escaped.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(escaped, "\\\\x{byte:02x}");
        }
    }
    out.extend_from_slice(escaped.as_bytes());
}

/// Characters that change the direction or the place of what follows.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json_of(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        json(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn terminals_get_no_escape_sequences() {
        assert_eq!(text_string(b"plain"), "plain");
        assert_eq!(text_string(b"\x1b[31m\n\xff\\"), "\\u{1b}[31m\\n\\xff\\\\");
        assert_eq!(text_string("é\u{9b}\u{202e}".as_bytes()), "é\\u{9b}\\u{202e}");
    }

    #[test]
    fn json_can_stand_in_a_page() {
        assert_eq!(json_of(b"a<b></script><!--"), r#""a<b>\u003c/script>\u003c!--""#);
        let parsed: String = serde_json::from_str(&json_of(b"</script><!-- <<!")).unwrap();
        assert_eq!(parsed, "</script><!-- <<!");
    }

    proptest! {
        #[test]
        fn text_is_one_printable_line(bytes: Vec<u8>) {
            let text = text_string(&bytes);
            prop_assert!(text.chars().all(|c| !c.is_control() && !reorders(c)));
        }

        #[test]
        fn json_is_json_and_keeps_valid_text(bytes: Vec<u8>, valid: String) {
            let parsed: String = serde_json::from_str(&json_of(&bytes)).unwrap();
            prop_assert!(parsed.len() >= bytes.utf8_chunks().map(|c| c.valid().len()).sum());
            let parsed: String = serde_json::from_str(&json_of(valid.as_bytes())).unwrap();
            prop_assert_eq!(parsed, valid);
        }
    }
}
