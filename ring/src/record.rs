//! Records: what a thread writes into its chunk, encode beside decode.
//!
//! A record is a header word and up to 254 words of body. The header carries
//! the kind, the record's length and the time since the thread's previous
//! record, so that an unknown kind can be skipped without losing the clock.

use crate::layout::Ref;
use crate::stack::Unwinder;

/// Kinds are append-only.
pub mod kind {
    #![allow(missing_docs)] // Each is documented at its variant of `Record`.
    pub const OWNER: u8 = 1;
    pub const TIME: u8 = 2;
    pub const CALLBACK_ENTER: u8 = 3;
    pub const CALLBACK_EXIT: u8 = 4;
    pub const THREAD_BIRTH: u8 = 5;
    pub const THREAD_START: u8 = 6;
    pub const THREAD_EXIT: u8 = 7;
    pub const THREAD_NAME: u8 = 8;
    pub const LOG: u8 = 9;
    pub const TEXT: u8 = 10;
    pub const REGION_BEGIN: u8 = 11;
    pub const REGION_END: u8 = 12;
    pub const TASK_BEGIN: u8 = 13;
    pub const TASK_END: u8 = 14;
    pub const MODULE_LOAD: u8 = 15;
    pub const MODULE_UNLOAD: u8 = 16;
    pub const FORK: u8 = 17;
    pub const EXEC: u8 = 18;
}

/// The longest body, in words.
pub const BODY_MAX_WORDS: usize = 254;
/// The most text that one record carries, in bytes.
pub const TEXT_MAX: usize = 1024;

/// Who made a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Origin {
    /// First seen in mid-life, or made by a raw clone.
    Unknown = 0,
    /// The thread that runs `main`.
    Main = 1,
    /// Made by the host.
    Host = 2,
    /// Made by C code: born in C.
    C = 3,
}

impl Origin {
    /// The name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Origin::Unknown => "unknown",
            Origin::Main => "main",
            Origin::Host => "host",
            Origin::C => "c",
        }
    }

    /// The origin for a code; codes that this version doesn't know are unknown.
    pub const fn from_code(code: u16) -> Origin {
        match code {
            1 => Origin::Main,
            2 => Origin::Host,
            3 => Origin::C,
            _ => Origin::Unknown,
        }
    }
}

/// A stack as an event names it: the reference of the innermost frame's node,
/// and one bit for the unwinder that took it. 0 means that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StackRef(pub u32);

impl StackRef {
    const FRAME_POINTER: u32 = 1 << 31;
    /// No stack was taken.
    pub const NONE: StackRef = StackRef(0);

    /// A stack whose innermost frame is `node`.
    pub const fn new(node: Ref, unwinder: Unwinder) -> StackRef {
        match unwinder {
            Unwinder::Table => StackRef(node),
            Unwinder::FramePointer => StackRef(node | Self::FRAME_POINTER),
        }
    }
    /// Whether there is no stack.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
    /// The innermost frame's node, or the status of a stack without frames.
    pub const fn node(self) -> Ref {
        self.0 & !Self::FRAME_POINTER
    }
    /// Who took the innermost frames.
    pub const fn unwinder(self) -> Unwinder {
        if self.0 & Self::FRAME_POINTER != 0 { Unwinder::FramePointer } else { Unwinder::Table }
    }
}

/// A record's first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// See [`kind`].
    pub kind: u8,
    /// Words, this one included; at least 1.
    pub len: u8,
    /// What the kind makes of it.
    pub arg: u16,
    /// Ticks since the thread's previous record.
    pub delta: u32,
}

impl Head {
    /// The word.
    pub const fn word(self) -> u64 {
        self.kind as u64 | (self.len as u64) << 8 | (self.arg as u64) << 16 | (self.delta as u64) << 32
    }
    /// The parts of a word.
    pub const fn of(word: u64) -> Head {
        Head {
            kind: word as u8,
            len: (word >> 8) as u8,
            arg: (word >> 16) as u16,
            delta: (word >> 32) as u32,
        }
    }
    /// Whether the record counts as an event: what is counted when it's lost.
    pub const fn is_event(self) -> bool {
        !matches!(self.kind, kind::OWNER | kind::TIME | kind::TEXT)
    }
}

