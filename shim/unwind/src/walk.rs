//! The walks: by rules, and by frame pointers whatever the code.

use crate::learn::Learned;
use crate::machine::{BP, Machine};
use crate::memory::StackMemory;
use crate::module::ModuleSet;
use crate::rule::{Kind, Rule, return_address};
use crate::trace::Trace;
use traceshim_ring::stack::{FRAME_EXACT, StackStatus};

/// Where frames go, innermost first.
pub(crate) struct Frames<'a> {
    pub(crate) out: &'a mut [u64],
    pub(crate) len: usize,
}

impl Frames<'_> {
    /// Adds the frame that `m` is in, unless it is one of the tracer's own.
    #[inline(always)]
    pub(crate) fn push(&mut self, m: &Machine, hidden: bool) -> Result<(), StackStatus> {
        if hidden {
            return Ok(());
        }
        let slot = self.out.get_mut(self.len).ok_or(StackStatus::DepthLimit)?;
        *slot = if m.exact { m.ip | FRAME_EXACT } else { m.ip };
        self.len = self.len.wrapping_add(1);
        Ok(())
    }
}

/// More signal frames than this in one stack are a loop.
const MAX_SIGNALS: u32 = 32;

/// Walks from `m` to the end, each step by the rule of the frame's address.
///
/// `ALL`: follow rbx and r12 to r15 too. Without it the walk is faster and ends
/// with `UnknownRegister` where one of them is needed.
pub(crate) fn by_rules<const ALL: bool, M: StackMemory>(
    learned: &mut Learned,
    set: &ModuleSet,
    mem: &M,
    m: &mut Machine,
    trace: &mut Trace,
    frames: &mut Frames<'_>,
) -> StackStatus {
    let mut rare = Rare { signals: 0, guessed: false };
    let status = loop {
        if !ALL {
            by_simple_rules(learned, mem, m, trace, frames);
        }
        let address = m.lookup_address();
        let rule = match learned.rules.get(address) {
            Some(rule) => {
                if let Err(status) = frames.push(m, rule.is_hidden()) {
                    break status;
                }
                rule
            }
            None => {
                let pushed = frames.push(m, set.is_hidden(address));
                match pushed.and_then(|()| learned.first_visit::<ALL>(set, m, mem)) {
                    Ok(rule) => rule,
                    Err(status) => {
                        // Another visit may go further.
                        trace.give_up();
                        break status;
                    }
                }
            }
        };
        let step = match rule.kind() {
            Kind::Cfa if !ALL || !rule.others_dont_fit() => {
                let step = rule.step::<ALL, M>(m, mem);
                trace.step(rule, m);
                step
            }
            kind => rare.step::<ALL>(learned, set, mem, m, trace, kind),
        };
        if let Err(status) = step {
            if !matches!(rule.kind(), Kind::End | Kind::Stop(_)) {
                trace.give_up();
            }
            break status;
        }
    };
    match status {
        StackStatus::Complete if rare.guessed => StackStatus::FramePointersOnly,
        status => status,
    }
}

/// Goes on from `m` for as long as rules are learned and simple, and everything
/// is as it should be. The frame that it stops at isn't in `frames` yet.
///
/// What the next step waits for is kept in registers: from one return address
/// to the next it is a load, a rule's address, a load and an addition.
#[inline(always)]
fn by_simple_rules<M: StackMemory>(
    learned: &Learned,
    mem: &M,
    m: &mut Machine,
    trace: &mut Trace,
    frames: &mut Frames<'_>,
) {
    let Some(mut bp) = m.saved(BP) else { return };
    let (mut ip, mut sp, mut exact) = (m.ip, m.sp, m.exact);
    let mut steps = trace.steps();
    let mut len = frames.len;
    while let Some(rule) = learned.rules.get(if exact { ip } else { ip.wrapping_sub(1) }) {
        let Some(simple) = rule.simple() else { break };
        let cfa = simple.cfa(sp, bp);
        let bp_slot = simple.bp_slot(cfa);
        let (Some(caller), Some(saved)) = (
            mem.read(cfa.wrapping_sub(8)),
            // A load from there in any case is cheaper than a branch.
            mem.read(bp_slot.unwrap_or(cfa.wrapping_sub(8))),
        ) else {
            break;
        };
        if cfa <= sp || return_address(Some(caller)).is_err() {
            break;
        }
        if !rule.is_hidden() {
            let Some(slot) = frames.out.get_mut(len) else { break };
            *slot = if exact { ip | FRAME_EXACT } else { ip };
            len = len.wrapping_add(1);
        }
        bp = if bp_slot.is_some() { saved } else { bp };
        (ip, sp, exact) = (caller, cfa, false);
        steps.push(rule, cfa, caller, bp);
    }
    steps.finish();
    frames.len = len;
    (m.ip, m.sp, m.exact) = (ip, sp, exact);
    m.set_saved(BP, Some(bp));
}

/// What a walk keeps of its rare steps.
struct Rare {
    signals: u32,
    /// Frame pointers were followed without unwind information.
    guessed: bool,
}

impl Rare {
    /// A step that isn't a register and offsets. `Err(Complete)`: there is no caller.
    #[inline(never)]
    fn step<const ALL: bool>(
        &mut self,
        learned: &mut Learned,
        set: &ModuleSet,
        mem: &dyn StackMemory,
        m: &mut Machine,
        trace: &mut Trace,
        kind: Kind,
    ) -> Result<(), StackStatus> {
        match kind {
            Kind::End => Err(StackStatus::Complete),
            Kind::Stop(status) => Err(status),
            Kind::Cfa | Kind::Evaluate => {
                learned.evaluate(set, m, mem, trace)?;
                if !ALL {
                    // The registers that aren't followed would be stale after the next step.
                    m.known &= 1 << BP;
                }
                self.signals = self.signals.wrapping_add(u32::from(m.exact));
                if self.signals > MAX_SIGNALS {
                    return Err(StackStatus::NotUpwards);
                }
                Ok(())
            }
            Kind::FramePointerOnly => {
                // Only a call is known to be made with the frame set up.
                if m.exact {
                    return Err(StackStatus::NoUnwindInfo);
                }
                self.guessed = true;
                let step = frame_pointer_step(m, &mem);
                trace.step(Rule::FRAME_POINTER_ONLY, m);
                step.map_err(|_| StackStatus::FramePointersOnly)
            }
        }
    }
}

/// One step along the chain of frame pointers.
#[inline(always)]
fn frame_pointer_step<M: StackMemory>(m: &mut Machine, mem: &M) -> Result<(), StackStatus> {
    let bp = m.saved(BP).ok_or(StackStatus::UnknownRegister)?;
    if bp < m.sp {
        return Err(StackStatus::NotUpwards);
    }
    let caller_bp = mem.read(bp).ok_or(StackStatus::OutOfBounds)?;
    let ip = return_address(mem.read(bp.wrapping_add(8)))?;
    *m = Machine { ip, sp: bp.wrapping_add(16), exact: false, known: 1 << BP, ..*m };
    m.saved[BP] = caller_bp;
    Ok(())
}

/// Follows frame pointers whatever the code, as far as they go upwards.
pub(crate) fn by_forced_frame_pointers<M: StackMemory>(
    set: &ModuleSet,
    mem: &M,
    m: &mut Machine,
    frames: &mut Frames<'_>,
) -> StackStatus {
    loop {
        if let Err(status) = frames.push(m, set.is_hidden(m.lookup_address())) {
            return status;
        }
        if frame_pointer_step(m, mem).is_err() {
            return StackStatus::FramePointerEnd;
        }
    }
}
