//! Which functions keep frame pointers, found out from their call frame information.

use crate::cfi::{Context, Row};
use crate::module::Module;
use gimli::{CfaRule, RegisterRule, X86_64};

/// What a module's finder says about its frame pointers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FramePointers {
    /// Don't look: the module's stacks are walked by the table.
    #[default]
    Ignore,
    /// Find out, function by function, from the call frame information; some
    /// 300 ns at the first visit of an address in one that does.
    Detect,
    /// As `Detect`, and where the module has no unwind information, its
    /// functions are known to keep frame pointers (as Go's are on x86-64).
    Known,
}

/// Whether the function around `avma` keeps rbp as its frame pointer
/// throughout: wherever its frame is set up, the CFA is two words above rbp and
/// the caller's rbp is saved there.
pub(crate) fn keeps(context: &mut Context, module: &Module, avma: u64) -> bool {
    let mut kept = false;
    let all = crate::cfi::each_row(context, module, avma, |row| match shape(row) {
        Some(Shape::Kept) => {
            kept = true;
            true
        }
        Some(Shape::Entry | Shape::Pushed) => true,
        None => false,
    });
    all && kept
}

enum Shape {
    /// Nothing is pushed: the function's entry, or after its `pop %rbp`.
    Entry,
    /// rbp is pushed and not yet set.
    Pushed,
    /// The frame is set up.
    Kept,
}

fn shape(row: &Row) -> Option<Shape> {
    if row.register(X86_64::RA) != Some(RegisterRule::Offset(-8)) || row.register(X86_64::RSP).is_some() {
        return None;
    }
    let saved = row.register(X86_64::RBP) == Some(RegisterRule::Offset(-16));
    match *row.cfa() {
        CfaRule::RegisterAndOffset { register: X86_64::RSP, offset: 8 } => Some(Shape::Entry),
        CfaRule::RegisterAndOffset { register: X86_64::RSP, offset: 16 } if saved => Some(Shape::Pushed),
        CfaRule::RegisterAndOffset { register: X86_64::RBP, offset: 16 } if saved => Some(Shape::Kept),
        _ => None,
    }
}