/// Two 32-bit halves as a word.
pub const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// One decoded record. `delta` is in ticks since the thread's previous record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields' names say what they are; units are above.
pub enum Record<'a> {
    /// From here on, the chunk's records are this thread's. `uid` is the
    /// thread's serial number in its process (kernel ids are reused), `creator`
    /// that of the thread that made it or 0, `nth` counts the thread's
    /// tenancies of chunks: a gap means that records in between are gone.
    /// `mono_ns` was the time at `sync_ticks`; 0 where it was not taken.
    Owner {
        uid: u32,
        tid: u32,
        nth: u32,
        origin: Origin,
        depth: u16,
        creator: u32,
        name: Ref,
        ticks: u64,
        sync_ticks: u64,
        mono_ns: u64,
    },
    /// The clock anew, where a delta would not fit.
    Time {
        ticks: u64,
        mono_ns: u64,
    },
    /// C code called hook number `hook`; `depth` counts from 1.
    CallbackEnter {
        delta: u32,
        hook: u16,
        depth: u16,
        stack: StackRef,
    },
    /// It came back, or was unwound: left by longjmp, an exception, `pthread_exit`.
    CallbackExit {
        delta: u32,
        hook: u16,
        unwound: bool,
    },
    /// This thread made another one, whose serial number is `child`.
    ThreadBirth {
        delta: u32,
        origin: Origin,
        child: u32,
        start_routine: u64,
        stack: StackRef,
    },
    /// The thread begins, or is seen for the first time.
    ThreadStart {
        delta: u32,
        origin: Origin,
        name: Ref,
        creator: u32,
        start_routine: u64,
    },
    /// The thread ends, by return from its start routine or by unwinding.
    ThreadExit {
        delta: u32,
        unwound: bool,
    },
    /// Thread `target` is now called `name`.
    ThreadName {
        delta: u32,
        target: u32,
        name: Ref,
    },
    /// The program logged `text`; where `more` is set, `Text` records follow.
    Log {
        delta: u32,
        stack: StackRef,
        category: Ref,
        text: Text<'a>,
        more: bool,
    },
    /// The continuation of a log's text.
    Text {
        delta: u32,
        text: Text<'a>,
        more: bool,
    },
    RegionBegin {
        delta: u32,
        stack: StackRef,
        name: Ref,
    },
    RegionEnd {
        delta: u32,
        stack: StackRef,
        name: Ref,
    },
    TaskBegin {
        delta: u32,
        stack: StackRef,
        name: Ref,
        id: u64,
        parent: u64,
    },
    TaskEnd {
        delta: u32,
        stack: StackRef,
        id: u64,
    },
    ModuleLoad {
        delta: u32,
        module: Ref,
    },
    ModuleUnload {
        delta: u32,
        module: Ref,
    },
    /// The process forked; the child has a ring of its own.
    Fork {
        delta: u32,
        child_pid: u32,
    },
    /// The process is about to execute `path`.
    Exec {
        delta: u32,
        path: Ref,
    },
    /// A kind of a later version.
    Unknown {
        delta: u32,
        kind: u8,
    },
}

/// Text as it lies in a record, eight bytes a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    words: &'a [u64],
    len: usize,
}

impl Text<'_> {
    /// The bytes, which need not be UTF-8.
    pub fn bytes(self) -> impl Iterator<Item = u8> {
        self.words.iter().flat_map(|w| w.to_le_bytes()).take(self.len)
    }
    /// The bytes, copied.
    pub fn to_vec(self) -> Vec<u8> {
        self.bytes().collect()
    }
}

/// Walks the records of a chunk. Damage ends the walk and is remembered; it
/// can't make it panic or read past the end.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    words: &'a [u64],
    damaged: bool,
}

/// The records in `words`, a chunk's published content without its header.
pub fn records(words: &[u64]) -> Records<'_> {
    Records { words, damaged: false }
}

impl Records<'_> {
    /// Whether the walk met something that is no record.
    pub fn damaged(&self) -> bool {
        self.damaged
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        let (&first, rest) = self.words.split_first()?;
        let head = Head::of(first);
        let body_len = usize::from(head.len).wrapping_sub(1);
        let (Some(body), Some(tail)) = (rest.get(..body_len), rest.get(body_len..)) else {
            self.damaged = true;
            self.words = &[];
            return None;
        };
        self.words = tail;
        match decode(head, body) {
            Some(record) => Some(record),
            None => {
                self.damaged = true;
                self.words = &[];
                None
            }
        }
    }
}

