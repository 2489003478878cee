//! What a program's modules mean for its trace.

use std::collections::BTreeSet;

use object::{Object, ObjectSection, ObjectSymbol};
use traceshim_ring::choice::Side;
use traceshim_ring::env::Config;

use super::finding::Finding;
use super::frames::{share_with_frame_pointer, share_with_tables};
use super::hooks::{Left, Plan};
use super::module::{Module, Slot};
use crate::presets;
use crate::symbols::{Elf, utf8};

/// What is looked at.
pub(crate) struct Case<'a> {
    pub(crate) config: &'a Config,
    pub(crate) modules: &'a [Module],
    pub(crate) plan: &'a Plan,
}

/// Everything that there is to say, in the order in which it matters.
pub(crate) fn judge(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    sanitizers(case, &mut findings);
    exports(case, &mut findings);
    hidden_functions(case, &mut findings);
    pointers(case, &mut findings);
    addresses(case, &mut findings);
    inline(case, &mut findings);
    stacks(case, &mut findings);
    opened_later(case, &mut findings);
    interposers(case, &mut findings);
    findings
}

impl Case<'_> {
    fn hosts(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter().filter(|module| module.side == Side::Host)
    }

    /// Modules that take part: not the loader, nor the shim.
    fn others(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter().filter(|module| module.side != Side::Untouchable)
    }
}

/// A runtime that wants to be first in the list of libraries, which the shim
/// will be.
fn sanitizers(case: &Case<'_>, findings: &mut Vec<Finding>) {
    let options = std::env::var("ASAN_OPTIONS").unwrap_or_default();
    for name in case.modules.iter().flat_map(|module| &module.needed) {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
        if begins(&["libasan.so", "libclang_rt.asan"]) && !options.contains("verify_asan_link_order=0") {
            let what = format!("{} refuses to start behind a preloaded library", utf8(name));
            let finding = Finding::blocker("sanitizer", what);
            findings.push(finding.advise("set ASAN_OPTIONS=verify_asan_link_order=0"));
            return;
        }
    }
}

fn exports(case: &Case<'_>, findings: &mut Vec<Finding>) {
    let Some(host) = case.hosts().next() else {
        let what = "no module is the host: nothing can be called back";
        findings.push(Finding::limit("host", what).advise("name one with --host"));
        return;
    };
    let name = host.file_name();
    let count: usize = case.hosts().map(|host| host.functions().len()).sum();
    if count == 0 {
        let what = format!("{name} exports no function: nothing of it can be called back by name");
        findings
            .push(Finding::limit("exports", what).advise("link it with -rdynamic (-Wl,--export-dynamic)"));
    } else if !case.config.callbacks.asks_for_any() {
        findings.push(Finding::note("hooks", "no callbacks are asked for"));
    } else if !unmatched(case, findings) && case.plan.hooked.is_empty() && case.plan.inline.is_empty() {
        let functions = if count == 1 { "function" } else { "functions" };
        let what =
            format!("no library that {name} is linked with calls any of its {count} exported {functions}");
        let advice = match case.hosts().any(|module| module.imports(b"dlopen")) {
            true => "libraries that it opens are hooked when they are: --plugin FILE looks at one",
            false => {
                "calls from C code inside it pass no slot: --callbacks 'auto,inline:NAME' patches a function"
            }
        };
        findings.push(Finding::limit("hooks", what).advise(advice));
    }
    for (function, left) in &case.plan.left {
        if *left == Left::NotFirst {
            let what = format!("{}: {}, so it is left alone", utf8(function), left.why());
            findings.push(Finding::limit("hooks", what));
        }
    }
    if case.hosts().any(is_go) {
        let what =
            format!("{name} is a Go program: its callbacks pass no slot, and its own frames end a stack");
        findings.push(Finding::limit("go", what));
    }
}

