//! `stats`: what a trace adds up to.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::args::{FilterArgs, Format, SymbolArgs};
use super::filter::Filter;
use super::output;
use crate::input;
use crate::model::{Kind, Process};
use crate::resolve::Resolver;
use crate::show::escape::text_string;
use crate::show::fields::Sink;
use crate::show::names::Names;
use crate::show::stacks::percent;
use crate::show::time::duration_string;
use crate::show::{is_damaged, list, object, say};
use crate::stats::{CallbackStats, ProcessStats};
use traceshim_ring::read::Loss;

/// How many threads' losses the text lists, the largest first.
const SHOWN_LOSSES: usize = 16;

/// Add up threads by origin, callbacks, births by creator, losses
#[derive(Args)]
#[command(after_help = "Examples:
  collector stats traceshim.trace
  collector stats --format json /tmp/traceshim-1000 | jq .callbacks")]
pub(crate) struct StatsArgs {
    /// Rings, traces, session directories; '-' is a trace on standard input
    input: Vec<PathBuf>,
    /// The form
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write here instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Exit with 3 where events were lost or a stack is truncated
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    symbols: SymbolArgs,
}

/// Runs the command.
pub(crate) fn run(args: StatsArgs) -> Result<ExitCode> {
    super::refuse_inputs(args.output.as_ref(), &args.input)?;
    let processes = input::open(&args.input)?;
    let mut resolver = Resolver::new(args.symbols.options());
    let mut names = Names::new(&mut resolver);
    let mut filter = Filter::new(&args.filter, &processes);
    let mut out = output(args.output.as_ref())?;
    let mut flawless = true;
    for (number, process) in (0..).zip(&processes) {
        let stats = ProcessStats::collect(process, &mut names, |names, event| {
            filter.passes(names, number, process, event)
        });
        flawless &= process.lost() == 0 && process.damaged == 0 && stats.stacks.truncated == 0;
        match args.format {
            Format::Json => write_json(&mut out, process, &stats, &mut names)?,
            Format::Text => {
                if number > 0 {
                    writeln!(out)?;
                }
                write_text(&mut out, process, &stats, &mut names)?;
            }
        }
    }
    out.flush()?;
    if processes.is_empty() {
        say(format_args!("no process in it"));
    }
    flawless &= !is_damaged();
    Ok(if args.strict && !flawless { super::NOT_STRICT.into() } else { ExitCode::SUCCESS })
}

/// How a process ended, as far as its ring tells.
fn state(process: &Process, stats: &ProcessStats) -> &'static str {
    match (process.info.ended, process.alive) {
        (true, _) => "ended",
        (false, true) => "running",
        (false, false) if stats.last_was_exec => "became another program",
        (false, false) if process.gone => "ended without notice",
        (false, false) => "end not recorded",
    }
}

fn write_text(
    out: &mut dyn Write,
    process: &Process,
    stats: &ProcessStats,
    names: &mut Names<'_>,
) -> std::io::Result<()> {
    let exe = text_string(&process.exe());
    let (first_ns, last_ns) = stats.span_ns.unwrap_or_default();
    writeln!(
        out,
        "process {} {exe}: {}, {} events in {}",
        process.info.pid,
        state(process, stats),
        stats.events(),
        duration_string(last_ns - first_ns),
    )?;

    if !stats.is_remarkable() && process.lost() == 0 && process.damaged == 0 {
        return writeln!(out, "nothing but its main thread; lost: 0 events");
    }

    writeln!(out, "\nthreads by origin\n{:>10} {:>16}  origin", "count", "alive at the end")?;
    for (origin, threads) in &stats.threads {
        writeln!(out, "{:>10} {:>16}  {origin}", threads.count, threads.alive_at_end)?;
    }

    if stats.callbacks.iter().any(Option::is_some) {
        writeln!(
            out,
            "\ncallbacks\n{:>10} {:>10} {:>10} {:>10} {:>10} {:>8}  function",
            "count", "total", "p50", "p99", "max", "unwound"
        )?;
    }
    for (hook, callback) in callbacks(stats) {
        let d = &callback.durations;
        let [total, p50, p99, max] =
            [d.total_ns(), d.quantile_ns(0.5), d.quantile_ns(0.99), d.max_ns()].map(duration_string);
        let name = names.hook(process, hook).map_or_else(|| "?".to_owned(), |name| text_string(&name));
        let (entered, unwound) = (callback.entered, callback.unwound);
        writeln!(out, "{entered:>10} {total:>10} {p50:>10} {p99:>10} {max:>10} {unwound:>8}  {name}")?;
    }

    if !stats.births.is_empty() {
        writeln!(out, "\nbirths by creator\n{:>10} {:>8}  creator and start routine", "count", "origin")?;
    }
    for (birth, &(count, ticks)) in &stats.births {
        let routine = names.routine(process, birth.start_routine, ticks);
        let creator = creator(process, birth.creator);
        let (creator, routine) = (text_string(creator.as_bytes()), text_string(routine.as_bytes()));
        writeln!(out, "{count:>10} {:>8}  {creator} -> {routine}", birth.origin)?;
    }

    write_losses(out, process, stats)
}

