//! The command line.

mod args;
mod diff;
mod doctor;
mod dump;
mod filter;
mod follow;
mod record;
mod settings;
mod stats;

use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use args::ShowArgs;

/// Shows what programs did under libtraceshim.so: threads and who made them,
/// calls from C into the host, and the stack of each.
#[derive(Parser)]
#[command(
    name = "collector",
    version,
    about,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Examples:
  collector doctor -- ./app
  collector record -- ./app --its-own-options
  collector dump traceshim.trace
  collector dump --kind callback_enter --function 'host_*' --depth 8
  collector stats traceshim.trace
  collector diff before.trace after.trace

INPUT is a ring file, a trace, or a session directory, of a live or a dead
process; '-' is a trace on standard input. Several are merged by time. Without
INPUT the default session directory is read ($TRACESHIM_DIR, else
$XDG_RUNTIME_DIR/traceshim, else /tmp/traceshim-UID).")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Record(record::RecordArgs),
    Dump(dump::DumpArgs),
    Stats(stats::StatsArgs),
    Follow(follow::FollowArgs),
    Diff(diff::DiffArgs),
    Doctor(doctor::DoctorArgs),
}

/// The exit status of `--strict` where something is missing.
const NOT_STRICT: u8 = 3;

/// The exit status of wrong usage.
const USAGE: u8 = 2;

/// Says what is wrong with the command line.
fn usage_error(what: std::fmt::Arguments<'_>) -> ExitCode {
    crate::show::say(what);
    USAGE.into()
}

/// Shows what `--callback-preset` knows.
fn print_presets() -> Result<ExitCode> {
    let mut out = output(None)?;
    out.write_all(crate::presets::list().as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no errors.
            if !error.use_stderr() {
                let _ = error.print();
                return ExitCode::SUCCESS;
            }
            for line in error.to_string().lines() {
                let _ = writeln!(
                    std::io::stderr().lock(),
                    "{}",
                    crate::show::escape::text_string(line.as_bytes())
                );
            }
            return USAGE.into();
        }
    };
    match cli.execute() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            crate::show::say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn execute(self) -> Result<ExitCode> {
        match self.command {
            Command::Record(args) => record::run(args),
            Command::Dump(args) => dump::run(args),
            Command::Stats(args) => stats::run(args),
            Command::Follow(args) => follow::run(args),
            Command::Diff(args) => diff::run(args),
            Command::Doctor(args) => doctor::run(args),
        }
    }
}

/// Does what a command line says that is known to be right.
#[cfg(any(fuzzing, test))]
pub(crate) fn run_line<'a>(words: impl IntoIterator<Item = &'a std::ffi::OsStr>) -> Result<ExitCode> {
    Cli::try_parse_from(words)?.execute()
}

/// Whoever reads our output had enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    })
}

/// What is read must not be written to.
fn refuse_inputs(output: Option<&PathBuf>, inputs: &[PathBuf]) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &PathBuf| {
        path.metadata().ok().filter(|file| file.is_file()).map(|file| (file.dev(), file.ino()))
    };
    if let Some(output) = output
        && let Some(there) = id(output)
        && inputs.iter().any(|input| id(input) == Some(there))
    {
        anyhow::bail!("-o {}: it is an input, too", output.display());
    }
    Ok(())
}

/// Standard output, or the file of `-o`.
fn output(path: Option<&PathBuf>) -> Result<Box<dyn Write>> {
    use anyhow::Context;
    Ok(match path.filter(|path| path.as_os_str() != "-") {
        None => Box::new(BufWriter::with_capacity(1 << 16, std::io::stdout().lock())),
        Some(path) => {
            let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
            Box::new(BufWriter::with_capacity(1 << 16, file))
        }
    })
}

/// Whether to colour what goes to `path`.
fn use_color(show: &ShowArgs, path: Option<&PathBuf>) -> bool {
    match show.color {
        args::Color::Always => true,
        args::Color::Never => false,
        args::Color::Auto => {
            path.is_none()
                && std::io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
        }
    }
}
