//! The rules that a thread has learned, by address.

use crate::module::ModuleSet;
use crate::rule::Rule;

/// A power of two; 16 bytes each.
pub(crate) const RULES: usize = 1024;

/// Valid when zeroed: no code is at address 0.
pub(crate) struct Rules {
    entries: [Entry; RULES],
}

#[derive(Clone, Copy)]
struct Entry {
    /// The address that was looked up; 0: empty.
    address: u64,
    rule: u64,
}

#[inline(always)]
fn index(address: u64) -> usize {
    // Fibonacci hashing: the high bits of the product depend on all of the address.
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize & (RULES - 1)
}

impl Rules {
    #[inline(always)]
    pub(crate) fn get(&self, address: u64) -> Option<Rule> {
        let entry = self.entries.get(index(address))?;
        (entry.address == address && address != 0).then(|| Rule::from_bits(entry.rule))
    }

    pub(crate) fn insert(&mut self, address: u64, rule: Rule) {
        if let Some(entry) = self.entries.get_mut(index(address)) {
            *entry = Entry { address, rule: rule.bits() };
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.fill(Entry { address: 0, rule: 0 });
    }

    /// Drops what a change of modules has made untrue: everything but the rules
    /// of modules that are in `set` and were there at `generation`.
    pub(crate) fn retain(&mut self, set: &ModuleSet, generation: u64) {
        for entry in &mut self.entries {
            let stays = entry.address != 0 && set.find(entry.address).is_some_and(|m| m.since <= generation);
            if !stays {
                entry.address = 0;
            }
        }
    }
}
