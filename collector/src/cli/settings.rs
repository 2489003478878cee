//! The options of `record` and `doctor` that stand for the shim's variables.

use std::ffi::OsString;

use clap::Args;
use traceshim_ring::env::{BadValue, Config, VARIABLES, Variable};

use crate::presets::{self, PRESETS};

/// What is traced, and how.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Which exported functions of the host are traced: auto, none, or globs
    #[arg(long, value_name = "LIST")]
    callbacks: Option<OsString>,
    /// Wrap the function pointer passed as the Nth argument of a function
    #[arg(long, value_name = "FUNCTION:N", value_delimiter = ',')]
    callback_arg: Vec<String>,
    /// Do so for every function of a library that takes some; 'list' shows them
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = preset)]
    callback_preset: Vec<String>,
    /// Which modules are the host: auto, or globs of their file names
    #[arg(long, value_name = "LIST")]
    host: Option<OsString>,
    /// How stacks are taken: auto, table or frame-pointer
    #[arg(long, value_name = "WHICH")]
    unwinder: Option<OsString>,
    /// Frames kept per stack; 0 takes none
    #[arg(long, value_name = "N")]
    stack_depth: Option<OsString>,
    /// Size of each process's ring, with K, M or G
    #[arg(long, value_name = "BYTES")]
    ring_size: Option<OsString>,
    /// What a full ring loses: drop (the newest) or overwrite (the oldest)
    #[arg(long, value_name = "WHICH")]
    overflow: Option<OsString>,
    /// Don't trace the command's children
    #[arg(long)]
    no_follow: bool,
}

/// The value of `--callback-preset` that asks what there is.
const LIST: &str = "list";

fn preset(name: &str) -> Result<String, String> {
    if name == LIST || presets::named(name).is_some() {
        return Ok(name.to_owned());
    }
    let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
    Err(format!("one of {}; or '{LIST}'", names.join(", ")))
}

impl Settings {
    /// Whether the presets are to be shown, and nothing else done.
    pub(crate) fn asks_for_presets(&self) -> bool {
        self.callback_preset.iter().any(|name| name == LIST)
    }

    /// The environment variables that the options stand for.
    pub(crate) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let presets = self.callback_preset.iter().filter_map(|name| presets::named(name));
        let mut args = self.callback_arg.clone();
        args.extend(presets.flat_map(|preset| preset.items()));
        let pairs = [
            ("TRACESHIM_CALLBACKS", self.callbacks.clone()),
            ("TRACESHIM_CALLBACK_ARGS", (!args.is_empty()).then(|| args.join(",").into())),
            ("TRACESHIM_HOST", self.host.clone()),
            ("TRACESHIM_UNWINDER", self.unwinder.clone()),
            ("TRACESHIM_STACK_DEPTH", self.stack_depth.clone()),
            ("TRACESHIM_RING_BYTES", self.ring_size.clone()),
            ("TRACESHIM_OVERFLOW", self.overflow.clone()),
            ("TRACESHIM_FOLLOW", self.no_follow.then(|| "0".into())),
        ];
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// What the shim will read: the options, and the environment where they say
    /// nothing. An error is what is wrong with an option or a variable.
    pub(crate) fn config(&self) -> Result<Config, String> {
        let variables = self.variables();
        let mut config = Config::default();
        for variable in VARIABLES {
            let ours = variables.iter().find(|(name, _)| *name == variable.name).map(|(_, value)| value);
            let inherited = std::env::var_os(variable.name).filter(|value| !value.is_empty());
            let Some(value) = ours.or(inherited.as_ref()) else { continue };
            if let Err(error) = variable.apply(&mut config, value.clone()) {
                return Err(bad_value(variable, ours.is_some(), &error));
            }
        }
        Ok(config)
    }
}

fn bad_value(variable: &Variable, is_option: bool, error: &BadValue) -> String {
    let Some(option) = variable.option.filter(|_| is_option) else { return error.to_string() };
    let value = error.item.as_ref().unwrap_or(&error.value);
    format!("{option} {}: must be {}", value.display(), error.allowed)
}
