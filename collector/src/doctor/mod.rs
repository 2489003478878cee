//! What would be traced of a program, what could not be, and why: said without
//! running it.
//!
//! A command becomes a `program` (through scripts to their interpreter); its
//! loader lists its `libraries`; each `module` is read as the shim reads it in
//! memory; `hooks` decides as the shim does; `judge` says what follows from it,
//! and `environment` what this machine has to do with it. A [`Report`] is all of
//! that; `show` prints it.

mod environment;
mod finding;
mod frames;
mod hooks;
mod judge;
mod libraries;
mod module;
mod program;
mod show;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use traceshim_ring::env::Config;

use environment::Environment;
pub(crate) use finding::{Finding, Severity};
use hooks::Plan;
use judge::Case;
use module::Module;
use program::is_executable;
pub(crate) use program::{Program, Verdict};
pub(crate) use show::{write_json, write_text};

/// Everything that is known beforehand.
#[derive(Debug, Default)]
pub(crate) struct Report {
    environment: Environment,
    program: Program,
    modules: Vec<Module>,
    plan: Plan,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    /// Looks at `command`, or at this machine alone where there is none.
    /// `plugins` are libraries that the program is known to open.
    pub(crate) fn examine(config: &Config, command: &[OsString], plugins: &[PathBuf]) -> Report {
        let mut report = Report::default();
        report.environment = Environment::check(config, &mut report.findings);
        if let Some(name) = command.first() {
            report.program = Program::inspect(command);
            report.look_into(config, &name.to_string_lossy(), plugins);
        }
        // Stable: what matters most comes first.
        report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        report
    }

    /// How it stands in all.
    pub(crate) fn severity(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Note)
    }

    /// Why no callback was seen of a program that ran: what is most likely,
    /// and pointers that were handed over, with what can be done about them.
    /// Nothing where functions are hooked and just weren't called.
    pub(crate) fn why_no_callback(&self) -> Vec<String> {
        const REASONS: [&str; 7] = ["program", "libraries", "sanitizer", "host", "go", "exports", "hooks"];
        let plan = &self.plan;
        if !(plan.hooked.is_empty() && plan.wrapped.is_empty() && plan.inline.is_empty()) {
            return Vec::new();
        }
        let rank = |finding: &Finding| REASONS.iter().position(|&about| about == finding.about);
        let found = self.findings.iter().filter(|f| f.severity > Severity::Note && rank(f).is_some());
        let likely = found.min_by_key(|finding| rank(finding)).map(|finding| {
            let advice = finding.advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
            format!("{}{advice}", finding.what)
        });
        likely
            .into_iter()
            .chain(judge::unwatched(&self.plan).map(|(what, advice)| format!("{what}; {advice}")))
            .collect()
    }

    fn look_into(&mut self, config: &Config, name: &str, plugins: &[PathBuf]) {
        let loader = match &self.program.verdict {
            Verdict::Traceable(loader) => loader.clone(),
            Verdict::Untraceable(why) => {
                self.findings.push(Finding::blocker("program", why.clone()));
                return;
            }
            Verdict::Unknown => {
                let what = match &self.program.path {
                    Some(path) if !is_executable(path) => format!("{} is not executable", path.display()),
                    Some(path) => format!("{}: can't be read, or is no program", path.display()),
                    None => format!("{name}: no such program"),
                };
                self.findings.push(Finding::blocker("program", what));
                return;
            }
        };
        let Some(path) = self.program.path.as_deref().and_then(|path| path.canonicalize().ok()) else {
            return;
        };
        let libraries = self.libraries(&loader, &path);
        let start = self.open(config, std::iter::once(path).chain(libraries));
        self.give_scope(start.as_slice().into());
        for plugin in plugins {
            let plugin = plugin.canonicalize().unwrap_or_else(|_| plugin.clone());
            let libraries = self.libraries(&loader, &plugin);
            let own = self.open(config, std::iter::once(plugin).chain(libraries));
            // What a library that is opened calls is looked for among what was
            // there at the start, and then among its own.
            self.give_scope([start.as_slice(), &own].concat().into());
        }
        self.plan = hooks::plan(config, &self.modules);
        let case = Case { config, modules: &self.modules, plan: &self.plan };
        self.findings.extend(judge::judge(&case));
    }

    /// What the loader would load for `path`, the shim included.
    fn libraries(&mut self, loader: &Path, path: &Path) -> Vec<PathBuf> {
        let preload = self.environment.shim.as_ref().map(|(_, value)| value.clone()).unwrap_or_default();
        match libraries::list(loader, path, &preload) {
            Ok(found) => {
                let missing = found.missing.iter().map(|name| {
                    Finding::blocker("libraries", format!("{name} isn't found: the program won't start"))
                });
                let complaints = found.complaints.iter().map(|line| match found.fails {
                    true => Finding::blocker("libraries", line),
                    false => Finding::limit("libraries", line),
                });
                self.findings.extend(missing.chain(complaints));
                found.paths
            }
            Err(why) => {
                self.findings.push(Finding::limit("libraries", why));
                Vec::new()
            }
        }
    }

    /// Reads the modules at `paths`, unless they are there already; their
    /// numbers.
    fn open(&mut self, config: &Config, paths: impl Iterator<Item = PathBuf>) -> Vec<usize> {
        let shim = self.environment.shim.as_ref().map(|(path, _)| path.clone());
        let mut numbers = Vec::new();
        for path in paths {
            let known = self.modules.iter().position(|module| module.path == path);
            if known.is_none() {
                match Module::open(&path) {
                    Some(mut module) => {
                        let is_first = self.modules.is_empty();
                        module.choose_side(config, is_first, shim.as_ref() == Some(&path));
                        self.modules.push(module);
                    }
                    None => {
                        let what = format!("{}: can't be read, or is no 64-bit ELF file", path.display());
                        self.findings.push(Finding::limit("libraries", what));
                        continue;
                    }
                }
            }
            numbers.push(known.unwrap_or(self.modules.len() - 1));
        }
        numbers
    }

    /// To the modules in it that have none yet.
    fn give_scope(&mut self, scope: Rc<[usize]>) {
        for &number in scope.iter() {
            if let Some(module) = self.modules.get_mut(number).filter(|module| module.scope.is_empty()) {
                module.scope = Rc::clone(&scope);
            }
        }
    }
}

/// Looks at a file that may hold anything, as a program and as its library.
#[cfg(any(fuzzing, test))]
pub(crate) fn look_at(path: &Path) {
    Program::inspect(&[path.into()]);
    let config = Config::default();
    let mut report = Report::default();
    report.open(&config, std::iter::once(path.to_owned()));
    report.modules.extend(Module::open(path));
    report.give_scope((0..report.modules.len()).collect());
    report.plan = hooks::plan(&config, &report.modules);
    let case = Case { config: &config, modules: &report.modules, plan: &report.plan };
    report.findings.extend(judge::judge(&case));
    write_text(&mut std::io::sink(), &report).expect("a sink takes everything");
    write_json(&mut std::io::sink(), &report).expect("a sink takes everything");
}
