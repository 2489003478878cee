//! Where a function's address is its identity: C code may compare it with one
//! that the host passed, so that a trampoline must not stand in its place.

use super::island::Calls;
use super::references::{LIMIT, References};
use super::text;
use crate::elf::{Import, R_64, R_GLOB_DAT, R_JUMP_SLOT};
use crate::modules::{Loaded, Registry};

/// What C code does with a function's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// It calls what is there.
    Calls,
    /// It takes the address.
    Takes,
    /// It compares it with another one.
    Compares,
}

/// The functions whose addresses C code takes, and those of them, by address,
/// that it is seen to compare; and the slots from which it takes them.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) taken: Vec<(u64, &'static [u8])>,
    pub(crate) compared: Vec<u64>,
    pub(crate) slots: Vec<u64>,
}

/// Of the functions that `slots` hold, each with the number of the slot's
/// module: see [`uses`].
pub(crate) fn addresses(registry: &Registry, slots: &[(usize, Import, u64)]) -> Addresses {
    let mut found = Addresses::default();
    for slots in slots.chunk_by(|a, b| a.0 == b.0) {
        let Some(module) = slots.first().and_then(|&(n, ..)| registry.modules.get(n)) else { continue };
        let uses = uses(module, slots.iter().map(|(_, import, _)| import));
        for ((_, import, function), usage) in slots.iter().zip(uses) {
            if usage >= Use::Takes {
                found.taken.push((*function, import.name.to_bytes()));
                found.slots.push(import.slot);
            }
            if usage == Use::Compares {
                found.compared.push(*function);
            }
        }
    }
    found.taken.sort_unstable();
    found.taken.dedup();
    found
}

/// What C code does with the addresses that slots of this module hold. It takes
/// them with a table of function pointers, and where it does anything else than
/// call through the slot.
fn uses<'a>(module: &Loaded, imports: impl Iterator<Item = &'a Import> + Clone) -> Vec<Use> {
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
    let usage = |import: &Import| match import.kind {
        R_JUMP_SLOT => Use::Calls,
        R_64 => Use::Takes,
        _ if found.compared.contains(&import.slot) => Use::Compares,
        _ if found.loaded.contains(&import.slot) || !found.called.contains(&import.slot) => Use::Takes,
        _ => Use::Calls,
    };
    imports.map(usage).collect()
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
