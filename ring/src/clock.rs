//! From ticks to nanoseconds of `CLOCK_MONOTONIC`.

/// The least distance of two points between which a rate is measured; closer
/// ones would turn the reading's own jitter into a rate.
const MIN_SPAN_TICKS: u64 = 1 << 20;

/// Turns ticks into nanoseconds by the points at which both were read:
/// straight lines between them, and beyond the ends the nearest line's rate.
/// The result never decreases with the ticks.
#[derive(Clone, Debug, Default)]
pub struct ClockMap {
    points: Vec<(u64, u64)>,
    tsc: bool,
}

impl ClockMap {
    /// `tsc`: whether ticks are TSC ticks; else they are nanoseconds already.
    /// `points`: pairs of (ticks, nanoseconds), in any order, any of them
    /// possibly wrong.
    pub fn new(tsc: bool, points: impl IntoIterator<Item = (u64, u64)>) -> ClockMap {
        let mut all: Vec<(u64, u64)> = points.into_iter().filter(|p| p.0 != 0 && p.1 != 0).collect();
        all.sort_unstable();
        let mut points: Vec<(u64, u64)> = Vec::new();
        let last = all.last().copied();
        for point in all {
            match points.last().copied() {
                Some(before) if point.1 < before.1 || point.0 - before.0 < MIN_SPAN_TICKS => {}
                _ => points.push(point),
            }
        }
        // A short run has its points close together: better a coarse rate
        // than none, from the two that are farthest apart.
        if let (1, Some(last), Some(first)) = (points.len(), last, points.first().copied())
            && last.0 > first.0
            && last.1 > first.1
        {
            points.push(last);
        }
        ClockMap { points, tsc }
    }

    /// The nanoseconds at `ticks`.
    pub fn ns(&self, ticks: u64) -> u64 {
        if !self.tsc {
            return ticks;
        }
        let after = self.points.partition_point(|p| p.0 <= ticks);
        let (a, b) = match self.points.len() {
            0 => return ticks,
            // A single reading gives no rate: 1 tick is taken for 1 ns.
            1 => ((0, 0), (1, 1)),
            n => {
                let i = after.clamp(1, n - 1);
                (self.points[i - 1], self.points[i])
            }
        };
        let origin = if self.points.len() == 1 { self.points[0] } else { a };
        let (run, rise) = (i128::from(b.0 - a.0).max(1), i128::from(b.1 - a.1));
        let ns = i128::from(origin.1) + (i128::from(ticks) - i128::from(origin.0)).saturating_mul(rise) / run;
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::ClockMap;
    use proptest::prelude::*;

    #[test]
    fn lines_between_and_beyond() {
        let map = ClockMap::new(true, [(30_000_000, 20_000), (10_000_000, 10_000)]);
        assert_eq!(map.ns(10_000_000), 10_000);
        assert_eq!(map.ns(20_000_000), 15_000);
        assert_eq!(map.ns(40_000_000), 25_000);
        assert_eq!(map.ns(0), 5_000);
        assert_eq!(ClockMap::new(false, []).ns(77), 77);
    }

    #[test]
    fn close_points_still_give_a_rate() {
        let map = ClockMap::new(true, [(1000, 500), (3000, 1500)]);
        assert_eq!(map.ns(5000), 2500);
    }

    proptest! {
        #[test]
        fn never_decreasing_whatever_the_points(points: Vec<(u64, u64)>, mut at: Vec<u64>) {
            let map = ClockMap::new(true, points);
            at.sort_unstable();
            let ns: Vec<u64> = at.iter().map(|&t| map.ns(t)).collect();
            prop_assert!(ns.is_sorted());
        }
    }
}
