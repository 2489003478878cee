//! `dump`: every event.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::args::{FilterArgs, Format, ShowArgs, SymbolArgs, Time};
use super::filter::{Filter, start_ns};
use super::{output, use_color};
use crate::input;
use crate::model::{Process, merge};
use crate::resolve::Resolver;
use crate::show::names::Names;
use crate::show::time::{Clock, ClockMode};
use crate::show::{JsonPrinter, Printer, TextPrinter, is_damaged, say};

/// Print every event, in order of time
#[derive(Args)]
#[command(after_help = "Examples:
  collector dump traceshim.trace
  collector dump --format json traceshim.trace | jq 'select(.kind == \"thread_birth\")'
  collector dump --origin c --time 10ms~2s /tmp/traceshim-1000

As text, each event is a line, followed by its stack: the function on a line,
then a tab and its file and line. Control characters in names and messages are
shown as \\u{..}, bytes that are not UTF-8 as \\xNN.")]
pub(crate) struct DumpArgs {
    /// Rings, traces, session directories; '-' is a trace on standard input
    input: Vec<PathBuf>,
    /// The form
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write here instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    symbols: SymbolArgs,
}

/// Runs the command.
pub(crate) fn run(args: DumpArgs) -> Result<ExitCode> {
    super::refuse_inputs(args.output.as_ref(), &args.input)?;
    let processes = input::open(&args.input)?;
    let mut resolver = Resolver::new(args.symbols.options());
    let mut names = Names::new(&mut resolver);
    let mut filter = Filter::new(&args.filter, &processes);
    let color = use_color(&args.show, args.output.as_ref());
    let mut printer = make_printer(args.format, &args.filter, &args.show, color, &processes);
    let mut out = output(args.output.as_ref())?;
    let mut left = args.show.limit.unwrap_or(u64::MAX);
    let mut failed = None;
    merge(&processes, |number, event| {
        let process = &processes[number as usize];
        if left == 0 {
            return false;
        }
        if filter.passes(&mut names, number, process, &event) {
            left -= 1;
            failed = printer.event(&mut out, &mut names, process, &event).err();
        }
        failed.is_none()
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    out.flush()?;
    let flawless = notes(&processes, printer.as_ref());
    Ok(if args.show.strict && !flawless { super::NOT_STRICT.into() } else { ExitCode::SUCCESS })
}

/// The printer that the options ask for.
pub(super) fn make_printer(
    format: Format,
    filter: &FilterArgs,
    show: &ShowArgs,
    color: bool,
    processes: &[Process],
) -> Box<dyn Printer> {
    let depth = show.depth.unwrap_or(usize::MAX);
    match format {
        Format::Json => Box::new(JsonPrinter::new(depth)),
        Format::Text => {
            let mode = filter.time.iter().rev().find_map(|time| match time {
                Time::Clock(mode) => Some(*mode),
                Time::Range { .. } => None,
            });
            let clock = Clock::new(mode.unwrap_or(ClockMode::Relative), start_ns(processes));
            Box::new(TextPrinter::new(depth, clock, color))
        }
    }
}

/// Tells what a reader of the output should know about what isn't in it;
/// whether nothing was lost and every stack is complete.
fn notes(processes: &[Process], printer: &dyn Printer) -> bool {
    let summary = printer.stacks().summary();
    if summary.truncated > 0 || summary.unnamed > 0 {
        say(format_args!("{summary}"));
    }
    let lost = processes.iter().map(Process::lost).fold(0, u64::saturating_add);
    if lost > 0 {
        say(format_args!("{lost} events were lost"));
    }
    let damaged: usize = processes.iter().map(|process| process.damaged).sum();
    if damaged > 0 {
        say(format_args!("{damaged} damaged places were skipped"));
    }
    lost == 0 && damaged == 0 && summary.truncated == 0 && !is_damaged()
}
