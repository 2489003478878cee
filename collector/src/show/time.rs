//! Times for people.

use super::json::push_number;

/// How `dump` shows the time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockMode {
    /// Since the first traced process began.
    Relative,
    /// `CLOCK_MONOTONIC`.
    Absolute,
    /// Since the event shown before.
    Delta,
}

/// Turns events' times into those that are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    mode: ClockMode,
    start_ns: u64,
    last_ns: u64,
}

impl Clock {
    /// `start_ns`: when the first traced process began.
    pub(crate) fn new(mode: ClockMode, start_ns: u64) -> Clock {
        Clock { mode, start_ns, last_ns: start_ns }
    }

    /// What is shown for an event at `ts_ns`.
    #[inline]
    pub(crate) fn shown_ns(&mut self, ts_ns: u64) -> u64 {
        let last_ns = std::mem::replace(&mut self.last_ns, ts_ns);
        match self.mode {
            ClockMode::Relative => ts_ns.saturating_sub(self.start_ns),
            ClockMode::Absolute => ts_ns,
            ClockMode::Delta => ts_ns.saturating_sub(last_ns),
        }
    }

    /// What moments are counted from.
    pub(crate) fn origin_ns(&self) -> u64 {
        if self.mode == ClockMode::Absolute { 0 } else { self.start_ns }
    }
}

/// Appends seconds with all nine digits.
#[inline]
pub(crate) fn seconds(out: &mut Vec<u8>, ns: u64) {
    push_number(out, ns / 1_000_000_000);
    out.push(b'.');
    let mut digits = [0; 9];
    let mut rest = (ns % 1_000_000_000) as u32;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits);
}

/// Appends a span of time in the unit that suits it, to three decimals.
pub(crate) fn duration(out: &mut Vec<u8>, ns: u64) {
    let (unit, name) = match ns {
        0..1_000 => {
            push_number(out, ns);
            out.extend_from_slice(b"ns");
            return;
        }
        1_000..1_000_000 => (1_000, "us"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    push_number(out, ns / unit);
    let thousandths = ns % unit * 1000 / unit;
    let digits = [100, 10, 1].map(|n| b'0' + (thousandths / n % 10) as u8);
    out.push(b'.');
    out.extend_from_slice(&digits);
    out.extend_from_slice(name.as_bytes());
}

/// The same, as a string.
pub(crate) fn duration_string(ns: u64) -> String {
    let mut out = Vec::new();
    duration(&mut out, ns);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_seconds() {
        for (ns, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_500, "1.500us"),
            (2_000_010, "2.000ms"),
            (61_000_000_000, "61.000s"),
        ] {
            assert_eq!(duration_string(ns), text);
        }
        let mut out = Vec::new();
        seconds(&mut out, 12_000_000_034);
        assert_eq!(out, b"12.000000034");
    }

    #[test]
    fn clocks() {
        let mut relative = Clock::new(ClockMode::Relative, 100);
        assert_eq!((relative.shown_ns(150), relative.shown_ns(90)), (50, 0));
        let mut delta = Clock::new(ClockMode::Delta, 100);
        assert_eq!((delta.shown_ns(150), delta.shown_ns(170)), (50, 20));
        assert_eq!(Clock::new(ClockMode::Absolute, 100).shown_ns(150), 150);
    }
}
