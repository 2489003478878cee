//! A report, for people and for programs.

use std::io::{Result, Write};
use std::os::unix::ffi::OsStrExt;

use traceshim_ring::choice::Side;
use traceshim_ring::env::CallbackArg;

use super::environment::bytes;
use super::module::Slot;
use super::{Report, Severity};
use crate::show::escape::text_string;
use crate::show::fields::Sink;
use crate::show::{list, object};

/// How many lines of one kind are worth reading.
const LINES: usize = 40;

/// Prints a report for people.
pub(crate) fn write_text(out: &mut dyn Write, report: &Report) -> Result<()> {
    let mut heading = |name: &str, text: String| writeln!(out, "{name:<10} {text}");
    if let Some(path) = &report.program.path {
        let via: Vec<_> = report.program.via.iter().map(|path| path.display().to_string()).collect();
        let via = if via.is_empty() { String::new() } else { format!(", run by {}", via.join(", ")) };
        heading("program", text_string(format!("{}{via}", path.display()).as_bytes()))?;
    }
    for module in report.modules.iter().filter(|module| module.side == Side::Host) {
        let count = module.functions().len();
        heading("host", format!("{}: {count} exported functions", escaped(&module.file_name())))?;
    }
    if !report.modules.is_empty() {
        let others = report.modules.iter().filter(|module| module.side == Side::CSide);
        heading("C side", format!("{} libraries", others.count()))?;
    }
    let environment = &report.environment;
    if let Some((path, _)) = &environment.shim {
        heading("shim", escaped(&path.display().to_string()))?;
    }
    let (parent, ring) = (environment.session_parent.display(), bytes(environment.ring_bytes));
    let free = environment.free_bytes.map(|free| format!("{} free, ", bytes(free))).unwrap_or_default();
    heading("session", escaped(&format!("in {parent}: {free}{ring} a process")))?;

    let hooks = hook_rows(report);
    table(out, "callbacks that will be hooked, and who calls them", &hooks)?;
    let looked_up: Vec<_> = looked_up(report).map(|(name, by)| [text_string(name), escaped(&by)]).collect();
    table(out, "functions that may be looked up by name and hooked then, and by whom", &looked_up)?;
    let wrapped = wrapped_rows(report);
    table(out, "functions whose callbacks will be wrapped, and who calls them", &wrapped)?;
    let left = report.plan.left.iter();
    let left: Vec<_> = left.map(|(name, why)| [text_string(name), why.why().to_owned()]).collect();
    table(out, "functions that C calls and that are left alone", &left)?;

    for (severity, title) in
        [(Severity::Blocker, "no trace"), (Severity::Limit, "limits"), (Severity::Note, "notes")]
    {
        let all: Vec<_> = report.findings.iter().filter(|finding| finding.severity == severity).collect();
        if !all.is_empty() {
            writeln!(out, "\n{title}")?;
        }
        for finding in all {
            writeln!(out, "  {}", escaped(&finding.what))?;
            if let Some(advice) = &finding.advice {
                writeln!(out, "      {}", escaped(advice))?;
            }
        }
    }
    writeln!(out, "\n{}", verdict(report))
}

/// In a sentence.
fn verdict(report: &Report) -> &'static str {
    match (report.severity(), report.program.path.is_some()) {
        (Severity::Blocker, _) => "Nothing would be traced.",
        (Severity::Limit, true) => "It would be traced, within these limits.",
        (Severity::Note, true) => "Everything would be traced.",
        (Severity::Limit, false) => "Programs can be traced here, within these limits.",
        (Severity::Note, false) => "Programs can be traced here.",
    }
}

fn escaped(text: &str) -> String {
    text_string(text.as_bytes())
}

fn table<const N: usize>(out: &mut dyn Write, title: &str, rows: &[[String; N]]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}")?;
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in rows.iter().take(LINES) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(&format!("  {cell:<width$}", width = width(column).min(48)));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    match rows.len().saturating_sub(LINES) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more; --format json has them all"),
    }
}

