//! Which entry a callback's exit belongs to.
//!
//! A callback may be left by longjmp, an exception or `pthread_exit`, and
//! events may be lost; so the depth that the shim recorded with each entry and
//! each tenancy repairs what is open, and an exit without its entry has no
//! duration.

/// A callback in progress whose entry is known.
#[derive(Clone, Copy, Debug)]
struct Open {
    hook: u16,
    /// Its depth, counted from 1. Depths may be missing: entries that are lost.
    depth: u16,
    entered_ns: u64,
}

/// The callbacks in progress on one thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Callbacks {
    /// By ascending depth.
    open: Vec<Open>,
    /// How many are in progress, those with lost entries included.
    depth: u16,
}

/// How many unwound callbacks an exit may step over; a ring may hold anything,
/// and its nonsense should cost little.
const STEP_OVER: usize = 64;

impl Callbacks {
    /// A new tenancy begins, after lost records, with `depth` callbacks in
    /// progress; none of them need be those known so far.
    pub(crate) fn resume(&mut self, depth: u16) {
        self.open.clear();
        self.depth = depth;
    }

    /// A callback is entered as the `depth`th, counted from 1.
    pub(crate) fn enter(&mut self, hook: u16, depth: u16, now_ns: u64) {
        let depth = depth.max(1);
        self.set_depth(depth - 1);
        self.open.push(Open { hook, depth, entered_ns: now_ns });
        self.depth = depth;
    }

    /// A callback is left. How long it ran, where that is known.
    pub(crate) fn exit(&mut self, hook: u16, now_ns: u64) -> Option<u64> {
        let found = self.open.iter().rev().take(STEP_OVER).find(|open| open.hook == hook).copied();
        match found {
            Some(Open { depth, entered_ns, .. }) => {
                self.set_depth(depth - 1);
                Some(now_ns.saturating_sub(entered_ns))
            }
            None => {
                // Its entry is lost: then so is that of the innermost one.
                if self.open.last().is_none_or(|open| open.depth < self.depth) {
                    self.depth = self.depth.saturating_sub(1);
                }
                None
            }
        }
    }

    fn set_depth(&mut self, depth: u16) {
        while self.open.last().is_some_and(|open| open.depth > depth) {
            self.open.pop();
        }
        self.depth = depth;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_callbacks_match_innermost_first() {
        let mut c = Callbacks::default();
        c.enter(1, 1, 10);
        c.enter(2, 2, 20);
        c.enter(1, 3, 30);
        assert_eq!(c.exit(1, 35), Some(5));
        assert_eq!(c.exit(2, 40), Some(20));
        assert_eq!(c.exit(1, 50), Some(40));
        assert_eq!(c.exit(1, 60), None);
    }

    #[test]
    fn a_shallower_entry_closes_what_was_unwound_unseen() {
        let mut c = Callbacks::default();
        c.enter(1, 1, 10);
        c.enter(2, 2, 20);
        c.enter(3, 2, 30);
        assert_eq!(c.exit(3, 31), Some(1));
        assert_eq!(c.exit(1, 40), Some(30));
    }

    #[test]
    fn after_a_gap_nothing_is_guessed() {
        let mut c = Callbacks::default();
        c.enter(1, 1, 10);
        c.resume(2);
        assert_eq!(c.exit(1, 50), None);
        c.enter(4, 2, 60);
        assert_eq!(c.exit(4, 61), Some(1));
        assert_eq!(c.exit(1, 70), None);
    }
}
