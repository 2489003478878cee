//! Time: TSC ticks where the counter is invariant, else nanoseconds of
//! `CLOCK_MONOTONIC`.
#![allow(unsafe_code)]

use crate::arch;
use traceshim_ring::ring::Clock;

/// Which clock the ring's ticks are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TickClock {
    /// The time-stamp counter.
    Tsc,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    Monotonic,
}

impl TickClock {
    /// The counter, unless the processor doesn't promise one rate for it or
    /// the kernel found that it can't be trusted.
    pub(crate) fn choose() -> TickClock {
        const KERNELS_CHOICE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        // Where the kernel can't be asked, the processor's word is all there is.
        let distrusted = std::fs::read_to_string(KERNELS_CHOICE)
            .is_ok_and(|name| matches!(name.trim(), "hpet" | "acpi_pm" | "refined-jiffies" | "jiffies"));
        if arch::tsc_is_invariant() && !distrusted { TickClock::Tsc } else { TickClock::Monotonic }
    }

    /// The time in ticks.
    #[inline(always)]
    pub(crate) fn now(self) -> u64 {
        match self {
            TickClock::Tsc => arch::tsc(),
            TickClock::Monotonic => nanoseconds(libc::CLOCK_MONOTONIC),
        }
    }
}

impl Clock for TickClock {
    fn sync(&self) -> (u64, u64) {
        if *self == TickClock::Monotonic {
            let now = nanoseconds(libc::CLOCK_MONOTONIC);
            return (now, now);
        }
        // The thread may be switched out between the two readings, so the
        // closest pair of a few counts.
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..3 {
            let before = arch::tsc();
            let ns = nanoseconds(libc::CLOCK_MONOTONIC);
            let span = arch::tsc().wrapping_sub(before);
            if span < best.0 {
                best = (span, before.wrapping_add(span / 2), ns);
            }
            if span < 1000 {
                break;
            }
        }
        (best.1, best.2)
    }
}

/// A clock of the system, in nanoseconds.
pub(crate) fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}
