//! Options that several commands have.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::model::Kind;
use crate::show::time::ClockMode;
use crate::symbols::SymbolOptions;

/// Which events are meant.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterArgs {
    /// Only threads with this number, or a name that matches
    #[arg(long, value_name = "TID|GLOB")]
    pub(crate) thread: Vec<String>,
    /// Only callbacks of functions that match, and other events with such a
    /// function in their stack
    #[arg(long, value_name = "GLOB")]
    pub(crate) function: Vec<String>,
    /// Nothing that --function with this pattern would select
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Only events with a module in their stack whose file name matches
    #[arg(long, value_name = "GLOB")]
    pub(crate) module: Vec<String>,
    /// Only events of these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    pub(crate) kind: Vec<Kind>,
    /// Only events between two times since the beginning (10ms~2s, ~1s, 5s~);
    /// or how times are shown: rel, abs or delta
    #[arg(long, value_name = "A~B|rel|abs|delta", value_parser = time)]
    pub(crate) time: Vec<Time>,
    /// Only callbacks that took at least this long (10us, 2ms)
    #[arg(long, value_name = "TIME", value_parser = span_ns)]
    pub(crate) min_duration: Option<u64>,
    /// Only threads of this origin
    #[arg(long, value_delimiter = ',', value_parser = ["main", "host", "c", "unknown"])]
    pub(crate) origin: Vec<String>,
}

/// How events are shown.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct ShowArgs {
    /// Stop after so many events
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Exit with 3 where events were lost or a stack is truncated
    #[arg(long)]
    pub(crate) strict: bool,
    /// Show at most so many frames of a stack
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<usize>,
    /// When to use colours
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

/// The forms in which events can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// How addresses get names.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Symbols")]
pub(crate) struct SymbolArgs {
    /// Look for debug files here first
    #[arg(long, value_name = "DIR")]
    debug_dir: Vec<PathBuf>,
    /// Show addresses only, and open no file for names
    #[arg(long)]
    no_symbols: bool,
    /// Leave out the frames of inlined functions
    #[arg(long)]
    no_inline: bool,
    /// Whether names of C++ and Rust are demangled
    #[arg(long, value_name = "yes|no", default_value = "yes", value_parser = ["yes", "no"])]
    demangle: String,
}

impl SymbolArgs {
    /// The options for a symbolizer.
    pub(crate) fn options(&self) -> SymbolOptions {
        SymbolOptions {
            enabled: !self.no_symbols,
            demangle: self.demangle == "yes",
            inlines: !self.no_inline,
            debug_dirs: self.debug_dir.clone(),
        }
    }
}

/// What `--time` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// Only between these, in nanoseconds since the beginning.
    Range { from_ns: u64, to_ns: u64 },
    /// How times are shown.
    Clock(ClockMode),
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.iter().copied().find(|kind| kind.name() == text).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("one of {}", names.join(", "))
    })
}

fn time(text: &str) -> Result<Time, String> {
    match text {
        "rel" => return Ok(Time::Clock(ClockMode::Relative)),
        "abs" => return Ok(Time::Clock(ClockMode::Absolute)),
        "delta" => return Ok(Time::Clock(ClockMode::Delta)),
        _ => {}
    }
    let (from, to) = text.split_once('~').ok_or("a range such as 10ms~2s, or rel, abs, delta")?;
    let from_ns = if from.is_empty() { 0 } else { span_ns(from)? };
    let to_ns = if to.is_empty() { u64::MAX } else { span_ns(to)? };
    if from_ns > to_ns {
        return Err("the range ends before it begins".into());
    }
    Ok(Time::Range { from_ns, to_ns })
}

/// A number and a unit, in nanoseconds.
fn span_ns(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        _ => return Err("a number with one of the units ns, us, ms, s, m".into()),
    };
    let number: f64 = number.parse().map_err(|_| "not a number".to_owned())?;
    Ok((number * unit) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_ranges() {
        assert_eq!(span_ns("1.5us"), Ok(1500));
        assert_eq!(span_ns("2s"), Ok(2_000_000_000));
        assert!(span_ns("2").is_err() && span_ns("x").is_err() && span_ns("ms").is_err());
        assert_eq!(time("1ms~2ms"), Ok(Time::Range { from_ns: 1_000_000, to_ns: 2_000_000 }));
        assert_eq!(time("~1s"), Ok(Time::Range { from_ns: 0, to_ns: 1_000_000_000 }));
        assert_eq!(time("delta"), Ok(Time::Clock(ClockMode::Delta)));
        assert!(time("2s~1s").is_err() && time("now").is_err());
        assert_eq!(kind("thread_birth"), Ok(Kind::ThreadBirth));
        assert!(kind("birth").unwrap_err().contains("thread_birth"));
    }
}