/// Says which names of functions fit none that the host exports; whether those that
/// are asked for are all of that kind.
fn unmatched(case: &Case<'_>, findings: &mut Vec<Finding>) -> bool {
    let callbacks = &case.config.callbacks;
    let fits = |glob: &Vec<u8>| {
        case.hosts().any(|host| host.functions().iter().any(|name| traceshim_ring::glob::matches(glob, name)))
    };
    for (globs, sign) in [(&callbacks.include, ""), (&callbacks.exclude, "!")] {
        for glob in globs.iter().filter(|glob| !fits(glob)) {
            let what = format!("the host exports no function that matches {sign}{}", utf8(glob));
            findings.push(Finding::limit("hooks", what).advise("nm -D --defined-only lists what it exports"));
        }
    }
    !callbacks.auto && !callbacks.include.is_empty() && !callbacks.include.iter().any(fits)
}

/// Functions that a library wants and the host has, but doesn't export.
fn hidden_functions(case: &Case<'_>, findings: &mut Vec<Finding>) {
    let undefined = |name: &&[u8]| !case.modules.iter().any(|module| module.exports(name));
    let imports = case.others().filter(|module| module.side != Side::Host).flat_map(|module| &module.imports);
    let wanted: BTreeSet<&[u8]> = imports.map(|import| import.name).filter(undefined).collect();
    if wanted.is_empty() {
        return;
    }
    for host in case.hosts() {
        let Ok(elf) = Elf::parse(host.data) else { continue };
        let global = elf.symbols().filter(|symbol| symbol.is_global() && symbol.is_definition());
        let has: BTreeSet<&[u8]> = global.filter_map(|symbol| symbol.name_bytes().ok()).collect();
        let hidden = list(wanted.intersection(&has).copied());
        if !hidden.is_empty() {
            let what = format!("{} has {hidden}, which C wants, but doesn't export it", host.file_name());
            findings.push(
                Finding::limit("exports", what).advise("link it with -rdynamic (-Wl,--export-dynamic)"),
            );
        }
    }
}

/// Functions that the host hands callbacks to, and the presets that know them.
pub(crate) fn unwatched(plan: &Plan) -> Option<(String, String)> {
    let functions = list(plan.unwatched.values().flatten().copied());
    let presets: Vec<&str> = plan.unwatched.keys().copied().collect();
    let what = format!("callbacks that are handed to {functions} aren't seen");
    (!presets.is_empty()).then(|| (what, format!("--callback-preset {}", presets.join(","))))
}

/// Callbacks that are handed over at run time.
fn pointers(case: &Case<'_>, findings: &mut Vec<Finding>) {
    if let Some((what, advice)) = unwatched(case.plan) {
        findings.push(Finding::limit("pointers", what).advise(advice));
    }
    let named = case.config.callback_args.keys().filter(|name| presets::taker(name).is_none());
    let idle: Vec<&[u8]> =
        named.map(Vec::as_slice).filter(|name| !case.others().any(|module| module.imports(name))).collect();
    if !idle.is_empty() {
        let what =
            format!("no module calls {}, of which a callback is to be wrapped", list(idle.into_iter()));
        findings.push(Finding::limit("pointers", what));
    }
}

/// Slots whose address may be used otherwise than to call it: the shim looks at
/// the code, and then patches the function's entry.
fn addresses(case: &Case<'_>, findings: &mut Vec<Finding>) {
    let taken = case.plan.hooked.iter().filter(|(_, hooked)| {
        hooked.callers.iter().any(|&(module, slot)| match slot {
            Slot::Pointer => true,
            Slot::Got => hooked.callers.contains(&(module, Slot::Plt)),
            Slot::Plt => false,
        })
    });
    let names = list(taken.map(|(name, _)| *name));
    if !names.is_empty() {
        let what =
            format!("C keeps the address of {names}: the function's own entry is patched if it can be");
        let advice = "TRACESHIM_LOG=info tells; '!NAME' in --callbacks leaves a function alone";
        findings.push(Finding::note("addresses", what).advise(advice));
    }
}

