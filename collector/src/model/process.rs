//! One process's trace, indexed by thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use traceshim_ring::clock::ClockMap;
use traceshim_ring::layout::Ref;
use traceshim_ring::read::{Module, Piece, ProcessInfo, Tables};
use traceshim_ring::record::{Head, Origin, Record, kind, records};

use super::event::{Body, Event};
use super::mapped::Mapped;
use super::store::Store;
use super::timeline::Timeline;

/// A part of a piece that one thread wrote: a tenancy of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// The thread's tenancies count up; a gap means that some are lost.
    pub(super) nth: u32,
    pub(super) piece: u32,
    pub(super) from: u32,
    pub(super) to: u32,
}

/// A thread of a traced process.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    /// Its serial number in the process.
    pub(crate) uid: u32,
    /// The kernel's number for it, which may be used again.
    pub(crate) tid: u32,
    /// Who made it.
    pub(crate) origin: Origin,
    /// The serial number of the thread that made it, or 0.
    pub(crate) creator: u32,
    /// Its name, as last seen.
    pub(crate) name: Ref,
    /// Whether it was seen to end.
    pub(crate) exited: bool,
    pub(super) segments: Vec<Segment>,
    /// The tenancy that `name` is of.
    named_nth: u32,
}

/// One process's trace.
#[derive(Debug)]
pub(crate) struct Process {
    /// Tells it from the others that are looked at together.
    pub(crate) id: u32,
    /// What the ring's header says.
    pub(crate) info: ProcessInfo,
    /// Strings, stacks, modules, hooks and losses.
    pub(crate) tables: Tables,
    /// From ticks to nanoseconds.
    pub(crate) clock: Timeline,
    /// Every thread that wrote anything, by serial number.
    pub(crate) threads: Vec<Thread>,
    /// Pieces that end in something that is no record.
    pub(crate) damaged: usize,
    /// Whether the process was alive when its ring was read.
    pub(crate) alive: bool,
    /// Whether the process was known to have ended, in whatever way.
    pub(crate) gone: bool,
    /// The user whose process it was, as far as the ring's file tells; else the
    /// one who reads it.
    pub(crate) owner_uid: u32,
    strings: RefCell<HashMap<Ref, Option<Rc<[u8]>>>>,
    pieces: Vec<Option<Store>>,
    by_uid: HashMap<u32, u32>,
    /// The moments at which modules came or went, ascending.
    module_changes: Vec<u64>,
    mapped: Mapped,
}

/// What the ring itself doesn't say of its process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Life {
    /// See [`Process::alive`].
    pub(crate) alive: bool,
    /// See [`Process::gone`].
    pub(crate) gone: bool,
    /// See [`Process::owner_uid`].
    pub(crate) owner_uid: u32,
}

/// Indexes pieces as they are read, and needs none of them afterwards.
#[derive(Debug, Default)]
pub(crate) struct Indexer {
    /// `None`: replaced or forgotten. Their segments go in the end, all at once.
    pieces: Vec<Option<Store>>,
    seqs: HashMap<u64, u32>,
    threads: HashMap<u32, Thread>,
    syncs: Vec<(u64, u64)>,
    named_by_others: HashMap<u32, Ref>,
    damaged: usize,
}

impl Indexer {
    /// Adds a piece. Of two with the same sequence number the longer one counts:
    /// a chunk only ever grows.
    pub(crate) fn add(&mut self, piece: &Piece, store: Store) {
        let known = self.seqs.get(&piece.seq).and_then(|&number| self.pieces.get(number as usize)?.as_ref());
        if known.is_some_and(|known| known.len() > piece.words.len()) {
            return;
        }
        self.retract(piece.seq);
        let number = self.pieces.len() as u32;
        self.seqs.insert(piece.seq, number);
        self.pieces.push(Some(store));
        self.index(number, &piece.words);
    }

    /// Forgets a piece.
    pub(crate) fn retract(&mut self, seq: u64) {
        if let Some(number) = self.seqs.remove(&seq)
            && let Some(piece) = self.pieces.get_mut(number as usize)
        {
            *piece = None;
        }
    }

    fn index(&mut self, piece: u32, words: &[u64]) {
        let mut at = 0;
        let mut current: Option<(u32, Segment)> = None;
        while let Some(&word) = words.get(at) {
            let head = Head::of(word);
            let end = at + usize::from(head.len);
            if head.len == 0 || end > words.len() || head.kind == 0 {
                self.damaged += 1;
                break;
            }
            match head.kind {
                kind::OWNER => {
                    self.close(current.take());
                    current = self.owner(&words[at..end], piece, at as u32);
                }
                kind::TIME => {
                    if let Some(Record::Time { ticks, mono_ns }) = records(&words[at..end]).next() {
                        self.syncs.push((ticks, mono_ns));
                    }
                }
                kind::THREAD_NAME => self.rename(&words[at..end], current),
                kind::THREAD_EXIT => {
                    if let Some(thread) = current.and_then(|(uid, _)| self.threads.get_mut(&uid)) {
                        thread.exited = true;
                    }
                }
                _ => {}
            }
            at = end;
            if let Some((_, segment)) = &mut current {
                segment.to = at as u32;
            }
        }
        self.close(current);
    }

    fn rename(&mut self, words: &[u64], by: Option<(u32, Segment)>) {
        let Some(Record::ThreadName { target, name, .. }) = records(words).next() else { return };
        match by {
            // Its later tenancies say so too; this one doesn't.
            Some((uid, segment)) if uid == target => {
                if let Some(thread) = self.threads.get_mut(&uid)
                    && thread.named_nth <= segment.nth
                {
                    (thread.name, thread.named_nth) = (name, segment.nth);
                }
            }
            // Named by another thread, which may be read before its own records.
            _ => {
                self.named_by_others.insert(target, name);
            }
        }
    }

