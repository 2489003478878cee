//! The one table of environment variables: the shim reads it, the collector
//! sets it and checks its options with the same parsers.

use crate::layout::{RING_MAX_BYTES, RING_MIN_BYTES};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// One variable.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The collector's option that sets it, if there is one.
    pub option: Option<&'static str>,
    /// What holds where it isn't set.
    pub default: &'static str,
    /// The values that it takes, for error messages.
    pub allowed: &'static str,
    /// What it is for.
    pub help: &'static str,
    set: fn(&mut Config, &OsStr) -> bool,
}

/// Every variable of the contract.
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "TRACESHIM_DIR",
        option: None,
        default: "$XDG_RUNTIME_DIR/traceshim, else /tmp/traceshim-UID",
        allowed: "an absolute path",
        help: "the session directory",
        set: |config, value| {
            config.dir = Some(PathBuf::from(value));
            config.dir.as_ref().is_some_and(|dir| dir.is_absolute())
        },
    },
    Variable {
        name: "TRACESHIM_CALLBACKS",
        option: Some("--callbacks"),
        default: "auto",
        allowed: "'auto', 'none', or a comma list of globs of function names, each may begin with '!' or 'inline:'",
        help: "which exported functions of the host are traced",
        set: |config, value| set_callbacks(config, value.as_bytes()).is_some(),
    },
    Variable {
        name: "TRACESHIM_CALLBACK_ARGS",
        option: Some("--callback-arg"),
        default: "",
        allowed: "a comma list of function:N, with N from 1 to 12; function:N@M=A-B wraps only where argument M is from A to B; no function that sets a signal's handler, and not clone",
        help: "function pointers that are wrapped where they are handed over",
        set: |config, value| set_callback_args(config, value.as_bytes()).is_some(),
    },
    Variable {
        name: "TRACESHIM_STACK_WORDS",
        option: None,
        default: "found out for each function",
        allowed: "a comma list of function:N, with N from 1 to 4096 words of 8 bytes",
        help: "how much traced functions take on the stack, instead of what is found out",
        set: |config, value| set_stack_words(config, value.as_bytes()).is_some(),
    },
    Variable {
        name: "TRACESHIM_HOST",
        option: Some("--host"),
        default: "auto",
        allowed: "'auto', or a comma list of globs of module file names, each may end with '!function'",
        help: "which modules are the host",
        set: |config, value| set_host(config, value.as_bytes()).is_some(),
    },
    Variable {
        name: "TRACESHIM_UNWINDER",
        option: Some("--unwinder"),
        default: "auto",
        allowed: "'auto', 'table' or 'frame-pointer'",
        help: "how stacks are taken",
        set: |config, value| choose(&mut config.unwinder, value, &UNWINDERS),
    },
    Variable {
        name: "TRACESHIM_STACK_DEPTH",
        option: Some("--stack-depth"),
        default: "128",
        allowed: "a number from 0 to 1024",
        help: "frames kept per stack; 0 takes no stacks",
        set: |config, value| {
            let depth = value.to_str().and_then(|v| v.parse().ok()).filter(|&depth| depth <= 1024);
            config.stack_depth = depth.unwrap_or_default();
            depth.is_some()
        },
    },
    Variable {
        name: "TRACESHIM_RING_BYTES",
        option: Some("--ring-size"),
        default: "16M",
        allowed: "a number of bytes from 64K to 16G, with the suffix K, M or G where wanted",
        help: "the size of a process's ring",
        set: |config, value| {
            let bytes = value.to_str().and_then(parse_bytes);
            config.ring_bytes = bytes.unwrap_or_default();
            bytes.is_some_and(|bytes| (RING_MIN_BYTES..=RING_MAX_BYTES).contains(&bytes))
        },
    },
    Variable {
        name: "TRACESHIM_OVERFLOW",
        option: Some("--overflow"),
        default: "drop",
        allowed: "'drop' or 'overwrite'",
        help: "what a full ring loses: the newest events or the oldest",
        set: |config, value| choose(&mut config.overflow, value, &OVERFLOWS),
    },
    Variable {
        name: "TRACESHIM_FOLLOW",
        option: Some("--no-follow"),
        default: "1",
        allowed: "'0' or '1'",
        help: "whether children are traced too",
        set: |config, value| choose(&mut config.follow, value, &[("0", false), ("1", true)]),
    },
    Variable {
        name: "TRACESHIM_SECCOMP",
        option: None,
        default: "auto",
        allowed: "'auto' or 'try'",
        help: "whether a filter of which nothing is known is tried out in a child process",
        set: |config, value| {
            choose(&mut config.filtered, value, &[("auto", Filtered::Auto), ("try", Filtered::Try)])
        },
    },
    Variable {
        name: "TRACESHIM_LOG",
        option: None,
        default: "error",
        allowed: "'off', 'error' or 'info'",
        help: "what the shim itself says on standard error",
        set: |config, value| choose(&mut config.log, value, &LOG_LEVELS),
    },
];

