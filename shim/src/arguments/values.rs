//! What registers hold of the stack, and what an instruction makes of it.

use iced_x86::{
    Instruction, InstructionInfo, Mnemonic, OpAccess, OpKind, Register, UsedMemory, UsedRegister,
};

/// The arguments' address went where it can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfSight;

/// A register's value, as far as it matters. Distances are from where the
/// caller's stack arguments begin; the return address is at -8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Other,
    /// An address on the stack.
    At(i32),
    /// An address on the stack that was once this far, and is moved in a loop.
    From(i32),
}

/// Nobody has a reason to take the address of a return address, but loops start
/// one step before what they look at.
const NEAR: i32 = -8;

impl Value {
    fn distance(self) -> Option<i32> {
        match self {
            Value::Other => None,
            Value::At(distance) | Value::From(distance) => Some(distance),
        }
    }

    /// Whether it leads to the arguments.
    fn leads_there(self) -> bool {
        self.distance().is_some_and(|distance| distance >= NEAR)
    }

    fn moved(self, by: i64) -> Result<Value, OutOfSight> {
        let add = |to: i32| i32::try_from(i64::from(to).saturating_add(by)).map_err(|_| OutOfSight);
        Ok(match self {
            Value::Other => Value::Other,
            Value::At(distance) => Value::At(add(distance)?),
            Value::From(distance) => Value::From(add(distance)?),
        })
    }
}

/// What rsp holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct StackPointer(Value);

impl StackPointer {
    /// So far below the arguments.
    pub(super) fn at(below: i32) -> StackPointer {
        StackPointer(Value::At(-below))
    }

    /// Where it is either.
    pub(super) fn or(self, other: StackPointer) -> StackPointer {
        if self.0 == other.0 { self } else { StackPointer(Value::Other) }
    }
}

/// Of the sixteen registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Values([Value; 16]);

const RBP: usize = 5;
const RSP: usize = 4;
/// By the calling convention: rbx, rbp, r12 to r15, and rsp.
const KEPT: [usize; 7] = [3, RSP, RBP, 12, 13, 14, 15];

/// A general register's number, whatever part of it is meant.
fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

impl Values {
    /// At a function's entry.
    pub(super) fn at_entry() -> Values {
        Values([Value::Other; 16]).with(RSP, Value::At(-8))
    }

    /// With that in rsp, and the arguments so far above rbp, if it leads to them.
    pub(super) fn with_frame(pointer: StackPointer, from_bp: Option<i32>) -> Values {
        let frame = from_bp.map_or(Value::Other, |below| Value::At(-below));
        Values([Value::Other; 16]).with(RSP, pointer.0).with(RBP, frame)
    }

    pub(super) fn stack_pointer(&self) -> StackPointer {
        StackPointer(self.get(RSP))
    }

    fn with(mut self, register: usize, value: Value) -> Values {
        self.set(register, value);
        self
    }

    fn get(&self, register: usize) -> Value {
        self.0.get(register).copied().unwrap_or(Value::Other)
    }

    fn of(&self, register: Register) -> Value {
        number(register).map_or(Value::Other, |n| self.get(n))
    }

    fn set(&mut self, register: usize, value: Value) {
        if let Some(place) = self.0.get_mut(register) {
            *place = value;
        }
    }

    /// Whether the frame is gone again, as before a call that takes its place.
    pub(super) fn has_no_frame(&self) -> bool {
        self.get(RSP) == Value::At(-8)
    }

    /// Whether rsp or rbp says where the arguments are.
    pub(super) fn lead_to_the_arguments(&self) -> bool {
        [RSP, RBP].iter().any(|&n| matches!(self.get(n), Value::At(_)))
    }

    pub(super) fn may_have_no_frame(&self) -> bool {
        self.has_no_frame() || !self.lead_to_the_arguments()
    }

    /// Whether any register that calls leave alone, other than those of the
    /// frame, leads to the arguments.
    pub(super) fn keep_the_address(&self) -> bool {
        KEPT.iter().any(|&n| n != RSP && self.get(n).leads_there())
    }

    /// Takes in what they are on another way to the same place. Whether that
    /// changes anything.
    pub(super) fn join(&mut self, other: &Values) -> Result<bool, OutOfSight> {
        let mut changed = false;
        for (known, &new) in self.0.iter_mut().zip(&other.0) {
            if *known == new {
                continue;
            }
            if known.leads_there() || new.leads_there() {
                return Err(OutOfSight);
            }
            let joined = match (*known, new) {
                (Value::From(distance), Value::At(other)) => Value::From(distance.max(other)),
                // Once round the loop shows all that there is to see.
                (Value::From(distance), Value::From(_)) => Value::From(distance),
                (Value::At(distance), Value::At(other) | Value::From(other)) => {
                    Value::From(distance.max(other))
                }
                (Value::Other, _) | (_, Value::Other) => Value::Other,
            };
            changed |= joined != *known;
            *known = joined;
        }
        Ok(changed)
    }

    /// Follows an instruction that isn't a jump. Returns how many bytes of the
    /// arguments it reaches.
    pub(super) fn follow(&mut self, i: &Instruction, info: &InstructionInfo) -> Result<u32, OutOfSight> {
        let mut reached = 0;
        for memory in info.used_memory() {
            reached = reached.max(self.reached(i, memory)?);
        }
        self.take(i, info)?;
        Ok(reached)
    }

