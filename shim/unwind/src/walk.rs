//! The walks: by rules, and by frame pointers whatever the code.

use crate::hot;
use crate::learn::Learned;
use crate::machine::{BP, Machine};
use crate::memory::StackMemory;
use crate::module::ModuleSet;
use crate::rule::{Kind, Rule, return_address};
use crate::splice::Splice;
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

/// A walk by rules.
pub(crate) struct Walk<'a, 'f> {
    pub(crate) learned: &'a mut Learned,
    pub(crate) set: &'a ModuleSet,
    pub(crate) trace: &'a mut Trace,
    pub(crate) splice: Splice<'a>,
    pub(crate) frames: &'a mut Frames<'f>,
    /// Follow rbx and r12 to r15 too, by evaluating each row. Without it the walk
    /// ends with `UnknownRegister` where one of them is needed.
    pub(crate) all: bool,
    signals: u32,
    /// Frame pointers were followed without unwind information.
    guessed: bool,
}

impl<'a, 'f> Walk<'a, 'f> {
    pub(crate) fn new(
        learned: &'a mut Learned,
        set: &'a ModuleSet,
        trace: &'a mut Trace,
        splice: Splice<'a>,
        frames: &'a mut Frames<'f>,
        all: bool,
    ) -> Self {
        Walk { learned, set, trace, splice, frames, all, signals: 0, guessed: false }
    }

    /// Walks from `m` to the end, each step by the rule of the frame's address.
    pub(crate) fn run<M: StackMemory>(&mut self, mem: &M, m: &mut Machine) -> StackStatus {
        let status = loop {
            if !self.all && self.by_plain_rules(mem, m) {
                break StackStatus::Complete;
            }
            if let Err(status) = self.step(mem, m) {
                break status;
            }
        };
        match status {
            StackStatus::Complete if self.guessed => StackStatus::FramePointersOnly,
            status => status,
        }
    }

    /// Adds the frame of `m` and takes a step. `Err(Complete)`: there is no caller.
    #[inline(always)]
    fn step<M: StackMemory>(&mut self, mem: &M, m: &mut Machine) -> Result<(), StackStatus> {
        let address = m.lookup_address();
        let rule = match self.learned.rules.get(address) {
            Some(rule) => {
                self.frames.push(m, rule.is_hidden())?;
                rule
            }
            None => {
                self.frames.push(m, self.set.is_hidden(address))?;
                // Where it fails, another visit may go further.
                let visit = self.learned.first_visit(self.set, m, mem);
                visit.inspect_err(|_| self.trace.give_up())?
            }
        };
        match rule.kind() {
            Kind::End => Err(StackStatus::Complete),
            Kind::Stop(status) => Err(status),
            Kind::Cfa if !self.all => {
                let step = rule.step(m, mem);
                self.trace.step(rule, m);
                step.inspect_err(|_| self.trace.give_up())
            }
            Kind::FramePointerOnly => self.by_frame_pointer_only(m, mem),
            Kind::Cfa | Kind::Evaluate => self.by_row(m, mem),
        }
    }

    /// Goes on from `m` by the inner loop, as far as that goes. The frame that it
    /// stops at isn't in `frames` yet. Returns whether the rest was taken over.
    #[inline(always)]
    fn by_plain_rules<M: StackMemory>(&mut self, mem: &M, m: &mut Machine) -> bool {
        if m.exact {
            return false;
        }
        let (Some(bp), Some(stack)) = (m.saved(BP), mem.stack_at(m.sp)) else { return false };
        let mut frame = hot::Frame { ip: m.ip, sp: m.sp, bp };
        let Walk { learned, trace, splice, frames, .. } = self;
        let taken = loop {
            let out = frames.out.get_mut(frames.len..).unwrap_or_default();
            let most = splice.after().min(out.len());
            let out = out.get_mut(..most).unwrap_or_default();
            let walked = hot::walk(&learned.rules, &stack, &mut frame, out, trace.room());
            trace.added(walked);
            frames.len = frames.len.wrapping_add(walked);
            if walked < splice.after() {
                break false;
            }
            if splice.try_at(&stack, &frame, trace, frames) {
                break true;
            }
        };
        (m.ip, m.sp) = (frame.ip, frame.sp);
        m.set_saved(BP, Some(frame.bp));
        taken
    }

    /// A step by evaluating the row.
    #[cold]
    #[inline(never)]
    fn by_row(&mut self, m: &mut Machine, mem: &dyn StackMemory) -> Result<(), StackStatus> {
        let step = self.learned.evaluate(self.set, m, mem, self.trace);
        step.inspect_err(|_| self.trace.give_up())?;
        if !self.all {
            // The registers that aren't followed would be stale after the next step.
            m.known &= 1 << BP;
        }
        self.signals = self.signals.wrapping_add(u32::from(m.exact));
        if self.signals > MAX_SIGNALS { Err(StackStatus::NotUpwards) } else { Ok(()) }
    }

    /// A step without unwind information, where frame pointers are known to be kept.
    #[cold]
    #[inline(never)]
    fn by_frame_pointer_only(&mut self, m: &mut Machine, mem: &dyn StackMemory) -> Result<(), StackStatus> {
        // Only a call is known to be made with the frame set up.
        if m.exact {
            self.trace.give_up();
            return Err(StackStatus::NoUnwindInfo);
        }
        self.guessed = true;
        let step = frame_pointer_step(m, &mem);
        self.trace.step(Rule::FRAME_POINTER_ONLY, m);
        step.map_err(|_| {
            self.trace.give_up();
            StackStatus::FramePointersOnly
        })
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