const UNWINDERS: [(&str, UnwinderChoice); 3] = [
    ("auto", UnwinderChoice::Auto),
    ("table", UnwinderChoice::Table),
    ("frame-pointer", UnwinderChoice::FramePointer),
];
const OVERFLOWS: [(&str, Overflow); 2] = [("drop", Overflow::Drop), ("overwrite", Overflow::Overwrite)];
const LOG_LEVELS: [(&str, LogLevel); 3] =
    [("off", LogLevel::Off), ("error", LogLevel::Error), ("info", LogLevel::Info)];

/// Which unwinder takes stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnwinderChoice {
    /// Frame pointers where they can be trusted, else the table.
    Auto,
    /// Always the table.
    Table,
    /// Always frame pointers, for diagnosis.
    FramePointer,
}

/// What a full ring does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Drops the newest events and counts them.
    Drop,
    /// Overwrites the oldest ones and counts them.
    Overwrite,
}

/// What the shim itself prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Why it doesn't trace.
    Error,
    /// What it does, too.
    Info,
}

/// What is done about a seccomp filter that was there before the program began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// It is tried out where something shows that it lets processes be made.
    Auto,
    /// It is tried out.
    Try,
}

/// Which functions of the host are hooked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// Whether what the host exports and C imports is hooked without being named.
    pub auto: bool,
    /// Globs of functions to hook in their callers' slots.
    pub include: Vec<Vec<u8>>,
    /// Globs of functions to leave alone.
    pub exclude: Vec<Vec<u8>>,
    /// Globs of functions to patch at their entry.
    pub inline: Vec<Vec<u8>>,
}

impl Callbacks {
    /// Whether any function is to be hooked.
    pub fn asks_for_any(&self) -> bool {
        self.auto || !self.include.is_empty() || !self.inline.is_empty()
    }

    /// Whether the exported function `name` is hooked in its callers' slots.
    pub fn selects(&self, name: &[u8]) -> bool {
        let any = |globs: &[Vec<u8>]| globs.iter().any(|glob| crate::glob::matches(glob, name));
        (self.auto || any(&self.include)) && !any(&self.exclude)
    }
}

/// An argument in which a function takes a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallbackArg {
    /// Which argument, from 1.
    pub argument: u8,
    /// It is a function only where another argument, from 1, has a value
    /// between these two.
    pub only_if: Option<(u8, u32, u32)>,
}

/// How many arguments a callback can be looked for in.
const MAX_ARGUMENT: u8 = 12;

