//! `diff`: whether the same events have the same stacks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Result;
use clap::Args;

use super::args::{FilterArgs, SymbolArgs};
use super::filter::Filter;
use super::output;
use crate::input;
use crate::model::{Body, Event, Process, merge};
use crate::resolve::Resolver;
use crate::show::escape::text_string;
use crate::show::names::{Names, base_name, frame_name};
use crate::show::stacks::{StackKey, StackMap};
use crate::symbols;
use traceshim_ring::record::StackRef;

/// Compare the stacks of events of the same name; exit 1 where they differ
///
/// Logs are the same where category and message are, callbacks by function,
/// births by start routine, regions and tasks by name; those that occur several
/// times are compared in order. Frames are the same where function, module and
/// offset in the module are: addresses differ between any two runs.
#[derive(Args)]
#[command(after_help = "Examples:
  collector record --unwinder auto  -o a.trace -- ./app
  collector record --unwinder table -o b.trace -- ./app
  collector diff a.trace b.trace && echo 'the stacks are the same'")]
pub(crate) struct DiffArgs {
    /// A ring, a trace or a session directory
    a: PathBuf,
    /// Another one
    b: PathBuf,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    symbols: SymbolArgs,
}

/// A stack as it is compared: a line for each frame, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Lines {
    frames: Vec<String>,
    status: &'static str,
}

/// How many bytes of stacks each side keeps. No honest trace has so many stacks;
/// a forged ring can have a million of them, each a thousand frames long.
const KEPT_BYTES: usize = 128 << 20;

/// Whose stack, which one, and when.
#[derive(Clone, Copy)]
struct At {
    process: u32,
    stack: StackRef,
    ticks: u64,
}

/// One of the two that are compared.
struct Side {
    processes: Vec<Process>,
    resolver: Resolver,
    /// The stacks of the events of each name, in order.
    named: BTreeMap<String, Vec<At>>,
    lines: StackMap<Rc<Lines>>,
    kept_bytes: usize,
}

/// Runs the command.
pub(crate) fn run(args: DiffArgs) -> Result<ExitCode> {
    let side = |input| Side::collect(input, &args.filter, Resolver::new(args.symbols.options()));
    let (mut a, mut b) = (side(&args.a)?, side(&args.b)?);
    let mut out = output(None)?;
    let names: BTreeSet<String> = a.named.keys().chain(b.named.keys()).cloned().collect();
    let differences = compare(&mut out, &names, &mut a, &mut b)?;
    writeln!(
        out,
        "{} and {} events with stacks, {} names, {differences} differences",
        a.events(),
        b.events(),
        names.len(),
    )?;
    out.flush()?;
    Ok(ExitCode::from(u8::from(differences > 0)))
}

impl Side {
    fn collect(input: &Path, filter: &FilterArgs, mut resolver: Resolver) -> Result<Side> {
        let processes = input::open(&[input.to_owned()])?;
        let mut filter = Filter::new(filter, &processes);
        let mut names = Names::new(&mut resolver);
        let mut named: BTreeMap<String, Vec<At>> = BTreeMap::new();
        merge(&processes, |number, event| {
            let process = &processes[number as usize];
            if let Some(stack) = event.body.stack()
                && filter.passes(&mut names, number, process, &event)
                && let Some(name) = name(&mut names, process, &event)
            {
                named.entry(name).or_default().push(At { process: number, stack, ticks: event.ticks });
            }
            true
        });
        Ok(Side { processes, resolver, named, lines: StackMap::default(), kept_bytes: 0 })
    }

    fn events(&self) -> usize {
        self.named.values().map(Vec::len).sum()
    }

    fn lines(&mut self, at: At) -> Rc<Lines> {
        let process = &self.processes[at.process as usize];
        let key = StackKey::new(process, at.stack, at.ticks);
        if let Some(lines) = self.lines.get(&key) {
            return Rc::clone(lines);
        }
        let stack = self.resolver.stack(process, at.stack, at.ticks);
        let frames: Vec<String> = stack.frames.iter().map(|frame| frame_line(process, frame)).collect();
        self.kept_bytes += frames.iter().map(|line| size_of::<String>() + line.len()).sum::<usize>();
        if self.kept_bytes > KEPT_BYTES {
            self.lines.clear();
            self.kept_bytes = 0;
        }
        let lines = Rc::new(Lines { frames, status: stack.status });
        self.lines.insert(key, Rc::clone(&lines));
        lines
    }
}

/// What makes two events of two runs the same event.
fn name(names: &mut Names<'_>, process: &Process, event: &Event) -> Option<String> {
    let string = |at| text_string(&process.string(at).unwrap_or_default());
    let what = match event.body {
        Body::Log { category, ref text, .. } => format!("{}: {}", string(category), text_string(text)),
        Body::CallbackEnter { hook, .. } => text_string(&names.hook(process, hook)?),
        Body::ThreadBirth { start_routine, .. } => {
            text_string(names.routine(process, start_routine, event.ticks).as_bytes())
        }
        Body::RegionBegin { name, .. } | Body::RegionEnd { name, .. } | Body::TaskBegin { name, .. } => {
            string(name)
        }
        Body::TaskEnd { .. } => String::new(),
        _ => return None,
    };
    Some(format!("{} {what}", event.body.kind().name()))
}

fn frame_line(process: &Process, frame: &crate::resolve::Frame) -> String {
    let name = frame_name(process, frame);
    match frame.module.and_then(|m| process.tables.modules().get(m as usize)) {
        Some(module) => {
            let module = symbols::utf8(base_name(&module.path));
            let inlined = if frame.site.inlined { " (inlined)" } else { "" };
            format!("{name} {module}+{:#x}{inlined}", frame.offset)
        }
        // Nothing but the name, if there is one, stays the same between runs.
        None => frame.site.function.clone().unwrap_or_else(|| "?".to_owned()),
    }
}

/// Prints what differs, frame by frame; how many events do.
fn compare(
    out: &mut dyn Write,
    names: &BTreeSet<String>,
    a: &mut Side,
    b: &mut Side,
) -> std::io::Result<usize> {
    let mut differences = 0;
    for name in names {
        let of = |side: &Side| side.named.get(name).cloned().unwrap_or_default();
        let (in_a, in_b) = (of(a), of(b));
        if in_a.len() != in_b.len() {
            differences += in_a.len().abs_diff(in_b.len());
            writeln!(out, "{name}\n  {} events in A, {} in B\n", in_a.len(), in_b.len())?;
        }
        for (i, (&at_a, &at_b)) in in_a.iter().zip(&in_b).enumerate() {
            let (a, b) = (a.lines(at_a), b.lines(at_b));
            if a != b {
                differences += 1;
                writeln!(out, "{name} (number {})", i + 1)?;
                compare_stacks(out, &a, &b)?;
            }
        }
    }
    Ok(differences)
}

fn compare_stacks(out: &mut dyn Write, a: &Lines, b: &Lines) -> std::io::Result<()> {
    let longest = a.frames.len().max(b.frames.len());
    for i in 0..longest {
        let (in_a, in_b) = (a.frames.get(i), b.frames.get(i));
        if let (Some(frame), true) = (in_a, in_a == in_b) {
            writeln!(out, "    {}", text_string(frame.as_bytes()))?;
            continue;
        }
        for (side, frame) in [('A', in_a), ('B', in_b)] {
            if let Some(frame) = frame {
                writeln!(out, "  {side} {}", text_string(frame.as_bytes()))?;
            }
        }
    }
    if a.status != b.status {
        writeln!(out, "  A ({})\n  B ({})", a.status, b.status)?;
    }
    writeln!(out)
}
