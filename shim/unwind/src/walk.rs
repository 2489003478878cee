//! The walks: by rules, by frame pointers, and from one to the other.

use crate::learn::Learned;
use crate::machine::{BP, Machine};
use crate::memory::StackMemory;
use crate::module::ModuleSet;
use crate::rule::{Kind, Rule, return_address};
use crate::trace::{Listener, Trace};
use traceshim_ring::stack::{FRAME_EXACT, StackStatus};

/// Where frames go, innermost first.
pub(crate) struct Frames<'a> {
    pub(crate) out: &'a mut [u64],
    pub(crate) len: usize,
}

impl Frames<'_> {
    /// Adds the frame that `m` is in, unless it is one of the tracer's own.
    #[inline(always)]
    pub(crate) fn push(&mut self, set: &ModuleSet, m: &Machine) -> Result<(), StackStatus> {
        if set.is_hidden(m.lookup_address()) {
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

/// Walks from `m`, whose frame is in `frames` already, to the end.
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
    let mut signals = 0u32;
    let mut guessed = false;
    let status = loop {
        let step = one_step::<ALL, M>(learned, set, mem, m, trace, &mut guessed);
        if let Err(status) = step {
            break status;
        }
        if m.exact {
            signals = signals.wrapping_add(1);
            if signals > MAX_SIGNALS {
                break StackStatus::NotUpwards;
            }
        }
        if let Err(status) = frames.push(set, m) {
            break status;
        }
    };
    match status {
        StackStatus::Complete if guessed => StackStatus::FramePointersOnly,
        status => status,
    }
}

/// One step. `Err(Complete)`: there is no caller.
#[inline(always)]
fn one_step<const ALL: bool, M: StackMemory>(
    learned: &mut Learned,
    set: &ModuleSet,
    mem: &M,
    m: &mut Machine,
    trace: &mut Trace,
    guessed: &mut bool,
) -> Result<(), StackStatus> {
    let rule = match learned.rules.get(m.lookup_address()) {
        Some(rule) => rule,
        None => learned.first_visit::<ALL>(set, m, mem)?,
    };
    match rule.kind() {
        Kind::Cfa if ALL && rule.others_dont_fit() => learned.evaluate(set, m, mem, trace),
        Kind::Cfa => rule.step::<ALL, M>(m, mem, trace),
        Kind::End => Err(StackStatus::Complete),
        Kind::Stop(status) => Err(status),
        Kind::Evaluate => {
            learned.evaluate(set, m, mem, trace)?;
            if !ALL {
                // The registers that aren't followed would be stale after the next step.
                m.known &= 1 << BP;
            }
            Ok(())
        }
        Kind::FramePointerOnly => {
            // Only a call is known to be made with the frame set up.
            if m.exact {
                return Err(StackStatus::NoUnwindInfo);
            }
            *guessed = true;
            frame_pointer_step(m, mem, trace).map_err(|_| StackStatus::FramePointersOnly)
        }
    }
}

/// One step along the chain of frame pointers.
#[inline(always)]
pub(crate) fn frame_pointer_step<M: StackMemory>(
    m: &mut Machine,
    mem: &M,
    trace: &mut Trace,
) -> Result<(), StackStatus> {
    trace.use_bp();
    let bp = m.saved(BP).ok_or(StackStatus::UnknownRegister)?;
    if bp < m.sp {
        return Err(StackStatus::NotUpwards);
    }
    let caller_bp = mem.read(bp).ok_or(StackStatus::OutOfBounds)?;
    let slot = bp.wrapping_add(8);
    let word = mem.read(slot);
    let ip = return_address(word)?;
    trace.read_bp(bp, Some(caller_bp));
    trace.read(slot, word);
    *m = Machine { ip, sp: bp.wrapping_add(16), exact: false, ..*m };
    m.saved[BP] = caller_bp;
    m.known = 1 << BP;
    Ok(())
}

/// Follows frame pointers for as long as the rule of each address is just that
/// step, so that `m` is where the walk by rules would be. (Not by ranges of code
/// alone: a call from a function that has no frame would lose its caller.)
pub(crate) fn by_kept_frame_pointers<M: StackMemory>(
    learned: &Learned,
    set: &ModuleSet,
    mem: &M,
    m: &mut Machine,
    trace: &mut Trace,
    frames: &mut Frames<'_>,
) -> Result<(), StackStatus> {
    while learned.rules.get(m.lookup_address()).is_some_and(Rule::is_frame_pointer) {
        if frame_pointer_step(m, mem, trace).is_err() {
            break;
        }
        frames.push(set, m)?;
    }
    Ok(())
}

/// Follows frame pointers whatever the code, as far as they go upwards.
pub(crate) fn by_forced_frame_pointers<M: StackMemory>(
    set: &ModuleSet,
    mem: &M,
    m: &mut Machine,
    trace: &mut Trace,
    frames: &mut Frames<'_>,
) -> StackStatus {
    loop {
        if frame_pointer_step(m, mem, trace).is_err() {
            return StackStatus::FramePointerEnd;
        }
        if let Err(status) = frames.push(set, m) {
            return status;
        }
    }
}
