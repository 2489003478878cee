//! What a walk depended on: the stack slots that it read, and whether rbp
//! mattered. A walk is a pure function of these, its start and the modules.

use crate::memory::StackMemory;
use std::cell::Cell;

/// Slots kept; a walk that reads more isn't remembered.
pub(crate) const SLOTS: usize = 384;

/// Where the current value of rbp comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It is that of the start.
    Start,
    /// It was read from this slot.
    Slot(usize),
    /// It follows from slots that are live already.
    Derived,
}

/// The slots that a walk read, innermost first. Valid when zeroed.
pub(crate) struct Trace {
    /// Words from the start's rsp.
    offsets: [u16; SLOTS],
    values: [u64; SLOTS],
    /// The slot's value decides what follows: a return address, or an rbp that was used.
    live: [bool; SLOTS],
    len: usize,
    sp: u64,
    /// Zeroed: `Start`.
    origin: u64,
    start_bp_live: bool,
    complete: bool,
}

impl Trace {
    /// Before a walk from `sp`.
    #[inline(always)]
    pub(crate) fn start(&mut self, sp: u64) {
        self.len = 0;
        self.sp = sp;
        self.set_origin(Origin::Start);
        self.start_bp_live = false;
        self.complete = sp & 7 == 0;
    }

    /// The walk can't be described by slots above its start.
    #[inline(always)]
    pub(crate) fn give_up(&mut self) {
        self.complete = false;
    }

    /// Whether every read is here, and none failed.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn start_bp_is_live(&self) -> bool {
        self.start_bp_live
    }

    /// The slots that decide the walk: offset in words from rsp, and value.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u16, u64)> + Clone + '_ {
        let slots = self.offsets.iter().zip(&self.values).zip(&self.live);
        slots.take(self.len).filter(|(_, live)| **live).map(|((o, v), _)| (*o, *v))
    }

    #[inline(always)]
    fn push(&mut self, addr: u64, value: Option<u64>, live: bool) {
        let at = self.len;
        let words = addr.wrapping_sub(self.sp) >> 3;
        match (
            value,
            u16::try_from(words),
            self.offsets.get_mut(at),
            self.values.get_mut(at),
            self.live.get_mut(at),
        ) {
            (Some(value), Ok(words), Some(offset), Some(slot), Some(is_live)) => {
                *offset = words;
                *slot = value;
                *is_live = live;
                self.len = at.wrapping_add(1);
            }
            _ => self.complete = false,
        }
    }

    #[inline(always)]
    fn origin(&self) -> Origin {
        match self.origin {
            0 => Origin::Start,
            u64::MAX => Origin::Derived,
            slot => Origin::Slot(slot.wrapping_sub(1) as usize),
        }
    }

    #[inline(always)]
    fn set_origin(&mut self, origin: Origin) {
        self.origin = match origin {
            Origin::Start => 0,
            Origin::Slot(slot) => (slot as u64).wrapping_add(1),
            Origin::Derived => u64::MAX,
        };
    }
}

/// Who hears of a step's reads.
pub(crate) trait Listener {
    /// A slot was read whose value decides what follows.
    fn read(&mut self, addr: u64, value: Option<u64>) -> Option<u64>;
    /// rbp was read from a slot; its value may never matter.
    fn read_bp(&mut self, addr: u64, value: Option<u64>) -> Option<u64>;
    /// rbp's value decides what follows.
    fn use_bp(&mut self);
    /// rbp has become a function of slots that are live, or is lost.
    fn derive_bp(&mut self);
}

/// Nobody.
impl Listener for () {
    #[inline(always)]
    fn read(&mut self, _addr: u64, value: Option<u64>) -> Option<u64> {
        value
    }
    #[inline(always)]
    fn read_bp(&mut self, _addr: u64, value: Option<u64>) -> Option<u64> {
        value
    }
    #[inline(always)]
    fn use_bp(&mut self) {}
    #[inline(always)]
    fn derive_bp(&mut self) {}
}

impl Listener for Trace {
    #[inline(always)]
    fn read(&mut self, addr: u64, value: Option<u64>) -> Option<u64> {
        self.push(addr, value, true);
        value
    }

    #[inline(always)]
    fn read_bp(&mut self, addr: u64, value: Option<u64>) -> Option<u64> {
        let slot = self.len;
        self.push(addr, value, false);
        self.set_origin(Origin::Slot(slot));
        value
    }

    #[inline(always)]
    fn use_bp(&mut self) {
        match self.origin() {
            Origin::Start => self.start_bp_live = true,
            Origin::Slot(slot) => {
                if let Some(live) = self.live.get_mut(slot) {
                    *live = true;
                }
            }
            Origin::Derived => {}
        }
    }

    #[inline(always)]
    fn derive_bp(&mut self) {
        self.set_origin(Origin::Derived);
    }
}

/// Memory whose every read is traced as deciding.
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