/// Everything that the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The session directory, where one is named.
    pub dir: Option<PathBuf>,
    /// See [`Callbacks`].
    pub callbacks: Callbacks,
    /// Functions and the arguments in which they take a callback.
    pub callback_args: BTreeMap<Vec<u8>, Vec<CallbackArg>>,
    /// Globs of traced functions, and how many words of stack arguments they take.
    pub stack_words: Vec<(Vec<u8>, u16)>,
    /// Globs of host modules, with a function where only that is the host.
    /// Empty: the main executable, and recognised runtimes.
    pub host: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// How stacks are taken.
    pub unwinder: UnwinderChoice,
    /// Frames kept per stack.
    pub stack_depth: u32,
    /// Size of the ring file.
    pub ring_bytes: u64,
    /// What a full ring does.
    pub overflow: Overflow,
    /// Whether children are traced.
    pub follow: bool,
    /// See [`Filtered`].
    pub filtered: Filtered,
    /// What the shim prints.
    pub log: LogLevel,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            dir: None,
            callbacks: Callbacks { auto: true, ..Callbacks::default() },
            callback_args: BTreeMap::new(),
            stack_words: Vec::new(),
            host: Vec::new(),
            unwinder: UnwinderChoice::Auto,
            stack_depth: 128,
            ring_bytes: 16 << 20,
            overflow: Overflow::Drop,
            follow: true,
            filtered: Filtered::Auto,
            log: LogLevel::Error,
        }
    }
}

/// A variable whose value makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    /// The variable.
    pub name: &'static str,
    /// Its value.
    pub value: OsString,
    /// What of it is wrong, where the value is a list.
    pub item: Option<OsString>,
    /// What it may be.
    pub allowed: &'static str,
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}: ", self.name, self.value)?;
        if let Some(item) = &self.item {
            write!(f, "{item:?}: ")?;
        }
        write!(f, "must be {}", self.allowed)
    }
}

impl std::error::Error for BadValue {}

impl Config {
    /// How many words of stack arguments the traced function `name` takes, where
    /// that was said.
    pub fn stack_words_of(&self, name: &[u8]) -> Option<u16> {
        let said = self.stack_words.iter().find(|(glob, _)| crate::glob::matches(glob, name));
        said.map(|&(_, words)| words)
    }

    /// Reads every variable through `get`. An empty value counts as not set.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Config, BadValue> {
        let mut config = Config::default();
        // The level first, so that a bad value elsewhere is reported or not
        // as the user wants it.
        for variable in VARIABLES.iter().rev() {
            if let Some(value) = get(variable.name).filter(|value| !value.is_empty()) {
                variable.apply(&mut config, value)?;
            }
        }
        Ok(config)
    }
}

impl Variable {
    /// The variable of this name.
    pub fn named(name: &str) -> Option<&'static Variable> {
        VARIABLES.iter().find(|variable| variable.name == name)
    }

    /// Sets what the variable is for, or says what is wrong with the value.
    pub fn apply(&self, config: &mut Config, value: OsString) -> Result<(), BadValue> {
        if (self.set)(config, &value) {
            return Ok(());
        }
        // Of a list, what is wrong by itself; `none` is wrong beside others.
        let is_bad = |item: &&[u8]| !(self.set)(&mut Config::default(), OsStr::from_bytes(item));
        let list = value.as_bytes().contains(&b',').then(|| items(value.as_bytes()));
        let item = list.and_then(|mut list| list.find(is_bad)).map(|item| OsStr::from_bytes(item).to_owned());
        Err(BadValue { name: self.name, value, item, allowed: self.allowed })
    }
}

fn choose<T: Copy>(to: &mut T, value: &OsStr, choices: &[(&str, T)]) -> bool {
    match choices.iter().find(|(name, _)| value == *name) {
        Some(&(_, choice)) => {
            *to = choice;
            true
        }
        None => false,
    }
}

/// `16M`, `64K`, `1G` or a plain number, as bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(|item| item.trim_ascii())
}

fn set_callbacks(config: &mut Config, value: &[u8]) -> Option<()> {
    let mut callbacks = Callbacks::default();
    let mut only_excludes = true;
    for item in items(value) {
        let (list, glob) = match item {
            b"auto" => {
                callbacks.auto = true;
                continue;
            }
            b"none" if value.trim_ascii() == b"none" => {
                only_excludes = false;
                continue;
            }
            [b'!', glob @ ..] => (&mut callbacks.exclude, glob),
            item => match item.strip_prefix(b"inline:") {
                Some(glob) => (&mut callbacks.inline, glob),
                None => {
                    only_excludes = false;
                    (&mut callbacks.include, item)
                }
            },
        };
        if glob.is_empty() || glob == b"none" || glob.starts_with(b"!") {
            return None;
        }
        list.push(glob.to_vec());
    }
    // `!name` alone means everything but that.
    callbacks.auto |= only_excludes && callbacks.inline.is_empty();
    config.callbacks = callbacks;
    Some(())
}

