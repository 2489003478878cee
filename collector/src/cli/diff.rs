//! `diff`: whether the same events have the same stacks.

use std::collections::BTreeMap;
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

/// The stacks of the events of each name, in order.
type Named = BTreeMap<String, Vec<Rc<Lines>>>;

/// Runs the command.
pub(crate) fn run(args: DiffArgs) -> Result<ExitCode> {
    let mut resolver = Resolver::new(args.symbols.options());
    let a = collect(&args.a, &args.filter, &mut resolver)?;
    let mut resolver = Resolver::new(args.symbols.options());
    let b = collect(&args.b, &args.filter, &mut resolver)?;
    let mut out = output(None)?;
    let differences = compare(&mut out, &a, &b)?;
    let events = |side: &Named| side.values().map(Vec::len).sum::<usize>();
    writeln!(
        out,
        "{} and {} events with stacks, {} names, {differences} differences",
        events(&a),
        events(&b),
        a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>().len(),
    )?;
    out.flush()?;
    Ok(ExitCode::from(u8::from(differences > 0)))
}

fn collect(input: &Path, filter: &FilterArgs, resolver: &mut Resolver) -> Result<Named> {
    let processes = input::open(&[input.to_owned()])?;
    let mut filter = Filter::new(filter, &processes);
    let mut names = Names::new(resolver);
    let mut stacks: StackMap<Rc<Lines>> = StackMap::default();
    let mut named = Named::new();
    merge(&processes, |number, event| {
        let process = &processes[number as usize];
        if let Some(stack) = event.body.stack()
            && filter.passes(&mut names, number, process, &event)
            && let Some(name) = name(&mut names, process, &event)
        {
            let key = StackKey::new(process, stack, event.ticks);
            let lines = stacks.entry(key).or_insert_with(|| {
                let stack = names.resolver.stack(process, stack, event.ticks);
                let frames = stack.frames.iter().map(|frame| frame_line(process, frame)).collect();
                Rc::new(Lines { frames, status: stack.status })
            });
            named.entry(name).or_default().push(Rc::clone(lines));
        }
        true
    });
    Ok(named)
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
fn compare(out: &mut dyn Write, a: &Named, b: &Named) -> std::io::Result<usize> {
    let mut differences = 0;
    let none = Vec::new();
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for name in keys {
        let (in_a, in_b) = (a.get(name).unwrap_or(&none), b.get(name).unwrap_or(&none));
        if in_a.len() != in_b.len() {
            differences += in_a.len().abs_diff(in_b.len());
            writeln!(out, "{name}\n  {} events in A, {} in B\n", in_a.len(), in_b.len())?;
        }
        for (i, (a, b)) in in_a.iter().zip(in_b).enumerate() {
            if a != b {
                differences += 1;
                writeln!(out, "{name} (number {})", i + 1)?;
                compare_stacks(out, a, b)?;
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
