//! Which functions the shim will hook, and which pointers it will wrap: its own
//! decisions, made on files.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

use traceshim_ring::choice::{self, Side};
use traceshim_ring::env::{CallbackArg, Config};

use super::module::{Import, Module, Slot};
use crate::presets;

/// What will become of the slots of a program.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Host functions that will be hooked: by module and name, in which
    /// modules' slots.
    pub(crate) hooked: BTreeMap<&'static [u8], Hooked>,
    /// Host functions that C has a slot for and that are left alone.
    pub(crate) left: BTreeMap<&'static [u8], Left>,
    /// Host functions whose names are in modules that look names up, and which
    /// those may be.
    pub(crate) looked_up: BTreeMap<&'static [u8], BTreeSet<usize>>,
    /// Functions of the host whose entries are to be patched, by request.
    pub(crate) inline: BTreeSet<&'static [u8]>,
    /// Functions that take callbacks, and are watched, by the module that calls
    /// them.
    pub(crate) wrapped: BTreeMap<(&'static [u8], usize), Vec<CallbackArg>>,
    /// Functions that the host hands callbacks to without being watched, by
    /// preset.
    pub(crate) unwatched: BTreeMap<&'static str, BTreeSet<&'static [u8]>>,
}

/// A host function that will be hooked.
#[derive(Debug)]
pub(crate) struct Hooked {
    /// The number of the module that has it.
    pub(crate) host: usize,
    /// The modules that call it, and through what.
    pub(crate) callers: BTreeSet<(usize, Slot)>,
}

/// Why a host function that C calls is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It is of the compiler's or its libraries' making, or stands before such
    /// a function: allocators, what code is instrumented with.
    Runtime,
    /// The variables don't ask for it.
    NotWanted,
    /// Another module's function of that name comes first, or another version.
    NotFirst,
}

impl Left {
    /// For people.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Left::Runtime => "is of the compiler and its libraries, or stands before a function of theirs",
            Left::NotWanted => "not asked for",
            Left::NotFirst => "the name means another function",
        }
    }
}

/// What every program has, and nobody calls back.
const STARTS: [&[u8]; 4] = [b"main", b"_start", b"_init", b"_fini"];

/// Looks through every module's slots, as the shim will when they are loaded.
pub(crate) fn plan(config: &Config, modules: &[Module]) -> Plan {
    let mut plan = Plan::default();
    for (number, module) in modules.iter().enumerate().filter(|(_, m)| m.side != Side::Untouchable) {
        for import in &module.imports {
            if let Some(arguments) = config.callback_args.get(import.name) {
                plan.wrapped.insert((import.name, number), arguments.clone());
                continue;
            }
            if module.side == Side::Host {
                if let Some((preset, _)) = presets::taker(import.name) {
                    plan.unwatched.entry(preset).or_default().insert(import.name);
                }
                continue;
            }
            plan.look_at(config, modules, (number, import));
        }
    }
    plan.left.retain(|name, _| !plan.hooked.contains_key(name));
    plan.look_for_names(config, modules);
    if !config.callbacks.inline.is_empty() {
        let hosts = modules.iter().filter(|module| module.side == Side::Host);
        let names = hosts.flat_map(Module::named_functions);
        plan.inline.extend(names.filter(|name| choice::is_wanted_inline(config, name)));
    }
    plan
}

impl Plan {
    fn look_at(&mut self, config: &Config, modules: &[Module], (caller, import): (usize, &Import)) {
        if !modules.iter().any(|module| is_hosts(config, module, import.name)) {
            return;
        }
        let Some(module) = modules.get(caller) else { return };
        let defines = |at: &usize| modules.get(*at).is_some_and(|module| module.defines(import));
        let itself = Some(caller).filter(|_| module.is_symbolic).filter(defines);
        let means = itself.or_else(|| module.scope.iter().copied().find(defines));
        let host = means.filter(|&at| modules.get(at).is_some_and(|m| is_hosts(config, m, import.name)));
        let left = match host {
            Some(host) if is_callback(config, modules, import.name) => {
                let hooked = self.hooked.entry(import.name);
                let hooked = hooked.or_insert_with(|| Hooked { host, callers: BTreeSet::new() });
                hooked.callers.insert((caller, import.slot));
                return;
            }
            Some(_) if config.callbacks.selects(import.name) => Left::Runtime,
            Some(_) => Left::NotWanted,
            None => Left::NotFirst,
        };
        self.left.insert(import.name, left);
    }
}

impl Plan {
    /// Names that are strings in modules which call `dlsym`.
    fn look_for_names(&mut self, config: &Config, modules: &[Module]) {
        let ask = |module: &Module| module.side == Side::CSide && module.imports(b"dlsym");
        for (number, module) in modules.iter().enumerate().filter(|(_, module)| ask(module)) {
            for string in module.data.split(|&b| b == 0).filter(|string| string.len() > 2) {
                if !STARTS.contains(&string)
                    && is_callback(config, modules, string)
                    && modules.iter().any(|module| is_hosts(config, module, string))
                    && !module.imports(string)
                    && !self.hooked.contains_key(string)
                {
                    self.looked_up.entry(string).or_default().insert(number);
                }
            }
        }
    }
}

/// Whether a host's function of this name is hooked.
fn is_callback(config: &Config, modules: &[Module], name: &[u8]) -> bool {
    let mut toolchain =
        modules.iter().filter(|module| choice::is_of_toolchain(module.path.as_os_str().as_bytes()));
    choice::is_wanted(config, name)
        && !choice::is_interposed(config, name, || toolchain.any(|module| module.exports(name)))
}

/// Whether a module is the host, with a function of this name that counts.
fn is_hosts(config: &Config, module: &Module, name: &[u8]) -> bool {
    module.side == Side::Host
        && module.exports(name)
        && choice::is_host_function(config, module.path.as_os_str().as_bytes(), name)
}