/// Functions that are to be patched.
fn inline(case: &Case<'_>, findings: &mut Vec<Finding>) {
    if case.config.callbacks.inline.is_empty() {
        return;
    }
    for glob in &case.config.callbacks.inline {
        if !case.plan.inline.iter().any(|name| traceshim_ring::glob::matches(glob, name)) {
            let what = format!("no function of the host matches inline:{}", utf8(glob));
            let advice = "functions are found by their symbols, which a stripped program has not";
            findings.push(Finding::limit("inline", what).advise(advice));
        }
    }
    let names = list(case.plan.inline.iter().copied());
    if !names.is_empty() {
        let what = format!("the entry of each is patched, if it can be: {names}");
        findings
            .push(Finding::note("inline", what).advise("TRACESHIM_LOG=info tells which can't be, and why"));
    }
}

/// Where stacks will end, and how they are taken.
fn stacks(case: &Case<'_>, findings: &mut Vec<Finding>) {
    for module in case.others() {
        let name = module.file_name();
        let what = match share_with_tables(module.data).unwrap_or(100) {
            _ if !module.has_unwind_tables => {
                format!("{name} has no unwind tables: stacks end at its frames")
            }
            share @ 0..50 => {
                format!(
                    "{share}% of the functions that {name} exports have unwind tables: stacks end at the others"
                )
            }
            _ => continue,
        };
        let advice = "build it with -fasynchronous-unwind-tables, and don't strip .eh_frame";
        findings.push(Finding::limit("unwind", what).advise(advice));
    }
    for host in case.hosts() {
        let name = host.file_name();
        if let Some(share) = share_with_frame_pointer(host.data) {
            let then = match share {
                0..50 => "its stacks are taken by unwind tables",
                _ => "they are followed where no C is on the stack",
            };
            let what = format!("{share}% of {name}'s functions with a frame keep a frame pointer: {then}");
            findings.push(Finding::note("frame-pointers", what));
        }
        if Elf::parse(host.data).is_ok_and(|elf| elf.section_by_name(".symtab").is_none()) {
            let what =
                format!("{name} is stripped: what it doesn't export has only module and offset in stacks");
            let advice = "install its debug package, or say where it is with --debug-dir";
            findings.push(Finding::note("symbols", what).advise(advice));
        }
    }
}

fn opened_later(case: &Case<'_>, findings: &mut Vec<Finding>) {
    let opens: Vec<String> = case
        .others()
        .filter(|module| module.imports(b"dlopen") && module.side == Side::Host)
        .map(Module::file_name)
        .collect();
    if !opens.is_empty() {
        let what = format!("{} may open libraries, which are hooked when they are opened", opens.join(", "));
        findings.push(Finding::note("dlopen", what).advise("--plugin FILE looks at one"));
    }
}

/// Others that stand before what the shim stands before.
fn interposers(case: &Case<'_>, findings: &mut Vec<Finding>) {
    const OURS: [&[u8]; 4] = [b"pthread_create", b"dlopen", b"dlsym", b"fork"];
    for module in case.others().filter(|module| !module.file_name().starts_with("libc.so")) {
        let both = list(OURS.into_iter().filter(|name| module.exports(name)));
        if !both.is_empty() {
            let what = format!("{} stands before {both}, too; the shim passes on to it", module.file_name());
            findings.push(Finding::note("interposers", what));
        }
    }
}

fn is_go(module: &Module) -> bool {
    let elf = Elf::parse(module.data);
    elf.is_ok_and(|elf| elf.sections().any(|section| section.name_bytes() == Ok(b".go.buildinfo")))
}

/// A few names, for people.
fn list<'n>(names: impl Iterator<Item = &'n [u8]>) -> String {
    const SHOWN: usize = 6;
    let names: Vec<String> = names.map(|name| utf8(name).into_owned()).collect();
    match names.len().checked_sub(SHOWN).filter(|&more| more > 1) {
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
        None => names.join(", "),
    }
}
