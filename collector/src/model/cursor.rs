//! One thread's events, in order.

use std::iter::Peekable;
use std::slice;

use traceshim_ring::layout::Ref;
use traceshim_ring::record::{Head, Record, records};

use super::callbacks::Callbacks;
use super::event::{Body, Event};
use super::process::{Process, Segment, Thread};
use super::timeline::Cell;

/// The longest text that is put together from a log and its continuations.
const TEXT_CAP_BYTES: usize = 1 << 20;

/// Walks one thread's events.
pub(crate) struct Cursor<'p> {
    process: &'p Process,
    thread: u32,
    segments: Peekable<slice::Iter<'p, Segment>>,
    words: Vec<u64>,
    at: usize,
    ticks: u64,
    cell: Cell,
    last_nth: Option<u32>,
    callbacks: Callbacks,
    /// The names of the regions that are open, outermost first.
    regions: Vec<Ref>,
}

/// Regions that are told apart; a program that only ever begins them doesn't
/// fill the memory.
const REGIONS_MAX: usize = 4096;

impl<'p> Cursor<'p> {
    /// The events of the thread at place `thread` in [`Process::threads`].
    pub(crate) fn new(process: &'p Process, thread: u32) -> Cursor<'p> {
        let segments: &[Segment] = process.threads.get(thread as usize).map_or(&[], |t: &Thread| &t.segments);
        Cursor {
            process,
            thread,
            segments: segments.iter().peekable(),
            words: Vec::new(),
            at: 0,
            ticks: 0,
            cell: Cell::default(),
            last_nth: None,
            callbacks: Callbacks::default(),
            regions: Vec::new(),
        }
    }

    /// Goes to the next tenancy. `None`: there is none.
    fn next_segment(&mut self) -> Option<()> {
        let segment = self.segments.next()?;
        self.words.clear();
        if let Some(store) = self.process.piece(segment.piece) {
            store.load(segment.from, segment.to, &mut self.words);
        }
        self.at = 0;
        Some(())
    }

    fn own(&mut self, nth: u32, depth: u16, ticks: u64) {
        // Without a gap nothing is to be learnt: every entry was seen.
        if self.last_nth.is_none_or(|last| last.wrapping_add(1) != nth) {
            self.callbacks.resume(depth);
        }
        self.last_nth = Some(nth);
        self.set_ticks(ticks);
    }

    /// Time doesn't run backwards on a thread; a ring that says so is damaged.
    fn set_ticks(&mut self, ticks: u64) {
        self.ticks = self.ticks.max(ticks);
    }
}

/// What a record is to a walk.
enum Step {
    Nothing,
    Event(Body),
    /// A log whose text goes on.
    Unfinished(Body),
}

impl Iterator for Cursor<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if self.at >= self.words.len() {
                self.next_segment()?;
                continue;
            }
            let words = std::mem::take(&mut self.words);
            let step = self.step(&words[self.at..]);
            self.words = words;
            // A log happened when its first part was written.
            let (ts_ns, ticks) = (self.now_ns(0), self.ticks);
            let body = match step {
                Step::Nothing => continue,
                Step::Event(body) => body,
                Step::Unfinished(body) => self.finish_text(body),
            };
            return Some(Event { ts_ns, ticks, thread: self.thread, body });
        }
    }
}

