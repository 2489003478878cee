//! What a name means to a module: the loader's order of lookup, with versions.
//!
//! Every scope begins with what the program began with, in the list's order,
//! but for a library that was opened with `RTLD_DEEPBIND`. Which libraries are in
//! the rest of a scope is the loader's secret: where it matters, there is no
//! answer here, and what the loader made of it is seen when it has.

use crate::elf::{Definition, Import, Wanted};
use crate::modules::{Loaded, Registry};
use crate::real::Pair;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use traceshim_ring::choice;

/// Whether any library was opened to look into itself first.
static DEEP: AtomicBool = AtomicBool::new(false);

/// Notes that a library is opened with these flags.
pub(crate) fn note_flags(flags: i32) {
    if flags & libc::RTLD_DEEPBIND != 0 {
        DEEP.store(true, Ordering::Relaxed);
    }
}

fn begins_with_start(module: Option<&Loaded>) -> bool {
    module.is_some_and(|module| module.from_start) || !DEEP.load(Ordering::Relaxed)
}

fn searched(registry: &Registry) -> impl Iterator<Item = &Loaded> {
    registry.modules.iter().filter(|module| module.is_searched())
}

fn find(module: &Loaded, name: &CStr, wanted: Wanted) -> Option<Definition> {
    module.dynamic.as_ref()?.find(name, wanted)
}

/// What the loader will bind an import of `module` to, where that is certain.
pub(crate) fn bound(registry: &Registry, module: &Loaded, import: &Import) -> Option<u64> {
    let dynamic = module.dynamic.as_ref()?;
    let (name, wanted) = (import.name, Wanted::Reference(dynamic.version_of(import)));
    let own = find(module, name, wanted).filter(|_| dynamic.is_symbolic);
    let start = || first_of_start(registry, Some(module), name, wanted);
    let found = own.or_else(start).or_else(|| only(registry, name, wanted))?;
    Some(found.function())
}

/// What a lookup in `caller`'s default scope finds, as far as it finds it among
/// what the program began with.
pub(crate) fn default(
    registry: &Registry,
    caller: Option<&Loaded>,
    name: &CStr,
    wanted: Wanted,
) -> Option<u64> {
    Some(first_of_start(registry, caller, name, wanted)?.function())
}

/// The first that is found among what the program began with, if whoever looks
/// would find no other one before.
fn first_of_start(
    registry: &Registry,
    looks: Option<&Loaded>,
    name: &CStr,
    wanted: Wanted,
) -> Option<Definition> {
    let mut start = searched(registry).filter(|module| module.from_start);
    let first = start.find_map(|module| find(module, name, wanted))?;
    let certain = begins_with_start(looks) || only(registry, name, wanted).is_some();
    certain.then_some(first)
}

/// What is found in one module only.
fn only(registry: &Registry, name: &CStr, wanted: Wanted) -> Option<Definition> {
    let mut all = searched(registry).filter_map(|module| find(module, name, wanted));
    let only = all.next()?;
    all.next().is_none().then_some(only)
}

/// What a lookup finds behind `caller`, if the program began with it.
pub(crate) fn next(registry: &Registry, caller: &Loaded, name: &CStr, wanted: Wanted) -> Option<u64> {
    let start = searched(registry).filter(|module| module.from_start);
    let mut after = start.skip_while(|module| !std::ptr::eq(*module, caller)).skip(1);
    Some(after.find_map(|module| find(module, name, wanted))?.function())
}

/// Whether a library that compilers link programs with has a function of this name.
pub(crate) fn is_toolchains(registry: &Registry, name: &CStr) -> bool {
    let mut toolchain = searched(registry).filter(|module| choice::is_of_toolchain(&module.path));
    toolchain.any(|module| module.dynamic.is_some_and(|dynamic| dynamic.exports(name)))
}

/// Whether a function that an entry of ours stands before is what its name means
/// to everybody, apart from the entry itself.
pub(crate) fn is_only(registry: &Registry, name: &CStr, pair: Pair) -> bool {
    let exports = |module: &&Loaded| module.dynamic.is_some_and(|dynamic| dynamic.exports(name));
    let mut all = searched(registry).filter(exports);
    all.all(|module| module.contains(pair.entry) || module.contains(pair.real))
}
