//! Which code keeps frame pointers, found out from its call frame information.

use crate::cfi::{Row, Storage};
use crate::module::{self, ModuleDesc};
use gimli::{
    CfaRule, CieOrFde, CommonInformationEntry, EhFrame, FrameDescriptionEntry, RegisterRule, UnwindContext,
    UnwindSection, X86_64,
};

/// What a module's finder says about its frame pointers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FramePointers {
    /// Don't look: the module's stacks are walked by the table.
    #[default]
    Ignore,
    /// Find out from the call frame information when the set of modules is
    /// made; some 200 ns for each function, once for each load of the module.
    Detect,
    /// As `Detect`, and where the module has no unwind information, its
    /// functions are known to keep frame pointers (as Go's are on x86-64).
    Known,
}

/// Gaps between functions up to this are padding.
const PADDING: u64 = 15;
/// Beyond this many functions a module isn't looked through to the end; what
/// was found until then holds. It bounds the time at about 20 ms.
const MAX_FUNCTIONS: usize = 100_000;

/// The ranges of stated addresses whose functions keep frame pointers: each
/// sets its CFA two words above rbp, with the caller's rbp saved there, or never
/// moves rsp (a leaf). Sorted. They say where it is worth following frame
/// pointers; whether that is right at an address is for its own rule to say.
#[derive(Debug, Default)]
pub(crate) struct KeptRanges(Box<[(u64, u64)]>);

impl KeptRanges {
    pub(crate) fn of(desc: &ModuleDesc) -> Self {
        if desc.frame_pointers == FramePointers::Ignore {
            return Self::default();
        }
        let mut kept = Vec::new();
        let mut not_kept = Vec::new();
        let _ = scan(desc, |lo, hi, use_| match use_ {
            Use::NotKept => not_kept.push((lo, hi)),
            use_ => kept.push((lo, hi, use_)),
        });
        kept.sort_unstable_by_key(|r| r.0);
        not_kept.sort_unstable();
        KeptRanges(merge(&kept, &not_kept))
    }

    /// Whether a stated address is in one of them.
    #[inline]
    pub(crate) fn contains(&self, svma: u64) -> bool {
        let after = self.0.partition_point(|r| r.0 <= svma);
        let range = after.checked_sub(1).and_then(|i| self.0.get(i));
        range.is_some_and(|r| svma < r.1)
    }
}

/// How a function uses the frame pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Kept,
    Leaf,
    NotKept,
}

/// Joins neighbours. A range of leaves alone proves nothing and is dropped.
fn merge(kept: &[(u64, u64, Use)], not_kept: &[(u64, u64)]) -> Box<[(u64, u64)]> {
    let mut merged: Vec<(u64, u64, bool)> = Vec::new();
    for &(lo, hi, use_) in kept {
        let keeps = use_ == Use::Kept;
        // A function that doesn't keep it may be as short as the padding.
        let between = |end: u64| {
            let next = not_kept.partition_point(|r| r.0 < end);
            not_kept.get(next).is_some_and(|r| r.0 < hi)
        };
        match merged.last_mut() {
            Some(last) if lo <= last.1.saturating_add(PADDING) && !between(last.0) => {
                last.1 = last.1.max(hi);
                last.2 |= keeps;
            }
            _ => merged.push((lo, hi, keeps)),
        }
    }
    merged.into_iter().filter(|r| r.2).map(|r| (r.0, r.1)).collect()
}

fn scan(desc: &ModuleDesc, mut found: impl FnMut(u64, u64, Use)) -> gimli::Result<()> {
    let bases = module::bases(desc);
    let section = module::eh_frame(desc);
    let mut context = Box::new(UnwindContext::<usize, Storage>::new_in());
    let mut entries = section.entries(&bases);
    let mut cie: Option<CommonInformationEntry<_>> = None;
    let mut functions = 0usize;
    while let Some(entry) = entries.next()? {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(|section: &EhFrame<_>, bases, offset| match &cie {
            Some(known) if known.offset() == offset.0 => Ok(known.clone()),
            _ => {
                let parsed = section.cie_from_offset(bases, offset)?;
                cie = Some(parsed.clone());
                Ok(parsed)
            }
        })?;
        functions = functions.wrapping_add(1);
        if functions > MAX_FUNCTIONS {
            break;
        }
        let use_ = use_of(&fde, &section, &bases, &mut context).unwrap_or(Use::NotKept);
        found(fde.initial_address(), fde.end_address(), use_);
    }
    Ok(())
}

fn use_of(
    fde: &FrameDescriptionEntry<module::Bytes<'_>>,
    section: &EhFrame<module::Bytes<'_>>,
    bases: &gimli::BaseAddresses,
    context: &mut UnwindContext<usize, Storage>,
) -> gimli::Result<Use> {
    if fde.is_signal_trampoline() || fde.cie().return_address_register() != X86_64::RA {
        return Ok(Use::NotKept);
    }
    let mut rows = fde.rows(section, bases, context)?;
    let mut use_ = Use::Leaf;
    while let Some(row) = rows.next_row()? {
        match shape(row) {
            Some(Shape::Entry | Shape::Pushed) => {}
            Some(Shape::Kept) => use_ = Use::Kept,
            None => return Ok(Use::NotKept),
        }
    }
    Ok(use_)
}

enum Shape {
    /// Nothing is pushed: the function's entry, or after its `pop %rbp`. The
    /// stack isn't aligned for a call.
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
