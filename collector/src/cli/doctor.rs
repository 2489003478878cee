//! `doctor`: what would be traced, before anything runs.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::args::Format;
use super::settings::Settings;
use crate::doctor::{Report, Severity, write_json, write_text};

/// Say what would be traced of a command, what could not be, and why
///
/// Nothing of the command is run. Without one, this machine is looked at alone.
/// The exit status is 0 where everything would be traced, 1 where there are
/// limits, and 2 where nothing would be.
#[derive(Args)]
#[command(after_help = "Examples:
  collector doctor
  collector doctor -- ./app
  collector doctor --plugin plugins/one.so --callback-preset libc -- ./app
  collector doctor --format json -- ./app | jq '.hooks[].function'")]
pub(crate) struct DoctorArgs {
    /// The form
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write here instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A library that the program opens while it runs
    #[arg(long, value_name = "FILE")]
    plugin: Vec<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(args: DoctorArgs) -> Result<ExitCode> {
    if args.settings.asks_for_presets() {
        return super::print_presets();
    }
    let config = match args.settings.config() {
        Ok(config) => config,
        Err(why) => return Ok(super::usage_error(format_args!("{why}"))),
    };
    let report = Report::examine(&config, &args.command, &args.plugin);
    let mut out = super::output(args.output.as_ref())?;
    match args.format {
        Format::Text => write_text(&mut out, &report)?,
        Format::Json => write_json(&mut out, &report)?,
    }
    out.flush()?;
    Ok(match report.severity() {
        Severity::Note => ExitCode::SUCCESS,
        Severity::Limit => ExitCode::FAILURE,
        Severity::Blocker => super::USAGE.into(),
    })
}
