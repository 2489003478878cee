//! Durations, counted in buckets that grow with them.

/// Buckets between two powers of two: an error of at most 1/64.
const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;

/// How long something took, how often.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    /// None before the first.
    buckets: Vec<u64>,
    count: u64,
    total_ns: u64,
    max_ns: u64,
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub(crate) fn add(&mut self, ns: u64) {
        if self.buckets.is_empty() {
            self.buckets = vec![0; ((64 - SUB_BITS as usize) + 1) * SUB as usize];
        }
        if let Some(bucket) = self.buckets.get_mut(bucket(ns)) {
            *bucket += 1;
        }
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub(crate) fn total_ns(&self) -> u64 {
        self.total_ns
    }

    /// The longest.
    pub(crate) fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The duration that `share` (0 to 1) of them don't exceed, as the middle
    /// of its bucket.
    pub(crate) fn quantile_ns(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (i, &count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(i).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

fn bucket(ns: u64) -> usize {
    if ns < SUB {
        return ns as usize;
    }
    let power = 63 - ns.leading_zeros();
    let shift = power - SUB_BITS;
    let sub = (ns >> shift) & (SUB - 1);
    ((u64::from(shift) + 1) * SUB + sub) as usize
}

fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB {
        return bucket;
    }
    let shift = bucket / SUB - 1;
    let low = (SUB + bucket % SUB) << shift;
    low + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_are_narrow(ns: u64) {
            let mut h = Histogram::default();
            h.add(ns);
            h.add(u64::MAX);
            prop_assert!(h.quantile_ns(0.5).abs_diff(ns) <= ns / 32);
        }
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let mut h = Histogram::default();
        (1..=1000).for_each(|ns| h.add(ns * 1000));
        assert!(h.quantile_ns(0.5).abs_diff(500_000) < 16_000);
        assert!(h.quantile_ns(0.99).abs_diff(990_000) < 32_000);
        assert_eq!((h.max_ns(), h.count(), h.total_ns()), (1_000_000, 1000, 500_500_000));
        assert_eq!(Histogram::default().quantile_ns(0.5), 0);
    }
}
