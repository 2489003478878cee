//! The walks: by rules, and by frame pointers whatever the code.

use crate::hot;
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
/// `all`: follow rbx and r12 to r15 too, by evaluating each row. Without it the
/// walk ends with `UnknownRegister` where one of them is needed.
pub(crate) fn by_rules<M: StackMemory>(
    learned: &mut Learned,
    set: &ModuleSet,
    mem: &M,
    m: &mut Machine,
    all: bool,
    trace: &mut Trace,
    frames: &mut Frames<'_>,
) -> StackStatus {
    let mut rare = Rare { all, signals: 0, guessed: false };
    let status = loop {
        if !all {
            by_plain_rules(learned, mem, m, trace, frames);
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
                match pushed.and_then(|()| learned.first_visit(set, m, mem)) {
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
            Kind::Cfa if !all => {
                let step = rule.step(m, mem);
                trace.step(rule, m);
                step
            }
            kind => rare.step(learned, set, mem, m, trace, kind),
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

/// Goes on from `m` by the inner loop, as far as that goes. The frame that it
/// stops at isn't in `frames` yet.
#[inline(always)]
fn by_plain_rules<M: StackMemory>(
    learned: &Learned,
    mem: &M,
    m: &mut Machine,
    trace: &mut Trace,
    frames: &mut Frames<'_>,
) {
    if m.exact {
        return;
    }
    let (Some(bp), Some(stack)) = (m.saved(BP), mem.stack_at(m.sp)) else { return };
    let mut frame = hot::Frame { ip: m.ip, sp: m.sp, bp };
    let out = frames.out.get_mut(frames.len..).unwrap_or_default();
    let walked = hot::walk(&learned.rules, &stack, &mut frame, out, trace.room());
    trace.added(walked);
    frames.len = frames.len.wrapping_add(walked);
    (m.ip, m.sp) = (frame.ip, frame.sp);
    m.set_saved(BP, Some(frame.bp));
}

/// What a walk keeps of its rare steps.
struct Rare {
    all: bool,
    signals: u32,
    /// Frame pointers were followed without unwind information.
    guessed: bool,
}

impl Rare {
    /// A step that isn't a register and offsets. `Err(Complete)`: there is no caller.
    #[inline(never)]
    fn step(
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
                if !self.all {
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