fn set_callback_args(config: &mut Config, value: &[u8]) -> Option<()> {
    config.callback_args.clear();
    for item in items(value) {
        let (function, argument) = parse_callback_arg(item)?;
        let arguments = config.callback_args.entry(function.to_vec()).or_default();
        if !arguments.contains(&argument) {
            arguments.push(argument);
        }
    }
    Some(())
}

/// Functions whose pointers can't be wrapped. Some return the pointer that they
/// were given before, which programs compare; some take it in a structure; and
/// what `clone` calls has no caller.
const UNWRAPPABLE: [&[u8]; 9] = [
    b"signal",
    b"bsd_signal",
    b"sysv_signal",
    b"__sysv_signal",
    b"ssignal",
    b"sigset",
    b"sigaction",
    b"__sigaction",
    b"clone",
];

/// `qsort:4`, or `curl_easy_setopt:3@2=20000-29999`.
pub fn parse_callback_arg(item: &[u8]) -> Option<(&[u8], CallbackArg)> {
    let colon = item.iter().rposition(|&b| b == b':').filter(|&at| at > 0)?;
    let (function, rest) = (item.get(..colon)?, std::str::from_utf8(item.get(colon + 1..)?).ok()?);
    let number = |text: &str| text.parse().ok().filter(|n| (1..=MAX_ARGUMENT).contains(n));
    let (argument, condition) = match rest.split_once('@') {
        Some((argument, condition)) => (argument, Some(condition)),
        None => (rest, None),
    };
    let only_if = match condition {
        Some(condition) => {
            let (other, range) = condition.split_once('=')?;
            let (from, to) = range.split_once('-')?;
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            if from > to {
                return None;
            }
            Some((number(other)?, from, to))
        }
        None => None,
    };
    let callback = CallbackArg { argument: number(argument)?, only_if };
    // Names are whole ones here.
    let is_name = !function.iter().any(|b| b"*?[] \t!".contains(b));
    (is_name && !UNWRAPPABLE.contains(&function)).then_some((function, callback))
}

fn set_stack_words(config: &mut Config, value: &[u8]) -> Option<()> {
    config.stack_words = items(value)
        .map(|item| {
            let colon = item.iter().rposition(|&b| b == b':').filter(|&at| at > 0)?;
            let words = std::str::from_utf8(item.get(colon + 1..)?).ok()?.parse().ok()?;
            (1..=4096).contains(&words).then(|| Some((item.get(..colon)?.to_vec(), words)))?
        })
        .collect::<Option<_>>()?;
    Some(())
}