/// What every summary tells: what isn't there, and what isn't known.
fn write_losses(out: &mut dyn Write, process: &Process, stats: &ProcessStats) -> std::io::Result<()> {
    let lost = process.lost();
    let all = lost.saturating_add(stats.events());
    writeln!(out, "\nlost: {lost} events ({})", percent(lost, all))?;
    let mut losses = process.tables.losses().to_vec();
    losses.sort_by_key(|loss| (loss.tid == 0, std::cmp::Reverse(loss.count)));
    // What is left of the list, and what was never told apart.
    let rest = losses.split_off(losses.iter().take(SHOWN_LOSSES).filter(|loss| loss.tid != 0).count());
    for loss in &losses {
        write_loss(out, process, &format!("thread {}", loss.tid), loss)?;
    }
    let rest = rest.into_iter().reduce(|a, b| Loss {
        count: a.count.saturating_add(b.count),
        from_ticks: a.from_ticks.min(b.from_ticks),
        to_ticks: a.to_ticks.max(b.to_ticks),
        ..a
    });
    if let Some(rest) = rest {
        write_loss(out, process, "other threads", &rest)?;
    }
    if process.info.reentered > 0 {
        writeln!(out, "{:>10}  not recorded: inside the tracer itself", process.info.reentered)?;
    }
    if process.info.table_full > 0 {
        writeln!(out, "{:>10}  stacks or names found no room in the ring", process.info.table_full)?;
    }
    if process.damaged > 0 {
        writeln!(out, "{:>10}  damaged places were skipped", process.damaged)?;
    }
    writeln!(out, "{}", stats.stacks)?;
    for (why, count) in &stats.truncated {
        writeln!(out, "{count:>10}  {why}")?;
    }
    Ok(())
}

fn write_loss(out: &mut dyn Write, process: &Process, whose: &str, loss: &Loss) -> std::io::Result<()> {
    let [from, to] = [loss.from_ticks, loss.to_ticks]
        .map(|ticks| duration_string(process.clock.ns(ticks).saturating_sub(process.info.start_mono_ns)));
    writeln!(out, "{:>10}  {whose}, from {from} to {to}", loss.count)
}

/// By total time, longest first.
fn callbacks(stats: &ProcessStats) -> Vec<(u16, &CallbackStats)> {
    // Hooks have 16-bit numbers, and all of them may be there.
    let numbered = stats.callbacks.iter().enumerate();
    let mut callbacks: Vec<(u16, &CallbackStats)> =
        numbered.filter_map(|(hook, c)| Some((hook as u16, c.as_ref()?))).collect();
    callbacks.sort_by_key(|(_, c)| std::cmp::Reverse((c.durations.total_ns(), c.entered)));
    callbacks
}

fn creator(process: &Process, thread: u32) -> String {
    let Some(thread) = process.threads.get(thread as usize) else { return "?".to_owned() };
    let name = process.string(thread.name).unwrap_or_default();
    match name.is_empty() {
        true => thread.tid.to_string(),
        false => format!("{} {}", thread.tid, crate::symbols::utf8(&name)),
    }
}

fn write_json(
    out: &mut dyn Write,
    process: &Process,
    stats: &ProcessStats,
    names: &mut Names<'_>,
) -> std::io::Result<()> {
    let mut line = Vec::new();
    object(&mut line, |sink| {
        sink.number("pid", process.info.pid.into());
        sink.number("ppid", process.info.ppid.into());
        sink.text("exe", &process.exe());
        sink.word("state", state(process, stats));
        sink.number("start_ns", process.info.start_mono_ns);
        sink.number("events", stats.events());
        list(sink, "kinds", Kind::ALL, |sink, &kind| {
            sink.word("kind", kind.name());
            sink.number("count", stats.kind(kind));
        });
        list(sink, "threads", &stats.threads, |sink, (origin, threads)| {
            sink.word("origin", origin);
            sink.number("count", threads.count);
            sink.number("alive_at_end", threads.alive_at_end);
        });
        list(sink, "callbacks", callbacks(stats), |sink, (hook, callback)| {
            if let Some(name) = names.hook(process, hook) {
                sink.text("function", &name);
            }
            let d = &callback.durations;
            sink.number("count", callback.entered);
            sink.number("timed", d.count());
            sink.number("total_ns", d.total_ns());
            sink.number("p50_ns", d.quantile_ns(0.5));
            sink.number("p99_ns", d.quantile_ns(0.99));
            sink.number("max_ns", d.max_ns());
            sink.number("unwound", callback.unwound);
        });
        list(sink, "births", &stats.births, |sink, (birth, &(count, ticks))| {
            if let Some(creator) = process.threads.get(birth.creator as usize) {
                sink.number("creator_tid", creator.tid.into());
            }
            sink.word("origin", birth.origin);
            sink.text("start_routine", names.routine(process, birth.start_routine, ticks).as_bytes());
            sink.number("count", count);
        });
        sink.number("lost", process.lost());
        list(sink, "losses", process.tables.losses(), |sink, loss| {
            sink.number("tid", loss.tid.into());
            sink.number("count", loss.count);
            sink.number("from_ns", process.clock.ns(loss.from_ticks));
            sink.number("to_ns", process.clock.ns(loss.to_ticks));
        });
        sink.number("reentered", process.info.reentered);
        sink.number("table_full", process.info.table_full);
        sink.number("damaged", process.damaged as u64);
        sink.number("stacks", stats.stacks.stacks);
        sink.number("truncated_stacks", stats.stacks.truncated);
        sink.number("frames", stats.stacks.frames);
        sink.number("unnamed_frames", stats.stacks.unnamed);
    });
    line.push(b'\n');
    out.write_all(&line)
}
