//! What a walk depended on: the stack slots that it read, and whether rbp
//! mattered. A walk is a pure function of these, its start and the modules.

use crate::machine::{BP, Machine};
use crate::memory::StackMemory;
use crate::rule::{Kind, Rule};
use std::cell::Cell;

/// Steps kept; a longer walk isn't remembered.
const STEPS: usize = 260;
/// Reads kept of rows that were evaluated.
const READS: usize = 48;

/// A step of a walk.
#[derive(Clone, Copy)]
struct Step {
    rule: Rule,
    /// The CFA; of an evaluated row: the first of its reads.
    cfa: u64,
    /// The return address.
    ip: u64,
    /// rbp after the step; of an evaluated row: how many reads it made.
    bp: u64,
    /// The slot that rbp came from decides what follows.
    bp_is_live: bool,
}

/// The steps of a walk. Valid when zeroed.
pub(crate) struct Trace {
    steps: [Step; STEPS],
    len: usize,
    /// Address and value.
    reads: [(u64, u64); READS],
    read_len: usize,
    sp: u64,
    broken: bool,
    start_bp_is_live: bool,
}

/// Slots that decide a walk. Offsets are in words from the start's rsp.
#[derive(Clone, Copy)]
pub(crate) enum Slots {
    /// A saved rbp and the return address above it.
    Pair(u16, [u64; 2]),
    /// One slot.
    Single(u16, u64),
}

impl Trace {
    /// Before a walk from `sp`.
    #[inline(always)]
    pub(crate) fn start(&mut self, sp: u64) {
        self.len = 0;
        self.read_len = 0;
        self.sp = sp;
        self.broken = sp & 7 != 0;
    }

    /// The walk can't be described by slots above its start.
    #[inline(always)]
    pub(crate) fn give_up(&mut self) {
        self.broken = true;
    }

    /// Whether every read is here, and none failed.
    pub(crate) fn is_whole(&self) -> bool {
        !self.broken
    }

    /// A step by `rule` led to `m`.
    #[inline(always)]
    pub(crate) fn step(&mut self, rule: Rule, m: &Machine) {
        let [bp, ..] = m.saved;
        // A register that was lost may be there the next time.
        self.broken |= m.known & (1 << BP) == 0;
        self.push(Step { rule, cfa: m.sp, ip: m.ip, bp, bp_is_live: false });
    }

    /// A step was taken by evaluating a row, with the reads since `first`.
    pub(crate) fn evaluated(&mut self, first: usize) {
        let count = self.read_len.wrapping_sub(first) as u64;
        let rule = Rule::EVALUATE;
        self.push(Step { rule, cfa: first as u64, ip: 0, bp: count, bp_is_live: false });
    }

    /// How many reads of evaluated rows there are.
    pub(crate) fn reads(&self) -> usize {
        self.read_len
    }

    #[inline(always)]
    fn push(&mut self, step: Step) {
        match self.steps.get_mut(self.len) {
            Some(place) => {
                *place = step;
                self.len = self.len.wrapping_add(1);
            }
            None => self.broken = true,
        }
    }

    fn read(&mut self, addr: u64, value: Option<u64>) {
        match (self.reads.get_mut(self.read_len), value) {
            (Some(place), Some(value)) => {
                *place = (addr, value);
                self.read_len = self.read_len.wrapping_add(1);
            }
            _ => self.broken = true,
        }
    }

    /// Finds out which saved rbp decided anything: backwards, since it is what
    /// comes later that uses it.
    pub(crate) fn find_live(&mut self) {
        let mut used = false;
        for step in self.steps.iter_mut().take(self.len).rev() {
            let from_bp = match step.rule.kind() {
                Kind::Cfa => step.rule.is_from_bp(),
                // What an evaluated row does with rbp isn't looked into.
                _ => true,
            };
            step.bp_is_live = used && step.rule.bp_slot(step.cfa).is_some();
            let kept = step.rule.keeps_bp();
            used = from_bp || used && kept;
        }
        self.start_bp_is_live = used;
    }

    /// After `find_live`: whether the start's rbp decided anything.
    pub(crate) fn start_bp_is_live(&self) -> bool {
        self.start_bp_is_live
    }

    /// After `find_live`: the slots that decided the walk, innermost first.
    /// An inner `None`: one is too far from the start.
    pub(crate) fn live(&self) -> impl Iterator<Item = Option<Slots>> + '_ {
        self.steps.iter().take(self.len).flat_map(|step| {
            let evaluated = step.rule.kind() == Kind::Evaluate;
            let (first, count) = match evaluated {
                true => (step.cfa as usize, step.bp as usize),
                false => (0, 0),
            };
            let reads = self.reads.iter().skip(first).take(count);
            let reads = reads.map(|(addr, value)| self.single(*addr, *value));
            let own = (!evaluated).then(|| self.own(step)).into_iter().flatten().flatten();
            own.chain(reads)
        })
    }

    /// The slots of a step that wasn't evaluated.
    fn own(&self, step: &Step) -> [Option<Option<Slots>>; 2] {
        let ip_slot = step.cfa.wrapping_sub(8);
        match step.rule.bp_slot(step.cfa).filter(|_| step.bp_is_live) {
            Some(slot) if slot.wrapping_add(8) == ip_slot => {
                let pair = self.offset(slot).map(|offset| Slots::Pair(offset, [step.bp, step.ip]));
                [Some(pair), None]
            }
            Some(slot) => [Some(self.single(slot, step.bp)), Some(self.single(ip_slot, step.ip))],
            None => [Some(self.single(ip_slot, step.ip)), None],
        }
    }

    fn single(&self, addr: u64, value: u64) -> Option<Slots> {
        self.offset(addr).map(|offset| Slots::Single(offset, value))
    }

    fn offset(&self, addr: u64) -> Option<u16> {
        u16::try_from(addr.wrapping_sub(self.sp) >> 3).ok()
    }
}

/// Memory whose reads are traced.
pub(crate) struct Traced<'a> {
    mem: &'a dyn StackMemory,
    trace: Cell<Option<&'a mut Trace>>,
}

impl<'a> Traced<'a> {
    pub(crate) fn new(mem: &'a dyn StackMemory, trace: &'a mut Trace) -> Self {
        Traced { mem, trace: Cell::new(Some(trace)) }
    }
}

impl StackMemory for Traced<'_> {
    fn read(&self, addr: u64) -> Option<u64> {
        let value = self.mem.read(addr);
        // Taken out and put back: nothing reads in between.
        let trace = self.trace.take()?;
        trace.read(addr, value);
        self.trace.set(Some(trace));
        value
    }
}
