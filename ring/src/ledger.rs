//! The loss ledger: how many events each thread lost, and when.

use crate::layout::{
    CHUNK_BYTES, CHUNK_COMMITTED, CHUNK_END_WORDS, CHUNK_HEADER_WORDS, CHUNK_WORDS, LEDGER_WORDS, REF_BYTES,
    Ref, Table, header, ledger,
};
use crate::record::{Head, kind, pair};
use crate::ring::{Cursor, Owner, Ring};
use crate::sync::Ordering;

/// A run of lost events of one thread.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    who: u64,
    count: u64,
    from: u64,
    to: u64,
}

impl Ring<'_> {
    /// Counts one event that found no room.
    #[cold]
    pub fn count_loss(&self, cursor: &mut Cursor, owner: &Owner, ticks: u64) {
        let run = Run { who: pair(owner.uid, owner.tid), count: 1, from: ticks, to: ticks };
        if cursor.ledger == 0 {
            cursor.ledger = self.ledger_line(run.who);
        }
        self.add_run(cursor.ledger, run);
    }

    /// Counts the events of a closed chunk that is about to be overwritten,
    /// for each thread that wrote in it.
    pub(crate) fn account_overwritten(&self, chunk: u32) {
        let base = chunk as usize * CHUNK_WORDS;
        let committed = self.load(base + CHUNK_COMMITTED, Ordering::Relaxed) as usize % CHUNK_BYTES / 8;
        let end = base + committed.min(CHUNK_END_WORDS);
        let mut at = base + CHUNK_HEADER_WORDS;
        let mut run = Run::default();
        let mut ticks = 0u64;
        while at < end {
            let head = Head::of(self.load(at, Ordering::Relaxed));
            match head.kind {
                kind::OWNER => {
                    self.flush_run(run);
                    ticks = self.load(at + 3, Ordering::Relaxed);
                    run = Run { who: self.load(at + 1, Ordering::Relaxed), ..Run::default() };
                }
                kind::TIME => ticks = self.load(at + 1, Ordering::Relaxed),
                _ => ticks = ticks.wrapping_add(u64::from(head.delta)),
            }
            if head.is_event() {
                if run.count == 0 {
                    run.from = ticks;
                }
                run.count += 1;
                run.to = ticks;
            }
            at += usize::from(head.len).max(1);
        }
        self.flush_run(run);
    }

    fn flush_run(&self, run: Run) {
        if run.count > 0 {
            self.add_run(self.ledger_line(run.who), run);
        }
    }

    /// The thread's line, made where there is none; 0 where there is no room.
    fn ledger_line(&self, who: u64) -> Ref {
        self.intern(
            (who as u32).wrapping_mul(0x9E37_79B1) | 1,
            |id| self.load(id as usize * 2, Ordering::Relaxed) == who,
            || {
                let id = self.grow(Table::Ledger, LEDGER_WORDS)?;
                let at = id as usize * (REF_BYTES / 8);
                self.store(at + ledger::FROM, u64::MAX, Ordering::Relaxed);
                self.store(at + ledger::WHO, who, Ordering::Release);
                Some(id)
            },
        )
        .unwrap_or(0)
    }

    /// The address of a thread's own line; 0 without one.
    pub(crate) fn line(&self, line: Ref) -> u64 {
        let at = line as usize * (REF_BYTES / 8);
        match self.at(at + LEDGER_WORDS - 1) {
            Some(_) if line != 0 => self.address() + at as u64 * 8,
            _ => 0,
        }
    }

    fn add_run(&self, line: Ref, run: Run) {
        let at =
            if line == 0 { header::OTHER_LOSSES - ledger::COUNT } else { line as usize * (REF_BYTES / 8) };
        if let Some(from) = self.at(at + ledger::FROM) {
            from.fetch_min(run.from, Ordering::Relaxed);
        }
        if let Some(to) = self.at(at + ledger::TO) {
            to.fetch_max(run.to, Ordering::Relaxed);
        }
        // The count last: a reader that sees it sees a range that holds it.
        if let Some(count) = self.at(at + ledger::COUNT) {
            count.fetch_add(run.count, Ordering::Release);
        }
    }
}
