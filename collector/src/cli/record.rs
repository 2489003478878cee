//! `record`: run a command with the shim and keep what it records.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use traceshim_ring::env::Config;

use super::settings::Settings;
use crate::doctor::{Program, Report};
use crate::input;
use crate::launch::{
    Counts, Drainer, SANITIZER_OPTIONS, SessionDir, find, inherit_pipe_signal, preload, sanitizer_options,
};
use crate::model::Kind;
use crate::resolve::Resolver;
use crate::show::names::Names;
use crate::show::say;
use crate::show::stacks::StackSummary;
use crate::stats::ProcessStats;
use crate::symbols::SymbolOptions;

/// How long closed chunks may wait while little happens, and while much does.
const IDLE: Duration = Duration::from_millis(40);
const BUSY: Duration = Duration::from_millis(1);

/// Run a command with the shim, drain its rings live, and write a trace
///
/// The exit status is the command's (128+n if signal n killed it). With '-o -'
/// the trace goes to standard output, and the command's output to standard
/// error. Signals that would end the recording end the command, and the trace is
/// written.
#[derive(Args)]
#[command(after_help = "Examples:
  collector record -- ./app --its-own-options
  collector record -o - --callback-arg qsort:4 -- ./app | collector dump -
  collector record --callback-preset libc,sqlite3 -- ./app
  collector record --ring-size 64M --overflow overwrite -- ./server")]
pub(crate) struct RecordArgs {
    /// The trace to write
    #[arg(short, long, value_name = "FILE", default_value = "traceshim.trace")]
    output: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// The command and its arguments
    #[arg(required_unless_present = "callback_preset", trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(args: RecordArgs) -> Result<ExitCode> {
    if args.settings.asks_for_presets() {
        return super::print_presets();
    }
    if args.command.is_empty() {
        return Ok(super::usage_error(format_args!("record: no command was given")));
    }
    let config = match args.settings.config() {
        Ok(config) => config,
        Err(why) => return Ok(super::usage_error(format_args!("{why}"))),
    };
    let library = find()?;
    let preload = preload(&library, std::env::var_os("LD_PRELOAD"))?;
    let program = Program::inspect(&args.command);
    if let Some(why) = program.untraceable() {
        say(format_args!("{why}; it runs untraced"));
    }
    let to_stdout = args.output == Path::new("-");
    let out: Box<dyn Write> = if to_stdout {
        Box::new(BufWriter::new(std::io::stdout()))
    } else {
        let file = create(&args.output).with_context(|| args.output.display().to_string())?;
        Box::new(BufWriter::with_capacity(1 << 20, file))
    };
    let session = SessionDir::create()?;
    let mut drainer = Drainer::new(out)?;

    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]).envs(args.settings.variables());
    command.env("LD_PRELOAD", preload).env("TRACESHIM_DIR", session.path());
    command.env(SANITIZER_OPTIONS, sanitizer_options(std::env::var_os(SANITIZER_OPTIONS)));
    if to_stdout {
        command.stdout(Stdio::from(std::io::stderr()));
    }
    inherit_pipe_signal(&mut command);
    let signals = Signals::survive()?;
    let status = run_and_drain(&mut command, &session, &mut drainer, &signals)
        .with_context(|| args.command[0].display().to_string())?;

    let counts = drainer.counts();
    // Closes the trace, so that it can be read. From here on a signal ends us:
    // names for the summary may take a while.
    drop(drainer);
    signals.over.store(true, Ordering::Relaxed);
    summarize(&args, &program, counts, &session, to_stdout);
    explain(&args, &config, &program, counts, to_stdout);
    Ok(exit_code(status))
}

/// A trace tells as much of a program as a core file does: it is its user's alone.
/// And it is one recording's.
fn create(path: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            anyhow::bail!("another recording writes to it");
        }
        if metadata.uid() == input::own_uid() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        file.set_len(0)?;
    }
    Ok(file)
}

/// Signals that end the command and not the recording.
struct Signals {
    /// Those that nobody but us got, perhaps: they are passed on.
    to_pass_on: Vec<(Signal, Arc<AtomicBool>)>,
    /// Set once there is nothing left to survive for.
    over: Arc<AtomicBool>,
}

impl Signals {
    /// Begins to survive them. Those that are ignored stay so, for the command
    /// inherits that.
    fn survive() -> Result<Signals> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or(0);
        let mut signals = Signals { to_pass_on: Vec::new(), over: Arc::default() };
        for signal in [Signal::INT, Signal::QUIT, Signal::TERM, Signal::HUP] {
            let raw = signal.as_raw();
            if ignored >> (raw - 1) & 1 != 0 {
                continue;
            }
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register_conditional_default(raw, Arc::clone(&signals.over))?;
            signal_hook::flag::register(raw, Arc::clone(&flag))?;
            // A key on the terminal reaches the command by itself.
            if signal == Signal::TERM || signal == Signal::HUP {
                signals.to_pass_on.push((signal, flag));
            }
        }
        Ok(signals)
    }

    /// Passes on what has come since the last call.
    fn pass_on(&self, to: Option<Pid>) {
        for (signal, flag) in &self.to_pass_on {
            if flag.swap(false, Ordering::Relaxed)
                && let Some(pid) = to
            {
                // It fails where the command has just ended.
                let _ = kill_process(pid, *signal);
            }
        }
    }
}

