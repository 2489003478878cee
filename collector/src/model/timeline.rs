//! Ticks to nanoseconds, at the cost of a multiplication.

use traceshim_ring::clock::ClockMap;

/// Ticks of a cell, as a power of two: about half a millisecond.
const CELL_BITS: u32 = 20;

/// The nanoseconds of a process's ticks.
///
/// The clock is asked at the ends of cells, and within a cell the line between
/// them is followed: so everybody who asks gets the same answer, it never
/// decreases, and a thread's next event costs no search and no division.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    clock: ClockMap,
}

/// The cell that a reader of times is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    number: u64,
    begin_ns: u64,
    rise_ns: u64,
}

impl Default for Cell {
    fn default() -> Cell {
        // No cell of 64-bit ticks has this number.
        Cell { number: u64::MAX, begin_ns: 0, rise_ns: 0 }
    }
}

impl Timeline {
    /// What `clock` says.
    pub(crate) fn new(clock: ClockMap) -> Timeline {
        Timeline { clock }
    }

    /// `CLOCK_MONOTONIC` at `ticks`.
    pub(crate) fn ns(&self, ticks: u64) -> u64 {
        self.ns_from(&mut Cell::default(), ticks)
    }

    /// The same, for one who asks again for times nearby.
    #[inline]
    pub(crate) fn ns_from(&self, cell: &mut Cell, ticks: u64) -> u64 {
        let number = ticks >> CELL_BITS;
        if number != cell.number {
            self.enter(cell, number);
        }
        let within = ticks & ((1 << CELL_BITS) - 1);
        let ns = (u128::from(within) * u128::from(cell.rise_ns)) >> CELL_BITS;
        cell.begin_ns.saturating_add(ns as u64)
    }

    #[cold]
    fn enter(&self, cell: &mut Cell, number: u64) {
        let begin_ns = self.clock.ns(number << CELL_BITS);
        let end_ns = match (number + 1).checked_mul(1 << CELL_BITS) {
            Some(end) => self.clock.ns(end),
            None => self.clock.ns(u64::MAX),
        };
        *cell = Cell { number, begin_ns, rise_ns: end_ns.saturating_sub(begin_ns) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_decreasing_and_the_same_for_all(points: Vec<(u64, u64)>, mut at: Vec<u64>) {
            let timeline = Timeline::new(ClockMap::new(true, points));
            at.sort_unstable();
            let mut cell = Cell::default();
            let ns: Vec<u64> = at.iter().map(|&t| timeline.ns_from(&mut cell, t)).collect();
            prop_assert!(ns.is_sorted());
            prop_assert!(at.iter().zip(ns).all(|(&t, ns)| timeline.ns(t) == ns));
        }

        #[test]
        fn nanoseconds_stay_what_they_are(ticks in 0..u64::MAX >> 1) {
            prop_assert_eq!(Timeline::new(ClockMap::new(false, [])).ns(ticks), ticks);
        }
    }

    #[test]
    fn close_to_the_clock() {
        let clock = ClockMap::new(true, [(10_000_000, 5_000_000), (3_000_000_000, 1_500_000_300)]);
        let timeline = Timeline::new(clock.clone());
        for ticks in (10_000_000..4_000_000_000).step_by(77_777_777) {
            assert!(timeline.ns(ticks).abs_diff(clock.ns(ticks)) <= 1);
        }
    }
}
