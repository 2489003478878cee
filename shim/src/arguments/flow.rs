//! All ways through a function, and through what it passes its place on to.

use super::Reach;
use super::values::{OutOfSight, StackPointer, Values};
use crate::decoder::decode;
use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind};
use std::collections::BTreeMap;
use std::ops::Range;
use traceshim_unwind::Frame;

/// Instructions that are followed at most; a function of more isn't known.
const MOST: usize = 8_000;

/// What there is to be known of a program's code.
pub(super) trait Program {
    /// The bytes from `address` on.
    fn code(&self, address: u64) -> Option<&[u8]>;
    /// Where the code of the function around `address` is.
    fn extent(&self, address: u64) -> Option<Range<u64>>;
    /// Where the frame of the function around `address` ends, at this address.
    fn frame(&self, address: u64) -> Option<Frame>;
    /// Where the instruction at `address` gets to by a jump through `slot`.
    fn behind(&self, address: u64, slot: u64) -> Option<u64>;
}

/// What compilers put between instructions so that these begin at round addresses.
fn is_filler(i: &Instruction) -> bool {
    i.code() == Code::Int3 || i.mnemonic() == Mnemonic::Nop
}

struct Flow<'a, P> {
    program: &'a P,
    factory: InstructionInfoFactory,
    /// Each instruction that was met: its length, and the values before it.
    met: BTreeMap<u64, (u64, Values)>,
    todo: Vec<(u64, Values)>,
    /// The functions that were entered.
    extents: Vec<Range<u64>>,
    left: usize,
    reached: u32,
    /// There are ways into the function beside its entry: from a table of
    /// addresses, or for an exception that a call throws. With what rsp holds.
    side_entries: Option<StackPointer>,
    /// There was such a place with the arguments' address in a register.
    keeps_the_address: bool,
}

/// What the function at `entry` takes.
pub(super) fn reach(program: &impl Program, entry: u64) -> Reach {
    let mut flow = Flow {
        program,
        factory: InstructionInfoFactory::new(),
        met: BTreeMap::new(),
        todo: vec![(entry, Values::at_entry())],
        extents: Vec::new(),
        left: MOST,
        reached: 0,
        side_entries: None,
        keeps_the_address: false,
    };
    match flow.run() {
        Ok(()) => Reach::of(flow.reached),
        Err(OutOfSight) => Reach::Unknown,
    }
}

impl<P: Program> Flow<'_, P> {
    fn run(&mut self) -> Result<(), OutOfSight> {
        loop {
            while let Some((at, values)) = self.todo.pop() {
                self.enter(at);
                self.follow(at, values)?;
            }
            match self.side_entry()? {
                Some(entry) => self.todo.push(entry),
                None => return Ok(()),
            }
        }
    }

    fn enter(&mut self, at: u64) {
        if !self.extents.iter().any(|extent| extent.contains(&at)) {
            self.extents.extend(self.program.extent(at));
        }
    }

    fn is_in_extent(&self, at: u64) -> bool {
        self.extents.iter().any(|extent| extent.contains(&at))
    }

    /// Follows the instructions from `at` to the next jump, or to where nothing
    /// is new.
    fn follow(&mut self, at: u64, mut values: Values) -> Result<(), OutOfSight> {
        let code = self.program.code(at).ok_or(OutOfSight)?;
        let bounded = self.is_in_extent(at);
        for i in decode(at, code) {
            // Behind a call that doesn't return.
            if bounded && !self.is_in_extent(i.ip()) {
                return Ok(());
            }
            self.left = self.left.checked_sub(1).ok_or(OutOfSight)?;
            match self.met.get_mut(&i.ip()) {
                Some((_, known)) => {
                    if !known.join(&values)? {
                        return Ok(());
                    }
                    values = known.clone();
                }
                None => {
                    self.met.insert(i.ip(), (i.len() as u64, values.clone()));
                }
            }
            if !self.instruction(&i, &mut values)? {
                return Ok(());
            }
        }
        Err(OutOfSight)
    }

    /// Whether the next one is reached from here.
    fn instruction(&mut self, i: &Instruction, values: &mut Values) -> Result<bool, OutOfSight> {
        if i.is_invalid() {
            return Err(OutOfSight);
        }
        let before = values.clone();
        self.reached = self.reached.max(values.follow(i, self.factory.info(i))?);
        match i.flow_control() {
            FlowControl::Next => return Ok(true),
            FlowControl::Call | FlowControl::IndirectCall => {
                // Where it returns to, the stack is as it was.
                *values = before;
                values.call()?;
                self.note_side_entries(values);
                return Ok(true);
            }
            FlowControl::ConditionalBranch => {
                self.jump(i.near_branch_target(), values)?;
                return Ok(true);
            }
            FlowControl::UnconditionalBranch => self.jump(i.near_branch_target(), values)?,
            FlowControl::IndirectBranch if i.op0_kind() == OpKind::Memory && i.is_ip_rel_memory_operand() => {
                let to = self.program.behind(i.ip(), i.ip_rel_memory_address());
                let to = to.filter(|_| values.has_no_frame()).ok_or(OutOfSight)?;
                self.todo.push((to, values.clone()));
            }
            // To a function that isn't known, or by a table, in a function
            // without a frame.
            FlowControl::IndirectBranch if values.may_have_no_frame() || !self.is_in_extent(i.ip()) => {
                return Err(OutOfSight);
            }
            FlowControl::IndirectBranch => self.note_side_entries(values),
            FlowControl::Return | FlowControl::Exception => {}
            // A breakpoint: what it replaced isn't known.
            FlowControl::Interrupt | FlowControl::XbeginXabortXend => return Err(OutOfSight),
        }
        Ok(false)
    }

    fn jump(&mut self, to: u64, values: &Values) -> Result<(), OutOfSight> {
        // Another function's code counts from rsp.
        if !values.lead_to_the_arguments() && !self.is_in_extent(to) {
            return Err(OutOfSight);
        }
        self.todo.push((to, values.clone()));
        Ok(())
    }

    fn note_side_entries(&mut self, values: &Values) {
        let pointer = values.stack_pointer();
        self.side_entries = Some(self.side_entries.map_or(pointer, |known| known.or(pointer)));
        self.keeps_the_address |= values.keep_the_address();
    }

    /// The first place that no way led to so far.
    fn side_entry(&self) -> Result<Option<(u64, Values)>, OutOfSight> {
        let Some(pointer) = self.side_entries else { return Ok(None) };
        let Some(at) = self.extents.iter().find_map(|extent| self.gap(extent)) else { return Ok(None) };
        let values = match self.program.frame(at).filter(|_| !self.keeps_the_address) {
            Some(Frame::FromSp(above)) => Values::with_frame(StackPointer::at(above), None),
            Some(Frame::FromBp(above)) => Values::with_frame(pointer, Some(above)),
            Some(Frame::Realigned) | None => return Err(OutOfSight),
        };
        Ok(Some((at, values)))
    }

    /// The first instruction of an extent that wasn't met and isn't padding.
    fn gap(&self, extent: &Range<u64>) -> Option<u64> {
        let mut at = extent.start;
        let met = self.met.range(extent.clone()).map(|(&start, &(len, _))| (start, start + len));
        for (start, end) in met.chain([(extent.end, extent.end)]) {
            let code = self.program.code(at).unwrap_or_default();
            let fillers = decode(at, code).take_while(is_filler);
            at = fillers.map(|i| i.next_ip()).take_while(|&next| next <= start).last().unwrap_or(at);
            if at < start {
                return Some(at);
            }
            at = at.max(end);
        }
        None
    }
}
