//! Presets: which functions of common libraries take callbacks, and in which
//! arguments. What the shim wraps is `TRACESHIM_CALLBACK_ARGS`; a preset is a
//! part of such a list that nobody has to write again.
//!
//! A preset is a file beside this one: a title, `#include` lines with the
//! headers that declare the functions (a test compares), and a function a line
//! with its arguments, in the form that the variable has behind the colon.
//! `~5` is one that takes a function and is left alone; `=6` is a pointer of
//! another type that the library compares with functions that it was given.

use std::fmt::Write as _;
use std::sync::LazyLock;

use traceshim_ring::env::{CallbackArg, parse_callback_arg};

/// A library, and what of it takes callbacks.
pub(crate) struct Preset {
    /// What the user calls it.
    pub(crate) name: &'static str,
    /// What the library calls itself.
    pub(crate) title: &'static str,
    functions: Vec<Function>,
}

struct Function {
    name: &'static str,
    /// As in `4` or `3@2=20000-29999`.
    arguments: Vec<&'static str>,
}

/// Every preset.
pub(crate) static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    let files = [
        ("libc", include_str!("libc.txt")),
        ("curl", include_str!("curl.txt")),
        ("expat", include_str!("expat.txt")),
        ("gio", include_str!("gio.txt")),
        ("glib", include_str!("glib.txt")),
        ("libevent", include_str!("libevent.txt")),
        ("libuv", include_str!("libuv.txt")),
        ("openssl", include_str!("openssl.txt")),
        ("sqlite3", include_str!("sqlite3.txt")),
        ("zlib", include_str!("zlib.txt")),
    ];
    files.map(|(name, text)| Preset::parse(name, text)).into()
});

impl Preset {
    fn parse(name: &'static str, text: &'static str) -> Preset {
        let title = text.lines().next().unwrap_or_default().trim_start_matches("# ");
        let mut functions = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            if let Some(name) = words.next() {
                let wrapped = words.filter(|word| !word.starts_with('~'));
                let arguments = wrapped.map(|word| word.trim_start_matches('=')).collect();
                functions.push(Function { name, arguments });
            }
        }
        Preset { name, title, functions }
    }

    /// As `--callback-arg` and `TRACESHIM_CALLBACK_ARGS` take them.
    pub(crate) fn items(&self) -> impl Iterator<Item = String> {
        self.functions.iter().flat_map(Function::items)
    }
}

impl Function {
    fn items(&self) -> impl Iterator<Item = String> {
        self.arguments.iter().map(|argument| format!("{}:{argument}", self.name))
    }
}

/// The preset of this name.
pub(crate) fn named(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// What there is, for people.
pub(crate) fn list() -> String {
    let mut text = String::new();
    for preset in PRESETS.iter() {
        let _ = writeln!(text, "{} ({}, {} functions)", preset.name, preset.title, preset.functions.len());
        let mut column = 0;
        for item in preset.items() {
            if column > 0 && column + item.len() > 110 {
                text.push('\n');
                column = 0;
            }
            text.push_str(if column == 0 { "    " } else { " " });
            text.push_str(&item);
            column += item.len() + 1;
        }
        text.push_str("\n\n");
    }
    text
}

/// Where a function is in a preset: which one, and its arguments.
pub(crate) fn taker(function: &[u8]) -> Option<(&'static str, Vec<CallbackArg>)> {
    PRESETS.iter().find_map(|preset| {
        let found = preset.functions.iter().find(|f| f.name.as_bytes() == function)?;
        let arguments = found.items().filter_map(|item| Some(parse_callback_arg(item.as_bytes())?.1));
        Some((preset.name, arguments.collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::ffi::OsString;
    use traceshim_ring::env::Config;

    #[test]
    fn the_shim_takes_every_item_and_no_function_is_there_twice() {
        let mut seen = BTreeSet::new();
        for preset in PRESETS.iter() {
            assert!(!preset.functions.is_empty() && !preset.title.is_empty(), "{}", preset.name);
            let value: Vec<String> = preset.items().collect();
            let value = OsString::from(value.join(","));
            let config = Config::read(|name| (name == "TRACESHIM_CALLBACK_ARGS").then(|| value.clone()));
            assert_eq!(config.unwrap().callback_args.len(), preset.functions.len(), "{}", preset.name);
            for function in &preset.functions {
                assert!(seen.insert(function.name), "{} is there twice", function.name);
            }
        }
    }

    #[test]
    fn takers_are_found_by_name() {
        let (preset, arguments) = taker(b"scandir").unwrap();
        assert_eq!((preset, arguments.len()), ("libc", 2));
        // What is compared with wrapped pointers must be wrapped, too.
        assert_eq!(taker(b"g_signal_handlers_disconnect_matched").unwrap().1[0].argument, 6);
        assert!(taker(b"signal").is_none() && taker(b"pthread_create").is_none());
        assert!(list().contains("libc (The C library, "));
    }
}