/// Runs `command` to its end while its rings are drained. A trace that can't
/// be written is reported once, and the command goes on.
fn run_and_drain<W: Write>(
    command: &mut Command,
    session: &SessionDir,
    drainer: &mut Drainer<W>,
    signals: &Signals,
) -> Result<ExitStatus> {
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait()));
    let mut broken = false;
    let mut interval = BUSY;
    let status = loop {
        match receiver.recv_timeout(interval) {
            Ok(status) => break status?,
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("its end was missed"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        signals.pass_on(pid);
        if broken {
            interval = IDLE;
            continue;
        }
        match drainer.poll(session) {
            Ok(any) => interval = if any { BUSY } else { IDLE },
            Err(error) => {
                broken = true;
                say(format_args!("the trace is incomplete: {error:#}"));
            }
        }
    };
    if !broken && let Err(error) = drainer.finish(session) {
        say(format_args!("the trace is incomplete: {error:#}"));
    }
    Ok(status)
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(code as u8)
}

/// Tells on standard error what was recorded, what was lost, or why there is
/// nothing.
fn summarize(args: &RecordArgs, program: &Program, counts: Counts, session: &SessionDir, to_stdout: bool) {
    if counts.events == 0 && counts.lost == 0 {
        let nothing = "no thread was made, no callback was called, and nothing was logged";
        match program.untraceable() {
            Some(why) => say(format_args!("nothing was recorded: {why}")),
            None if counts.rings > 0 => say(format_args!("nothing was recorded: {nothing}")),
            None => say(format_args!("nothing was recorded: {nothing}, unless the shim said why above")),
        }
    } else {
        let Counts { processes, events, callbacks, births, lost, .. } = counts;
        say(format_args!(
            "{}: {}, {}; {lost} lost",
            events_of(events, processes),
            plural(callbacks, "callback", "callbacks"),
            plural(births, "thread birth", "thread births"),
        ));
        if !to_stdout {
            match describe(&args.output) {
                Ok(lines) => lines.iter().for_each(|line| say(format_args!("{line}"))),
                Err(error) => say(format_args!("{}: {error:#}", args.output.display())),
            }
        }
    }
    let left = session.rings().len() as u64;
    if left > 0 {
        say(format_args!(
            "{} left in {}: still being written to, or unreadable",
            plural(left, "ring is", "rings are"),
            session.path().display()
        ));
    }
}

/// Tells why there is no callback, where that can be told beforehand, too.
fn explain(args: &RecordArgs, config: &Config, program: &Program, counts: Counts, to_stdout: bool) {
    if counts.callbacks > 0 || program.untraceable().is_some() || !config.callbacks.asks_for_any() {
        return;
    }
    // What ran in the end: a shell starts other programs.
    let mut ran: Vec<OsString> = match to_stdout {
        true => Vec::new(),
        false => input::open(std::slice::from_ref(&args.output))
            .map(|processes| processes.iter().map(|p| OsString::from_vec(p.exe())).collect())
            .unwrap_or_default(),
    };
    ran.sort();
    ran.dedup();
    let report = match ran.as_slice() {
        [] => Report::examine(config, &args.command, &[]),
        [one] => Report::examine(config, std::slice::from_ref(one), &[]),
        _ => return,
    };
    for why in report.why_no_callback() {
        say(format_args!("no callback was seen: {why}"));
    }
}

fn events_of(events: u64, processes: u64) -> String {
    format!("{} of {}", plural(events, "event", "events"), plural(processes, "process", "processes"))
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// What the trace adds up to, over all processes.
fn describe(trace: &Path) -> Result<Vec<String>> {
    let processes = input::open(&[trace.to_owned()])?;
    let mut resolver = Resolver::new(SymbolOptions {
        enabled: true,
        demangle: false,
        inlines: false,
        debug_dirs: Vec::new(),
    });
    let mut names = Names::new(&mut resolver);
    let mut stacks = StackSummary::default();
    let (mut threads, mut logs) = (std::collections::BTreeMap::new(), 0);
    for process in &processes {
        let stats = ProcessStats::collect(process, &mut names, |_, _| true);
        stacks.merge(&stats.stacks);
        logs += stats.kind(Kind::Log);
        for (origin, count) in stats.threads {
            *threads.entry(origin).or_insert(0) += count.count;
        }
    }
    let threads: Vec<String> = threads.iter().map(|(origin, count)| format!("{count} {origin}")).collect();
    Ok(vec![
        format!("threads by origin: {}; {}", threads.join(", "), plural(logs, "log event", "log events")),
        format!("{stacks}"),
        format!("wrote {}", trace.display()),
    ])
}