const fn low(word: u64) -> u32 {
    word as u32
}
const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[inline]
fn decode<'a>(head: Head, body: &'a [u64]) -> Option<Record<'a>> {
    let Head { kind, arg, delta, .. } = head;
    let stack = |w: u64| StackRef(low(w));
    Some(match (kind, body) {
        (kind::CALLBACK_ENTER, &[a, ..]) => {
            Record::CallbackEnter { delta, hook: arg, stack: stack(a), depth: high(a) as u16 }
        }
        (kind::CALLBACK_EXIT, &[]) => Record::CallbackExit { delta, hook: arg, unwound: false },
        (kind::CALLBACK_EXIT, &[how, ..]) => Record::CallbackExit { delta, hook: arg, unwound: how != 0 },
        (kind::OWNER, &[a, b, ticks, mono_ns, c, ..]) => Record::Owner {
            uid: low(a),
            tid: high(a),
            nth: low(b),
            name: high(b),
            origin: Origin::from_code(arg),
            creator: low(c),
            depth: high(c) as u16,
            ticks,
            sync_ticks: ticks.wrapping_add(u64::from(delta)),
            mono_ns,
        },
        (kind::TIME, &[ticks, mono_ns, ..]) => Record::Time { ticks, mono_ns },
        (kind::THREAD_BIRTH, &[a, start_routine, ..]) => Record::ThreadBirth {
            delta,
            origin: Origin::from_code(arg),
            stack: stack(a),
            child: high(a),
            start_routine,
        },
        (kind::THREAD_START, &[a, start_routine, ..]) => Record::ThreadStart {
            delta,
            origin: Origin::from_code(arg),
            name: low(a),
            creator: high(a),
            start_routine,
        },
        (kind::THREAD_EXIT, _) => Record::ThreadExit { delta, unwound: arg != 0 },
        (kind::THREAD_NAME, &[a, ..]) => Record::ThreadName { delta, name: low(a), target: high(a) },
        (kind::LOG, &[a, ref words @ ..]) => Record::Log {
            delta,
            stack: stack(a),
            category: high(a),
            text: text(arg, words)?,
            more: arg & MORE != 0,
        },
        (kind::TEXT, words) => Record::Text { delta, text: text(arg, words)?, more: arg & MORE != 0 },
        (kind::REGION_BEGIN, &[a, ..]) => Record::RegionBegin { delta, stack: stack(a), name: high(a) },
        (kind::REGION_END, &[a, ..]) => Record::RegionEnd { delta, stack: stack(a), name: high(a) },
        (kind::TASK_BEGIN, &[a, id, parent, ..]) => {
            Record::TaskBegin { delta, stack: stack(a), name: high(a), id, parent }
        }
        (kind::TASK_END, &[a, id, ..]) => Record::TaskEnd { delta, stack: stack(a), id },
        (kind::MODULE_LOAD, &[a, ..]) => Record::ModuleLoad { delta, module: low(a) },
        (kind::MODULE_UNLOAD, &[a, ..]) => Record::ModuleUnload { delta, module: low(a) },
        (kind::FORK, &[a, ..]) => Record::Fork { delta, child_pid: low(a) },
        (kind::EXEC, &[a, ..]) => Record::Exec { delta, path: low(a) },
        (kind::OWNER..=kind::EXEC, _) | (0, _) => return None,
        (kind, _) => Record::Unknown { delta, kind },
    })
}

/// In a text record's argument: the length's unused top bit says that a
/// continuation follows.
pub const MORE: u16 = 1 << 15;

fn text(arg: u16, words: &[u64]) -> Option<Text<'_>> {
    let len = usize::from(arg & !MORE);
    let words = words.get(..len.div_ceil(8))?;
    Some(Text { words, len })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_words_are_survived(words in proptest::collection::vec(any::<u64>(), 0..600)) {
            let mut walk = records(&words);
            let n = walk.by_ref().count();
            prop_assert!(n <= words.len());
        }

        #[test]
        fn heads_round_trip(kind: u8, len: u8, arg: u16, delta: u32) {
            let head = Head { kind, len, arg, delta };
            prop_assert_eq!(Head::of(head.word()), head);
        }
    }

    #[test]
    fn an_unknown_kind_is_skipped_by_its_length() {
        let unknown = Head { kind: 200, len: 3, arg: 0, delta: 7 }.word();
        let exit = Head { kind: kind::CALLBACK_EXIT, len: 1, arg: 4, delta: 1 }.word();
        let words = [unknown, 1, 2, exit];
        let all: Vec<_> = records(&words).collect();
        assert_eq!(all[0], Record::Unknown { delta: 7, kind: 200 });
        assert_eq!(all[1], Record::CallbackExit { delta: 1, hook: 4, unwound: false });
    }

    #[test]
    fn damage_ends_the_walk_and_is_remembered() {
        for words in [&[0u64][..], &[Head { kind: 3, len: 9, arg: 0, delta: 0 }.word()]] {
            let mut walk = records(words);
            assert_eq!(walk.next(), None);
            assert!(walk.damaged());
        }
    }
}
