//! Where a function's address is its identity: C code may compare it with one
//! that the host passed, so that a trampoline must not stand in its place.

use super::island::Calls;
use super::references::{LIMIT, References};
use super::text;
use crate::elf::{Import, R_64, R_GLOB_DAT, R_JUMP_SLOT};
use crate::modules::{Loaded, Registry};

/// Of the functions that `slots` hold, each with the number of the slot's
/// module, those whose addresses are taken: see [`takes_addresses`].
pub(crate) fn taken(registry: &Registry, slots: &[(usize, Import, u64)]) -> Vec<(u64, &'static [u8])> {
    let mut taken = Vec::new();
    for slots in slots.chunk_by(|a, b| a.0 == b.0) {
        let Some(module) = slots.first().and_then(|&(n, ..)| registry.modules.get(n)) else { continue };
        let takes = takes_addresses(module, slots.iter().map(|(_, import, _)| import));
        let functions = slots.iter().map(|(_, import, function)| (*function, import.name.to_bytes()));
        taken.extend(functions.zip(takes).filter_map(|(function, takes)| takes.then_some(function)));
    }
    taken.sort_unstable();
    taken.dedup();
    taken
}

/// Whether C code takes the addresses that slots of this module hold. It does
/// with a table of function pointers, and where it does anything else than call
/// through the slot.
fn takes_addresses<'a>(module: &Loaded, imports: impl Iterator<Item = &'a Import> + Clone) -> Vec<bool> {
    let loadable = imports.clone().filter(|import| import.kind == R_GLOB_DAT);
    let mut slots: Vec<u64> = loadable.map(|import| import.slot).collect();
    slots.sort_unstable();
    let mut found = References::default();
    if module.code.iter().map(|code| code.end - code.start).sum::<u64>() <= LIMIT {
        for code in &module.code {
            if let Ok((bytes, _)) = text::of_function(module, code.start, code.end - code.start) {
                found.add(code.start, bytes, &slots);
            }
        }
    }
    let takes = |import: &Import| match import.kind {
        R_JUMP_SLOT => false,
        R_64 => true,
        _ => found.loaded.contains(&import.slot) || !found.called.contains(&import.slot),
    };
    imports.map(takes).collect()
}

/// What tells calls from outside of the module from its own ones.
pub(super) fn from_outside(module: &Loaded, avma: u64, name: &[u8]) -> Calls {
    let code = module.code.iter().find(|code| code.contains(&avma)).cloned().unwrap_or_default();
    let imports = module.dynamic.iter().flat_map(|dynamic| dynamic.imports());
    // Before it is bound, too.
    let mut own = imports.filter(|import| import.name.to_bytes() == name && import.kind != R_64);
    let mut slot = || own.next().map_or(0, |import| import.slot);
    Calls::FromOutside { code, own_slots: [slot(), slot()] }
}
