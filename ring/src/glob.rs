//! Shell-style patterns over names: `*`, `?` and `[a-z]`.

/// Whether `name` matches `pattern` as a whole. `*` stands for any bytes, `?`
/// for one, `[abc]`, `[a-z]` and `[!abc]` for one of a set.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (pattern, name);
    // Where to go on when the part after the last star doesn't fit here.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', rest)) = p.split_first() {
            retry = Some((rest, n));
            p = rest;
            continue;
        }
        if let Some((&c, name_rest)) = n.split_first() {
            if let Some(pattern_rest) = one(p, c) {
                (p, n) = (pattern_rest, name_rest);
                continue;
            }
        } else if p.is_empty() {
            return true;
        }
        match retry {
            Some((after, [_, rest @ ..])) => {
                retry = Some((after, rest));
                (p, n) = (after, rest);
            }
            _ => return false,
        }
    }
}

/// The pattern after its first element, where that element takes `c`.
fn one(pattern: &[u8], c: u8) -> Option<&[u8]> {
    let (&first, rest) = pattern.split_first()?;
    match first {
        b'?' => Some(rest),
        b'[' => {
            // A set that doesn't end is an ordinary bracket.
            let Some(len) = rest.iter().skip(1).position(|&b| b == b']') else {
                return (c == b'[').then_some(rest);
            };
            let (set, after) = rest.split_at(len + 1);
            let (negated, set) = match set.split_first() {
                Some((b'!' | b'^', set)) => (true, set),
                _ => (false, set),
            };
            (in_set(set, c) != negated).then(|| after.get(1..).unwrap_or_default())
        }
        b'\\' => match rest.split_first() {
            Some((&literal, rest)) => (literal == c).then_some(rest),
            None => (c == b'\\').then_some(rest),
        },
        literal => (literal == c).then_some(rest),
    }
}

fn in_set(mut set: &[u8], c: u8) -> bool {
    while let Some((&low, rest)) = set.split_first() {
        if let [b'-', high, after @ ..] = rest {
            if (low..=*high).contains(&c) {
                return true;
            }
            set = after;
        } else {
            if low == c {
                return true;
            }
            set = rest;
        }
    }
    false
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("host_*", "host_called", true),
            ("host_*", "ghost_called", false),
            ("*_thread", "host_thread_thread", true),
            ("a*b*c", "aXbYbZc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