    fn owner(&mut self, words: &[u64], piece: u32, at: u32) -> Option<(u32, Segment)> {
        let Some(Record::Owner { uid, tid, nth, origin, creator, name, sync_ticks, mono_ns, .. }) =
            records(words).next()
        else {
            self.damaged += 1;
            return None;
        };
        if mono_ns != 0 {
            self.syncs.push((sync_ticks, mono_ns));
        }
        let thread = self.threads.entry(uid).or_insert_with(|| Thread {
            uid,
            tid,
            origin,
            creator,
            name,
            exited: false,
            segments: Vec::new(),
            named_nth: nth,
        });
        if nth >= thread.named_nth {
            (thread.named_nth, thread.origin, thread.creator) = (nth, origin, creator);
            if name != 0 {
                thread.name = name;
            }
        }
        Some((uid, Segment { nth, piece, from: at, to: at }))
    }

    fn close(&mut self, tenancy: Option<(u32, Segment)>) {
        if let Some((uid, segment)) = tenancy
            && let Some(thread) = self.threads.get_mut(&uid)
        {
            thread.segments.push(segment);
        }
    }

    /// The process, now that everything of it was added.
    pub(crate) fn finish(self, info: ProcessInfo, tables: Tables, life: Life) -> Process {
        let syncs = info.syncs.iter().copied().chain(self.syncs);
        let clock = Timeline::new(ClockMap::new(info.tsc, syncs));
        let mut threads: Vec<Thread> = self.threads.into_values().collect();
        threads.sort_unstable_by_key(|thread| thread.uid);
        for thread in &mut threads {
            if let Some(&name) = self.named_by_others.get(&thread.uid) {
                thread.name = name;
            }
            thread
                .segments
                .retain(|segment| matches!(self.pieces.get(segment.piece as usize), Some(Some(_))));
            thread.segments.sort_unstable_by_key(|s| (s.nth, s.piece, s.from));
        }
        let by_uid = threads.iter().enumerate().map(|(i, t)| (t.uid, i as u32)).collect();
        let modules = tables.modules();
        let mut module_changes: Vec<u64> =
            modules.iter().flat_map(|m| [m.load_ticks, m.unload_ticks]).filter(|&t| t != 0).collect();
        module_changes.sort_unstable();
        module_changes.dedup();
        let mapped = Mapped::new(modules);
        Process {
            id: 0,
            info,
            tables,
            clock,
            threads,
            damaged: self.damaged,
            alive: life.alive,
            gone: life.gone,
            owner_uid: life.owner_uid,
            strings: RefCell::default(),
            pieces: self.pieces,
            by_uid,
            module_changes,
            mapped,
        }
    }
}

impl Process {
    /// The thread with this serial number.
    pub(crate) fn thread(&self, uid: u32) -> Option<&Thread> {
        self.by_uid.get(&uid).and_then(|&i| self.threads.get(i as usize))
    }

    /// Its place in `threads`.
    pub(crate) fn thread_index(&self, uid: u32) -> Option<u32> {
        self.by_uid.get(&uid).copied()
    }

    /// An interned string.
    pub(crate) fn string(&self, at: Ref) -> Option<Rc<[u8]>> {
        /// Many more than an honest process names; those of a forged ring may
        /// overlap, and would take a thousand times its size.
        const STRINGS_MAX: usize = 1 << 16;
        let mut strings = self.strings.borrow_mut();
        if strings.len() >= STRINGS_MAX {
            strings.clear();
        }
        strings.entry(at).or_insert_with(|| self.tables.string(at).map(Rc::from)).clone()
    }

    /// The kernel's number of the thread on which `event` happened.
    #[inline]
    pub(crate) fn tid_of(&self, event: &Event) -> u32 {
        match self.threads.get(event.thread as usize) {
            Some(thread) => thread.tid,
            None => match event.body {
                Body::Lost { tid, .. } => tid,
                _ => 0,
            },
        }
    }

    /// How many events it lost.
    pub(crate) fn lost(&self) -> u64 {
        self.tables.losses().iter().fold(0, |sum, loss| sum.saturating_add(loss.count))
    }

    /// The executable's path; empty where it is unknown.
    pub(crate) fn exe(&self) -> Vec<u8> {
        self.tables.string(self.info.exe).unwrap_or_default()
    }

    pub(super) fn piece(&self, number: u32) -> Option<&Store> {
        self.pieces.get(number as usize)?.as_ref()
    }

    /// Counts how often modules had come or gone by `ticks`: stacks with the
    /// same node and the same epoch mean the same functions.
    pub(crate) fn module_epoch(&self, ticks: u64) -> u32 {
        self.module_changes.partition_point(|&change| change <= ticks) as u32
    }

    /// The module that was mapped at `address` at the time `ticks`, and its
    /// place in `tables.modules()`.
    pub(crate) fn module_at(&self, address: u64, ticks: u64) -> Option<(u32, &Module)> {
        let modules = self.tables.modules();
        let at = self.mapped.at(modules, address, ticks)?;
        Some((at, modules.get(at as usize)?))
    }

    /// A module that was at `address` at some time: the last one, if there were
    /// several.
    pub(crate) fn module_ever_at(&self, address: u64) -> Option<&Module> {
        let modules = self.tables.modules().iter();
        modules.filter(|m| (m.start..m.end).contains(&address)).max_by_key(|m| m.load_ticks)
    }
}
