//! Chunks: claimed by threads that need room, given back by a collector.

use crate::layout::{
    CHUNK_COMMITTED, CHUNK_HEADER_WORDS, CHUNK_RETURNED, CHUNK_STATE, CHUNK_WORDS, Table, header, tag,
};
use crate::ring::{Ring, state, state_parts};
use crate::sync::{Ordering, fence};

/// A chunk just claimed: nobody else writes in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) chunk: u32,
    pub(crate) seq: u64,
}

impl Ring<'_> {
    /// Claims a chunk from those for records.
    pub(crate) fn claim_for_records(&self) -> Option<Claim> {
        let epoch = self.freed_epoch();
        if self.is_full_since(epoch) {
            return None;
        }
        let claim = self.claim(1, self.chunks - self.reserve, self.overwrite);
        if claim.is_none() && !self.overwrite {
            self.store(header::FULL_EPOCH, epoch, Ordering::Relaxed);
        }
        claim
    }

    fn freed_epoch(&self) -> u64 {
        self.load(header::FREED_EPOCH, Ordering::Acquire).wrapping_add(1)
    }

    /// Whether a search has found no chunk, and none came back since then.
    fn is_full_since(&self, epoch: u64) -> bool {
        !self.overwrite && self.load(header::FULL_EPOCH, Ordering::Relaxed) == epoch
    }

    /// Whether there is no chunk to be had, as far as is known.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full_since(self.freed_epoch())
    }

    /// Claims a zeroed chunk as a page of `table`. A page is never given back.
    /// In overwrite mode the tables may take at most half of the ring. The
    /// ledger overwrites nothing: what is overwritten needs a line in it.
    pub(crate) fn claim_page(&self, table: Table) -> Option<u32> {
        let records_end = self.chunks - self.reserve;
        let claim = match table {
            Table::Ledger => {
                let free = if self.overwrite { None } else { self.claim_for_records() };
                free.or_else(|| self.claim(records_end, self.chunks, false))
            }
            _ => {
                let taken = self.load(header::TABLE_CHUNKS, Ordering::Relaxed);
                let may = !self.overwrite || taken < u64::from(self.chunks / 2);
                may.then(|| self.claim_for_records()).flatten()
            }
        }?;
        let base = claim.chunk as usize * CHUNK_WORDS;
        for at in base + CHUNK_HEADER_WORDS..base + CHUNK_WORDS {
            self.store(at, 0, Ordering::Relaxed);
        }
        self.add(header::TABLE_CHUNKS, 1);
        self.store(base + CHUNK_STATE, state(claim.seq, table.tag()), Ordering::Release);
        Some(claim.chunk)
    }

    /// Gives back a page that another thread's page made superfluous.
    pub(crate) fn unclaim(&self, chunk: u32) {
        self.store(chunk as usize * CHUNK_WORDS + CHUNK_STATE, state(0, tag::FREE), Ordering::Release);
    }

    /// Claims a free chunk, or, where the oldest may be overwritten and there is
    /// no more room, a closed one.
    fn claim(&self, from: u32, to: u32, overwrite: bool) -> Option<Claim> {
        loop {
            let (usable, may_extend) = self.usable(to);
            let claim = self.search(from, usable, overwrite && !may_extend);
            if claim.is_some() || !may_extend {
                return claim;
            }
            if !self.extend(to) {
                return self.search(from, usable, overwrite);
            }
            // On with the chunks that were never used.
            let fresh = u64::from(usable.saturating_sub(from));
            self.store(header::CLAIM_CURSOR, fresh, Ordering::Relaxed);
        }
    }

    /// One compare-and-swap on the state of a chunk makes it ours.
    fn search(&self, from: u32, to: u32, overwrite: bool) -> Option<Claim> {
        let places = to.checked_sub(from).filter(|&n| n > 0)?;
        let start = self.add(header::CLAIM_CURSOR, 1);
        for i in 0..u64::from(places) {
            let chunk = from + (start.wrapping_add(i) % u64::from(places)) as u32;
            let base = chunk as usize * CHUNK_WORDS;
            let Some((seq, seen)) = self.claim_one(base + CHUNK_STATE, overwrite) else { continue };
            // A reader that sees any of the new tenant's words must also see
            // that the state changed, and throw its copy away.
            fence(Ordering::Release);
            self.say_what_was_there(base + CHUNK_RETURNED, seen);
            if state_parts(seen).1 == tag::CLOSED {
                self.account_overwritten(chunk);
            }
            let empty = base as u64 * 8 + CHUNK_HEADER_WORDS as u64 * 8;
            self.store(base + CHUNK_COMMITTED, empty, Ordering::Relaxed);
            if let Some(word) = self.at(header::HIGH_WATER) {
                word.fetch_max(u64::from(chunk) + 1, Ordering::AcqRel);
            }
            return Some(Claim { chunk, seq });
        }
        None
    }

    /// A collector that was killed may have kept a copy of what was here, and not
    /// have come to note whether it gave it back or whether it is counted as lost.
    fn say_what_was_there(&self, at: usize, seen: u64) {
        match state_parts(seen) {
            (0, _) => {}
            (seq, tag::FREE) => self.store(at, seq << 1 | 1, Ordering::Relaxed),
            _ => self.store(at, self.load(at, Ordering::Relaxed) | 1, Ordering::Relaxed),
        }
    }

    /// Tries for one chunk; who loses it to a collector that gives it back
    /// tries again, who loses it to another thread doesn't.
    fn claim_one(&self, at: usize, overwrite: bool) -> Option<(u64, u64)> {
        loop {
            let seen = self.load(at, Ordering::Acquire);
            let (_, tag) = state_parts(seen);
            if tag != tag::FREE && !(overwrite && tag == tag::CLOSED) {
                return None;
            }
            let seq = self.add(header::NEXT_SEQ, 1).wrapping_add(1);
            if self.cas(at, seen, state(seq, tag::CLAIMED), Ordering::AcqRel) {
                return Some((seq, seen));
            }
        }
    }

    /// One past the last of the chunks before `to` that may be touched, and
    /// whether there may be more.
    fn usable(&self, to: u32) -> (u32, bool) {
        #[cfg(not(loom))]
        if let Some(room) = self.room {
            return room.usable(to);
        }
        (to, false)
    }

    /// Makes more of them usable.
    fn extend(&self, to: u32) -> bool {
        #[cfg(not(loom))]
        if let Some(room) = self.room {
            return room.extend(to);
        }
        let _ = to;
        false
    }

    /// Gives a closed chunk back to the program, after a collector has kept
    /// what was in it. `false`: it was overwritten in the meantime.
    pub(crate) fn free(&self, piece: &crate::read::Piece) -> bool {
        let at = piece.chunk as usize * CHUNK_WORDS + CHUNK_STATE;
        let freed =
            self.cas(at, state(piece.seq, tag::CLOSED), state(piece.seq, tag::FREE), Ordering::AcqRel);
        if freed && let Some(epoch) = self.at(header::FREED_EPOCH) {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
        freed
    }
}