fn hook_rows(report: &Report) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    for (name, hooked) in &report.plan.hooked {
        for &(module, slot) in &hooked.callers {
            rows.push([text_string(name), caller(report, module), slot.name().to_owned()]);
        }
    }
    rows
}

fn looked_up(report: &Report) -> impl Iterator<Item = (&'static [u8], String)> {
    report.plan.looked_up.iter().map(|(name, by)| {
        let by: Vec<_> = by.iter().map(|&module| caller(report, module)).collect();
        (*name, by.join(", "))
    })
}

fn wrapped_rows(report: &Report) -> Vec<[String; 3]> {
    let rows = report.plan.wrapped.iter().map(|((name, module), arguments)| {
        let arguments: Vec<_> = arguments.iter().map(argument).collect();
        [text_string(name), caller(report, *module), format!("argument {}", arguments.join(", "))]
    });
    rows.collect()
}

fn argument(argument: &CallbackArg) -> String {
    match argument.only_if {
        Some((other, from, to)) => format!("{} where {other} is {from} to {to}", argument.argument),
        None => argument.argument.to_string(),
    }
}

fn caller(report: &Report, module: usize) -> String {
    report.modules.get(module).map(|module| escaped(&module.file_name())).unwrap_or_default()
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Host => "host",
        Side::CSide => "c",
        Side::Forwarder => "forwarder",
        Side::Untouchable => "untouched",
    }
}

/// Prints a report as one JSON object.
pub(crate) fn write_json(out: &mut dyn Write, report: &Report) -> Result<()> {
    let mut line = Vec::new();
    object(&mut line, |sink| {
        let verdict = match report.severity() {
            Severity::Blocker => "untraceable",
            Severity::Limit => "limited",
            Severity::Note => "full",
        };
        sink.word("verdict", verdict);
        if let Some(path) = &report.program.path {
            sink.text("program", path.as_os_str().as_bytes());
        }
        list(sink, "via", &report.program.via, |sink, path| sink.text("path", path.as_os_str().as_bytes()));
        let environment = &report.environment;
        if let Some((path, _)) = &environment.shim {
            sink.text("shim", path.as_os_str().as_bytes());
        }
        sink.text("session_parent", environment.session_parent.as_os_str().as_bytes());
        if let Some(free) = environment.free_bytes {
            sink.number("free_bytes", free);
        }
        sink.number("ring_bytes", environment.ring_bytes);
        list(sink, "modules", &report.modules, |sink, module| {
            sink.text("path", module.path.as_os_str().as_bytes());
            sink.word("side", side(module.side));
            sink.number("exported_functions", module.functions().len() as u64);
            sink.flag("unwind_tables", module.has_unwind_tables);
        });
        list(sink, "hooks", &report.plan.hooked, |sink, (name, hooked)| {
            sink.text("function", name);
            sink.text("module", caller(report, hooked.host).as_bytes());
            list(sink, "callers", &hooked.callers, |sink, &(module, slot): &(usize, Slot)| {
                sink.text("module", caller(report, module).as_bytes());
                sink.word("slot", slot.name());
            });
        });
        list(sink, "inline", &report.plan.inline, |sink, name| sink.text("function", name));
        list(sink, "may_be_looked_up", looked_up(report), |sink, (name, by)| {
            sink.text("function", name);
            sink.text("by", by.as_bytes());
        });
        list(sink, "left_alone", &report.plan.left, |sink, (name, why)| {
            sink.text("function", name);
            sink.word("why", why.why());
        });
        list(sink, "wrapped", &report.plan.wrapped, |sink, ((name, module), arguments)| {
            sink.text("function", name);
            sink.text("caller", caller(report, *module).as_bytes());
            list(sink, "arguments", arguments, |sink, argument| {
                sink.number("argument", argument.argument.into())
            });
        });
        list(sink, "findings", &report.findings, |sink, finding| {
            sink.word("severity", finding.severity.name());
            sink.word("about", finding.about);
            sink.text("what", finding.what.as_bytes());
            if let Some(advice) = &finding.advice {
                sink.text("advice", advice.as_bytes());
            }
        });
    });
    line.push(b'\n');
    out.write_all(&line)
}