    /// A call: what it is passed gets out of sight.
    pub(super) fn call(&mut self) -> Result<(), OutOfSight> {
        for n in (0..16).filter(|n| !KEPT.contains(n)) {
            if self.get(n).leads_there() {
                return Err(OutOfSight);
            }
            self.set(n, Value::Other);
        }
        Ok(())
    }

    fn reached(&self, i: &Instruction, memory: &UsedMemory) -> Result<u32, OutOfSight> {
        let (base, index) = (self.of(memory.base()), self.of(memory.index()));
        if i.mnemonic() == Mnemonic::Lea || memory.access() == OpAccess::NoMemAccess {
            return Ok(0);
        }
        if index != Value::Other || (base != Value::Other && memory.index() != Register::None) {
            return Err(OutOfSight);
        }
        let Some(from) = base.distance() else { return Ok(0) };
        let from = i64::from(from).saturating_add(memory.displacement() as i64);
        let size = memory.memory_size().size() as i64;
        let end = from.saturating_add(size);
        let repeated = i.has_rep_prefix() || i.has_repne_prefix();
        if (size == 0 || repeated || matches!(base, Value::From(_))) && end > i64::from(NEAR) {
            return Err(OutOfSight);
        }
        u32::try_from(end.max(0)).map_err(|_| OutOfSight)
    }

    fn take(&mut self, i: &Instruction, info: &InstructionInfo) -> Result<(), OutOfSight> {
        let is_full =
            |operand: u32| i.op_kind(operand) == OpKind::Register && i.op_register(operand).is_gpr64();
        let destination = (i.op_count() > 0 && is_full(0)).then(|| number(i.op0_register())).flatten();
        match (i.mnemonic(), destination) {
            (Mnemonic::Mov, Some(to)) if is_full(1) => {
                self.set(to, self.of(i.op1_register()));
                return Ok(());
            }
            (Mnemonic::Lea, Some(to)) => {
                let (base, index) = (self.of(i.memory_base()), self.of(i.memory_index()));
                if index != Value::Other || (base != Value::Other && i.memory_index() != Register::None) {
                    return Err(OutOfSight);
                }
                self.set(to, base.moved(i.memory_displacement64() as i64)?);
                return Ok(());
            }
            (Mnemonic::Add | Mnemonic::Sub, Some(to)) if self.get(to) != Value::Other => {
                let by = i.try_immediate(1).ok().map(|by| by as i64);
                let value = match by {
                    Some(by) if i.mnemonic() == Mnemonic::Add => self.get(to).moved(by)?,
                    Some(by) => self.get(to).moved(by.checked_neg().ok_or(OutOfSight)?)?,
                    // Room of a size that is found out at run time.
                    None if to == RSP => Value::Other,
                    None => return Err(OutOfSight),
                };
                self.set(to, value);
                return Ok(());
            }
            (Mnemonic::Inc, Some(to)) => {
                self.set(to, self.get(to).moved(1)?);
                return Ok(());
            }
            (Mnemonic::Dec, Some(to)) => {
                self.set(to, self.get(to).moved(-1)?);
                return Ok(());
            }
            // Counted with another address, or with a distance.
            (Mnemonic::Add | Mnemonic::Sub, Some(_))
                if is_full(1) && self.of(i.op1_register()) != Value::Other =>
            {
                return Err(OutOfSight);
            }
            // To a greater alignment: from there on nothing leads to the arguments.
            (Mnemonic::And, Some(RSP)) => {
                self.set(RSP, Value::Other);
                return Ok(());
            }
            (Mnemonic::Leave, _) => {
                self.set(RSP, self.get(RBP).moved(8)?);
                self.set(RBP, Value::Other);
                return Ok(());
            }
            (Mnemonic::Enter, _) => return Err(OutOfSight),
            (Mnemonic::Syscall, _) => self.call()?,
            (Mnemonic::Cmp | Mnemonic::Test, _) => return Ok(()),
            _ => {}
        }
        let explicit = |n: usize| {
            (0..i.op_count())
                .any(|op| i.op_kind(op) == OpKind::Register && number(i.op_register(op)) == Some(n))
        };
        let is_base = |n: usize| info.used_memory().iter().any(|m| number(m.base()) == Some(n));
        for used in info.used_registers() {
            let Some(n) = number(used.register()) else { continue };
            let implicit = n == RSP && i.is_stack_instruction();
            if is_read(used) && self.get(n).leads_there() && !implicit && (explicit(n) || !is_base(n)) {
                return Err(OutOfSight);
            }
        }
        for used in info.used_registers().iter().filter(|used| is_written(used)) {
            match number(used.register()) {
                Some(RSP) if i.is_stack_instruction() && destination != Some(RSP) => {
                    self.set(RSP, self.get(RSP).moved(i64::from(i.stack_pointer_increment()))?);
                }
                Some(n) => self.set(n, Value::Other),
                None => {}
            }
        }
        Ok(())
    }
}

/// Also where it may keep its value.
fn is_read(used: &UsedRegister) -> bool {
    !matches!(used.access(), OpAccess::Write | OpAccess::None | OpAccess::NoMemAccess)
}

fn is_written(used: &UsedRegister) -> bool {
    use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    matches!(used.access(), Write | CondWrite | ReadWrite | ReadCondWrite)
}
