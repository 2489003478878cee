//! `follow`: events as they happen.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::args::{FilterArgs, Format, ShowArgs, SymbolArgs};
use super::dump::make_printer;
use super::filter::Filter;
use super::{output, use_color};
use crate::input;
use crate::model::{Body, Event, Process, merge};
use crate::resolve::Resolver;
use crate::show::Printer;
use crate::show::names::Names;

/// How long new events may wait.
const INTERVAL: Duration = Duration::from_millis(100);

/// Print events as they happen, until the traced processes have ended
///
/// The rings are only read: what is shown here can still be dumped or recorded.
/// A ring that is full keeps its oldest events, unless TRACESHIM_OVERFLOW says
/// otherwise or `record` drains it.
#[derive(Args)]
pub(crate) struct FollowArgs {
    /// Rings or session directories
    input: Vec<PathBuf>,
    /// The form
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    symbols: SymbolArgs,
}

/// How far a thread was shown: the ticks of its last event, and how many of its
/// events had these ticks. The ticks of what was written never change, other
/// than the nanoseconds, which get better with each clock reading.
type Shown = HashMap<([u64; 2], u32), (u64, u32)>;

/// Runs the command.
pub(crate) fn run(args: FollowArgs) -> Result<ExitCode> {
    let color = use_color(&args.show, None);
    let mut out = output(None)?;
    let mut resolver = Resolver::new(args.symbols.options());
    let mut names = Names::new(&mut resolver);
    let mut ids: HashMap<[u64; 2], u32> = HashMap::new();
    let mut shown = Shown::new();
    let mut left = args.show.limit.unwrap_or(u64::MAX);
    let mut printer: Option<Box<dyn Printer>> = None;
    loop {
        let mut processes = match input::open(&args.input) {
            Ok(processes) => processes,
            // What was there is gone: whoever recorded it has taken it.
            Err(_) if !ids.is_empty() => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(error),
        };
        for process in &mut processes {
            // What was looked up for a process is kept under its id.
            let next = ids.len() as u32;
            process.id = *ids.entry(process.info.uuid).or_insert(next);
        }
        let printer = printer
            .get_or_insert_with(|| make_printer(args.format, &args.filter, &args.show, color, &processes));
        let mut filter = Filter::new(&args.filter, &processes);
        let mut seen: Shown = HashMap::new();
        let mut failed = None;
        merge(&processes, |number, event| {
            let process = &processes[number as usize];
            if left > 0
                && is_new(&shown, &mut seen, process, &event)
                && filter.passes(&mut names, number, process, &event)
            {
                left -= 1;
                failed = printer.event(&mut out, &mut names, process, &event).err();
            }
            left > 0 && failed.is_none()
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        out.flush()?;
        shown = seen;
        if left == 0 || !processes.iter().any(|process| process.alive) {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Whether an event wasn't shown before; it is noted in `seen` either way.
fn is_new(shown: &Shown, seen: &mut Shown, process: &Process, event: &Event) -> bool {
    if let Body::Lost { .. } = event.body {
        // A loss grows in place; how it ended is what `stats` tells.
        return false;
    }
    let uid = process.threads.get(event.thread as usize).map_or(0, |thread| thread.uid);
    let key = (process.info.uuid, uid);
    let place = seen.entry(key).or_insert((event.ticks, 0));
    *place = if place.0 == event.ticks { (place.0, place.1 + 1) } else { (event.ticks, 1) };
    shown.get(&key).is_none_or(|last| *place > *last)
}
