//! The code that is loaded.
#![allow(unsafe_code)]

use super::Reach;
use super::flow::{self, Program};
use crate::callbacks;
use crate::modules::{self, Registry};
use crate::patch;
use crate::scope;
use crate::slots;
use std::ops::Range;
use traceshim_unwind::{Frame, ModuleSet};

struct Loaded<'a> {
    registry: &'a Registry,
    set: &'a ModuleSet,
}

/// What the function at `address` takes of its caller's stack. The registry is
/// locked, so that the code stays.
pub(crate) fn reach_of(registry: &Registry, address: u64) -> Reach {
    modules::with_set(0, |set| flow::reach(&Loaded { registry, set }, address)).unwrap_or(Reach::Unknown)
}

impl Program for Loaded<'_> {
    fn code(&self, address: u64) -> Option<&[u8]> {
        patch::code_from(self.registry.find(address)?, address)
    }

    fn extent(&self, address: u64) -> Option<Range<u64>> {
        self.set.extent(address)
    }

    fn frame(&self, address: u64) -> Option<Frame> {
        self.set.frame(address)
    }

    fn behind(&self, address: u64, slot: u64) -> Option<u64> {
        let module = self.registry.find(address)?;
        let import = module.dynamic.as_ref()?.imports().find(|import| import.slot == slot)?;
        // SAFETY: a slot of a module that stays loaded.
        let holds = callbacks::behind(unsafe { slots::read(slot) });
        // One that is not bound yet leads back into its own module.
        if module.contains(holds) { scope::bound(self.registry, module, &import) } else { Some(holds) }
    }
}
