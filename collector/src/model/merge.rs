//! Many threads' events in order of time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use traceshim_ring::read::Loss;

use super::cursor::Cursor;
use super::event::{Body, Event};
use super::process::Process;

/// A source of events, and the next one of it.
struct Head<'p> {
    next: Event,
    process: u32,
    source: Source<'p>,
}

enum Source<'p> {
    Thread(Box<Cursor<'p>>),
    Losses(std::vec::IntoIter<Event>),
}

impl Iterator for Source<'_> {
    type Item = Event;
    #[inline]
    fn next(&mut self) -> Option<Event> {
        match self {
            Source::Thread(cursor) => cursor.next(),
            Source::Losses(losses) => losses.next(),
        }
    }
}

impl Head<'_> {
    fn key(&self) -> (u64, u32, u32) {
        (self.next.ts_ns, self.process, self.next.thread)
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Head<'_> {}
impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Walks all events of all `processes` in order of time, each with its
/// process's place in the slice, until `visit` says `false`.
pub(crate) fn merge(processes: &[Process], mut visit: impl FnMut(u32, Event) -> bool) {
    let mut heap: BinaryHeap<Reverse<Head<'_>>> = BinaryHeap::new();
    for (number, process) in (0..).zip(processes) {
        let threads = (0..process.threads.len() as u32)
            .map(|thread| Source::Thread(Box::new(Cursor::new(process, thread))));
        for mut source in threads.chain([Source::Losses(losses(process).into_iter())]) {
            if let Some(next) = source.next() {
                heap.push(Reverse(Head { next, process: number, source }));
            }
        }
    }
    while let Some(Reverse(mut head)) = heap.pop() {
        // As long as this source has the earliest event, the heap rests.
        let until = heap.peek().map(|Reverse(other)| other.key());
        loop {
            let next = head.source.next();
            let event = match next {
                Some(next) => std::mem::replace(&mut head.next, next),
                None => {
                    if !visit(head.process, head.next) {
                        return;
                    }
                    break;
                }
            };
            if !visit(head.process, event) {
                return;
            }
            if until.is_some_and(|until| until < head.key()) {
                heap.push(Reverse(head));
                break;
            }
        }
    }
}

/// What a process lost, as events at the times when the losses began.
pub(super) fn losses(process: &Process) -> Vec<Event> {
    let event = |loss: &Loss| {
        let (from_ns, to_ns) = (process.clock.ns(loss.from_ticks), process.clock.ns(loss.to_ticks));
        Event {
            ts_ns: from_ns,
            ticks: loss.from_ticks,
            thread: process.thread_index(loss.uid).unwrap_or(u32::MAX),
            body: Body::Lost { count: loss.count, from_ns, to_ns: to_ns.max(from_ns), tid: loss.tid },
        }
    };
    let mut events: Vec<Event> = process.tables.losses().iter().map(event).collect();
    events.sort_by_key(|event| event.ts_ns);
    events
}
