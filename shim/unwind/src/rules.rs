//! The rules that a thread has learned, by address.

use crate::module::ModuleSet;
use crate::rule::Rule;

/// Powers of two; a rule takes 16 bytes.
const SETS: usize = 512;

/// Two ways, the newer one first. Valid when zeroed: no code is at address 0.
pub(crate) struct Rules {
    entries: [[Entry; 2]; SETS],
}

#[derive(Clone, Copy)]
struct Entry {
    /// The address that was looked up; 0: empty.
    address: u64,
    rule: u64,
}

/// Cheap, since each step of a walk waits for it. Return addresses differ in
/// their low bits; one more than the address is the return address itself.
#[inline(always)]
fn set_of(address: u64) -> usize {
    address.wrapping_add(1) as usize & (SETS - 1)
}

impl Rules {
    #[inline(always)]
    pub(crate) fn get(&self, address: u64) -> Option<Rule> {
        // No rule that was learned is zero: it is plain, hidden, or of another kind than `Cfa`.
        Some(self.known(address)).filter(|rule| rule.bits() != 0)
    }

    /// The same; the zero rule, which isn't plain, where nothing is known.
    #[inline(always)]
    pub(crate) fn known(&self, address: u64) -> Rule {
        // Branches: that the first is right can be guessed, and then nothing waits for it.
        let rule = match self.entries.get(set_of(address)) {
            Some([first, _]) if first.address == address => first.rule,
            Some([_, second]) if second.address == address => second.rule,
            _ => 0,
        };
        Rule::from_bits(rule)
    }

    pub(crate) fn insert(&mut self, address: u64, rule: Rule) {
        if let Some([first, second]) = self.entries.get_mut(set_of(address)) {
            *second = *first;
            *first = Entry { address, rule: rule.bits() };
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.as_flattened_mut().fill(Entry { address: 0, rule: 0 });
    }

    /// Drops what a change of modules has made untrue: everything but the rules
    /// of modules that are in `set` and were there at `generation`.
    pub(crate) fn retain(&mut self, set: &ModuleSet, generation: u64) {
        for entry in self.entries.as_flattened_mut() {
            let stays = entry.address != 0 && set.find(entry.address).is_some_and(|m| m.since <= generation);
            if !stays {
                *entry = Entry { address: 0, rule: 0 };
            }
        }
    }
}