impl Cursor<'_> {
    /// Decodes the record at the beginning of `words` and goes behind it.
    #[inline]
    fn step(&mut self, words: &[u64]) -> Step {
        let (Some(&first), Some(record)) = (words.first(), records(words).next()) else {
            // Damage: the rest of this tenancy can't be told apart.
            self.at = usize::MAX;
            return Step::Nothing;
        };
        self.at += usize::from(Head::of(first).len);
        self.turn(record)
    }

    #[inline]
    fn turn(&mut self, record: Record<'_>) -> Step {
        let mut unfinished = false;
        let (delta, body) = match record {
            Record::Owner { nth, depth, ticks, .. } => {
                self.own(nth, depth, ticks);
                return Step::Nothing;
            }
            Record::Time { ticks, .. } => {
                self.set_ticks(ticks);
                return Step::Nothing;
            }
            Record::Text { delta, .. } => {
                // Its log is lost.
                self.ticks = self.ticks.saturating_add(delta.into());
                return Step::Nothing;
            }
            Record::CallbackEnter { delta, hook, depth, stack } => {
                let now_ns = self.now_ns(delta);
                self.callbacks.enter(hook, depth, now_ns);
                (delta, Body::CallbackEnter { hook, depth, stack })
            }
            Record::CallbackExit { delta, hook, unwound } => {
                let now_ns = self.now_ns(delta);
                let duration_ns = self.callbacks.exit(hook, now_ns);
                (delta, Body::CallbackExit { hook, duration_ns, unwound })
            }
            Record::ThreadBirth { delta, origin, child, start_routine, stack } => {
                (delta, Body::ThreadBirth { origin, child, start_routine, stack })
            }
            Record::ThreadStart { delta, origin, name, creator, start_routine } => {
                (delta, Body::ThreadStart { origin, name, creator, start_routine })
            }
            Record::ThreadExit { delta, unwound } => (delta, Body::ThreadExit { unwound }),
            Record::ThreadName { delta, target, name } => (delta, Body::ThreadName { target, name }),
            Record::Log { delta, stack, category, text, more } => {
                unfinished = more;
                (delta, Body::Log { stack, category, text: text.to_vec().into_boxed_slice() })
            }
            Record::RegionBegin { delta, stack, name } => {
                if self.regions.len() < REGIONS_MAX {
                    self.regions.push(name);
                }
                (delta, Body::RegionBegin { stack, name })
            }
            Record::RegionEnd { delta, stack, name } => {
                (delta, Body::RegionEnd { stack, name: self.end_region(name) })
            }
            Record::TaskBegin { delta, stack, name, id, parent } => {
                (delta, Body::TaskBegin { stack, name, id, parent })
            }
            Record::TaskEnd { delta, stack, id } => (delta, Body::TaskEnd { stack, id }),
            Record::ModuleLoad { delta, module } => (delta, Body::ModuleLoad { module }),
            Record::ModuleUnload { delta, module } => (delta, Body::ModuleUnload { module }),
            Record::Fork { delta, child_pid } => (delta, Body::Fork { child_pid }),
            Record::Exec { delta, path } => (delta, Body::Exec { path }),
            Record::Unknown { delta, kind } => (delta, Body::Unknown { kind }),
        };
        self.ticks = self.ticks.saturating_add(delta.into());
        if unfinished { Step::Unfinished(body) } else { Step::Event(body) }
    }

    /// Closes the innermost region of this name, or the innermost of all where
    /// the program named none; its name.
    fn end_region(&mut self, name: Ref) -> Ref {
        if name == 0 {
            return self.regions.pop().unwrap_or(0);
        }
        if let Some(at) = self.regions.iter().rposition(|&open| open == name) {
            self.regions.truncate(at);
        }
        name
    }

    #[inline]
    fn now_ns(&mut self, delta: u32) -> u64 {
        self.process.clock.ns_from(&mut self.cell, self.ticks.saturating_add(delta.into()))
    }

    /// Appends the continuations that follow, which may lie in later tenancies.
    fn finish_text(&mut self, body: Body) -> Body {
        let Body::Log { stack, category, text } = body else { return body };
        let mut text = text.into_vec();
        let mut more = true;
        while more {
            if self.at >= self.words.len() && self.next_segment().is_none() {
                break;
            }
            let words = std::mem::take(&mut self.words);
            let rest = words.get(self.at..).unwrap_or_default();
            let len = rest.first().map_or(1, |&w| usize::from(Head::of(w).len).max(1));
            let record = records(rest).next();
            let goes_on = self.continues(record, &mut text);
            self.words = words;
            match goes_on {
                Some(goes_on) => more = goes_on,
                None => break,
            }
            self.at = self.at.saturating_add(len);
        }
        Body::Log { stack, category, text: text.into_boxed_slice() }
    }

    /// Takes a record that follows an unfinished log: whether the text goes on.
    /// `None`: the record has nothing to do with the log.
    fn continues(&mut self, record: Option<Record<'_>>, to: &mut Vec<u8>) -> Option<bool> {
        match record {
            Some(Record::Text { delta, text, more }) => {
                if to.len() < TEXT_CAP_BYTES {
                    to.extend(text.bytes());
                }
                self.ticks = self.ticks.saturating_add(delta.into());
                Some(more)
            }
            Some(Record::Owner { nth, depth, ticks, .. }) => {
                self.last_nth.is_some_and(|last| last.wrapping_add(1) == nth).then_some(())?;
                self.own(nth, depth, ticks);
                Some(true)
            }
            Some(Record::Time { ticks, .. }) => {
                self.set_ticks(ticks);
                Some(true)
            }
            Some(_) => None,
            None => {
                self.at = usize::MAX;
                Some(true)
            }
        }
    }
}
