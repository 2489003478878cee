//! DWARF expressions in call frame information.

use crate::machine::Machine;
use crate::memory::StackMemory;
use crate::module::Bytes;
use gimli::{
    Encoding, Evaluation, EvaluationResult, EvaluationStorage, Expression, Location, Piece, Reader, Value,
};
use traceshim_ring::stack::StackStatus;

/// Small, and on the stack: compilers' expressions use two or three values.
struct OnStack;

impl<R: Reader> EvaluationStorage<R> for OnStack {
    type Stack = [Value; 16];
    type ExpressionStack = [(R, R); 1];
    type Result = [Piece<R>; 1];
}

/// Far more than any expression of a compiler has; a loop in one ends here.
const MAX_OPERATIONS: u32 = 128;

/// The value of `expression` in the frame `m`. `initial`: what is on the
/// expression's stack at its start (the CFA, for a register's rule).
#[inline(never)]
pub(crate) fn evaluate(
    expression: Expression<Bytes<'_>>,
    encoding: Encoding,
    m: &Machine,
    mem: &dyn StackMemory,
    initial: Option<u64>,
) -> Result<u64, StackStatus> {
    let unsupported = |_| StackStatus::UnsupportedRule;
    let mut evaluation = Evaluation::<_, OnStack>::new_in(expression.0, encoding);
    evaluation.set_max_iterations(MAX_OPERATIONS);
    if let Some(value) = initial {
        evaluation.set_initial_value(value);
    }
    let mut result = evaluation.evaluate().map_err(unsupported)?;
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = m.register(register).ok_or(StackStatus::UnknownRegister)?;
                evaluation.resume_with_register(Value::Generic(value)).map_err(unsupported)?
            }
            EvaluationResult::RequiresMemory { address, size: 8, space: None, .. } => {
                let value = mem.read(address).ok_or(StackStatus::OutOfBounds)?;
                evaluation.resume_with_memory(Value::Generic(value)).map_err(unsupported)?
            }
            _ => return Err(StackStatus::UnsupportedRule),
        };
    }
    match evaluation.as_result().last().map(|piece| &piece.location) {
        Some(Location::Address { address }) => Ok(*address),
        _ => Err(StackStatus::UnsupportedRule),
    }
}
