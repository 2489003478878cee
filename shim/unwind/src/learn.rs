//! The first visit of an address: its call frame information is read, framehop
//! takes the step, and where both agree the rule is kept.
//!
//! Nothing here is generic over the memory: it is rare, and so it is compiled
//! once, with this crate's own optimisation.

use crate::cfi;
use crate::frame_pointers::{self, FramePointers};
use crate::machine::{BP, Machine};
use crate::memory::StackMemory;
use crate::module::ModuleSet;
use crate::rule::{Kind, Rule};
use crate::rules::Rules;
use crate::stepper::Verdict;
use crate::trace::{Trace, Traced};
use traceshim_ring::stack::StackStatus;

/// What a thread has learned, and gimli's working memory. Valid when zeroed.
pub(crate) struct Learned {
    pub(crate) rules: Rules,
    context: cfi::Context,
    /// The generation of the modules that `rules` are about.
    generation: u64,
    /// First visits that this capture may still make.
    pub(crate) visits_left: u32,
}

impl Learned {
    /// Before a capture: forgets what isn't true of `set`.
    #[inline(always)]
    pub(crate) fn follow(&mut self, set: &ModuleSet) {
        if self.generation != set.generation() {
            self.change(set);
        }
    }

    #[cold]
    #[inline(never)]
    fn change(&mut self, set: &ModuleSet) {
        if self.generation < set.generation() {
            self.rules.retain(set, self.generation);
        } else {
            self.rules.clear();
        }
        self.generation = set.generation();
    }

    #[inline(never)]
    fn classify(&mut self, set: &ModuleSet, address: u64) -> Rule {
        let Some(module) = set.find(address) else {
            return Rule::stop(StackStatus::NoModule);
        };
        let rule = match cfi::find(&mut self.context, module, address) {
            Ok(found) if found.is_end() => Rule::END,
            Ok(found) if found.signal => Rule::EVALUATE,
            Ok(found) => Rule::of_row(found.row),
            Err(StackStatus::NoUnwindInfo) if module.desc().frame_pointers == FramePointers::Known => {
                Rule::FRAME_POINTER_ONLY
            }
            Err(status) => Rule::stop(status),
        };
        let look = module.desc().frame_pointers != FramePointers::Ignore && rule.is_frame_pointer();
        let kept = look && frame_pointers::keeps(&mut self.context, module, address);
        let rule = if kept { rule.kept() } else { rule };
        rule.hidden(module.desc().hidden)
    }

    /// Finds the rule of an address that was never met (or is forgotten), and
    /// learns it where framehop takes the same step by it.
    #[cold]
    #[inline(never)]
    pub(crate) fn first_visit(
        &mut self,
        set: &ModuleSet,
        m: &Machine,
        mem: &dyn StackMemory,
    ) -> Result<Rule, StackStatus> {
        self.visits_left = self.visits_left.checked_sub(1).ok_or(StackStatus::VisitLimit)?;
        let address = m.lookup_address();
        let rule = self.classify(set, address);
        if rule.kind() == Kind::Cfa {
            let mut after = *m;
            rule.step(&mut after, &mem)?;
            // framehop can't lose a register.
            let verdict = match after.saved(BP) {
                Some(_) => set.stepper.check(mem, m, &after),
                None => Verdict::Busy,
            };
            match verdict {
                Verdict::Agrees => {}
                Verdict::Busy => return Ok(rule),
                Verdict::Differs => return Err(StackStatus::UnsupportedRule),
            }
        }
        self.rules.insert(address, rule);
        Ok(rule)
    }

    /// Takes the step by evaluating the row.
    #[cold]
    #[inline(never)]
    pub(crate) fn evaluate(
        &mut self,
        set: &ModuleSet,
        m: &mut Machine,
        mem: &dyn StackMemory,
        trace: &mut Trace,
    ) -> Result<(), StackStatus> {
        let address = m.lookup_address();
        let module = set.find(address).ok_or(StackStatus::NoModule)?;
        let found = cfi::find(&mut self.context, module, address)?;
        let first = trace.reads();
        found.step(m, &Traced::new(mem, trace))?;
        trace.evaluated(first);
        if m.exact {
            m.ip = set.origin(m.ip);
        }
        Ok(())
    }
}