fn set_host(config: &mut Config, value: &[u8]) -> Option<()> {
    if value == b"auto" {
        return Some(());
    }
    config.host = items(value)
        .map(|item| match item.iter().position(|&b| b == b'!') {
            Some(0) => None,
            Some(at) => {
                let function = item.get(at + 1..)?;
                (!function.is_empty()).then(|| Some((item.get(..at)?.to_vec(), Some(function.to_vec()))))?
            }
            None => (!item.is_empty()).then(|| (item.to_vec(), None)),
        })
        .collect::<Option<_>>()?;
    Some(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, BadValue> {
        Config::read(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(read(&[]), Ok(Config::default()));
        assert_eq!(read(&[("TRACESHIM_UNWINDER", "")]), Ok(Config::default()));
    }

    #[test]
    fn each_variable_says_what_it_takes() {
        for (name, bad) in [
            ("TRACESHIM_DIR", "relative"),
            ("TRACESHIM_CALLBACKS", "a,,b"),
            ("TRACESHIM_CALLBACKS", "none,x"),
            ("TRACESHIM_CALLBACK_ARGS", "qsort"),
            ("TRACESHIM_CALLBACK_ARGS", "qsort:0"),
            ("TRACESHIM_CALLBACK_ARGS", "qsort:13"),
            ("TRACESHIM_CALLBACK_ARGS", "signal:2"),
            ("TRACESHIM_CALLBACK_ARGS", "sigaction:2"),
            ("TRACESHIM_CALLBACK_ARGS", "set:3@2"),
            ("TRACESHIM_CALLBACK_ARGS", "set:3@0=1-2"),
            ("TRACESHIM_CALLBACK_ARGS", "set:3@2=1"),
            ("TRACESHIM_CALLBACK_ARGS", "set:3@2=9-3"),
            ("TRACESHIM_CALLBACK_ARGS", "q*:4"),
            ("TRACESHIM_CALLBACKS", "inline:!f"),
            ("TRACESHIM_STACK_WORDS", "f"),
            ("TRACESHIM_STACK_WORDS", "f:0"),
            ("TRACESHIM_STACK_WORDS", "f:4097"),
            ("TRACESHIM_HOST", "!f"),
            ("TRACESHIM_UNWINDER", "fp"),
            ("TRACESHIM_STACK_DEPTH", "-1"),
            ("TRACESHIM_STACK_DEPTH", "1025"),
            ("TRACESHIM_RING_BYTES", "1K"),
            ("TRACESHIM_RING_BYTES", "99999999999999999999"),
            ("TRACESHIM_RING_BYTES", "16MB"),
            ("TRACESHIM_OVERFLOW", "wrap"),
            ("TRACESHIM_FOLLOW", "yes"),
            ("TRACESHIM_LOG", "debug"),
        ] {
            let error = read(&[(name, bad)]).expect_err(bad);
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(bad) && text.contains(error.allowed), "{text}");
        }
    }

    #[test]
    fn of_a_list_the_bad_entry_is_named() {
        for (name, list, bad) in [
            ("TRACESHIM_CALLBACK_ARGS", "qsort:4,f:0,g:1", "f:0"),
            ("TRACESHIM_CALLBACK_ARGS", "qsort:4, signal:2", "signal:2"),
            ("TRACESHIM_CALLBACKS", "host_*,!,f", "!"),
            ("TRACESHIM_HOST", "a.out,!f", "!f"),
        ] {
            let text = read(&[(name, list)]).expect_err(list).to_string();
            assert!(text.starts_with(&format!("{name}={list:?}: {bad:?}: must be ")), "{text}");
        }
    }

    #[test]
    fn callbacks_select_by_glob() {
        let all = read(&[("TRACESHIM_CALLBACKS", "!Py*")]).unwrap().callbacks;
        assert!(all.selects(b"host_f") && !all.selects(b"PyLong_AsLong"));
        let some = read(&[("TRACESHIM_CALLBACKS", "host_*,!host_quiet")]).unwrap().callbacks;
        assert!(some.selects(b"host_f") && !some.selects(b"host_quiet") && !some.selects(b"g"));
        assert!(!read(&[("TRACESHIM_CALLBACKS", "none")]).unwrap().callbacks.selects(b"f"));
        let inline = read(&[("TRACESHIM_CALLBACKS", "inline:f")]).unwrap().callbacks;
        assert!(!inline.selects(b"f") && inline.inline == [b"f"]);
    }

    #[test]
    fn lists_and_sizes() {
        let config = read(&[
            ("TRACESHIM_CALLBACK_ARGS", "qsort:4, scandir:3,scandir:4,qsort:4,set:12@2=5-9"),
            ("TRACESHIM_HOST", "libpython*.so*,a.out!f"),
            ("TRACESHIM_RING_BYTES", "64k"),
        ])
        .unwrap();
        let arg = |argument| CallbackArg { argument, only_if: None };
        let expected = BTreeMap::from([
            (b"qsort".to_vec(), vec![arg(4)]),
            (b"scandir".to_vec(), vec![arg(3), arg(4)]),
            (b"set".to_vec(), vec![CallbackArg { argument: 12, only_if: Some((2, 5, 9)) }]),
        ]);
        assert_eq!(config.callback_args, expected);
        assert_eq!(
            config.host,
            [(b"libpython*.so*".to_vec(), None), (b"a.out".to_vec(), Some(b"f".to_vec()))]
        );
        assert_eq!(config.ring_bytes, 65536);
    }
}
