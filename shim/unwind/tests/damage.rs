#![allow(unsafe_code)]
//! Damaged unwind information and stacks full of anything: a walk ends, never
//! panics, and reads only what it may (which `StackArray` sees to).

#[path = "support/cfi.rs"]
mod cfi;

use cfi::*;
use proptest::prelude::*;
use std::sync::Arc;
use traceshim_unwind::{
    Capturer, FramePointers, Kind, ModuleDesc, ModuleSet, Policy, Regs, Section, StackArray, StackBounds,
    StackStatus,
};

const BIAS: u64 = 0x5500_0000_0000;
const STACK: u64 = 0x7ffc_0000_0000;

/// Functions of every kind that this crate has a rule for, 64 bytes each.
fn module() -> ModuleDesc {
    let shapes: [Vec<Vec<u8>>; 8] = [
        vec![],
        vec![cfa(RSP, 24), saved(RBP, 2)],
        vec![keeps_frame_pointer()],
        vec![undefined(RA)],
        vec![cfa(RBX, 16), saved(RBX, 2)],
        vec![cfa(RSP, 32), saved(RBX, 2), saved(RBP, 3)],
        vec![cfa_expression(&[breg(RBP, 0x78), vec![DEREF]].concat()), at_expression(RBP, &breg(RBP, 0))],
        vec![cfa(RSP, 16), undefined(RBP)],
    ];
    let mut builder = Builder::default();
    for (i, shape) in shapes.into_iter().enumerate() {
        builder = builder.function(CODE_SVMA + 64 * i as u64, 64, &shape);
    }
    let trampoline =
        [at_expression(RA, &breg(RSP, 8)), cfa_expression(&[breg(RSP, 0), vec![DEREF]].concat())];
    builder.signal(CODE_SVMA + 512, 64, &trampoline).module(BIAS, 1)
}

/// A word as stacks have them: an address in the code, one in the stack (here
/// from `STACK`, moved to where the array is), or anything.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..600).prop_map(|o| BIAS + CODE_SVMA + o),
        4 => (0u64..64).prop_map(|i| STACK + 8 * i),
        1 => any::<u64>(),
        1 => Just(0),
    ]
}

fn damage(section: &Section, at: &[(usize, u8)]) -> Section {
    let mut bytes = section.to_vec();
    for &(i, byte) in at {
        let len = bytes.len();
        bytes[i % len] = byte;
    }
    Section::Owned(Arc::from(bytes))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn a_walk_ends_and_learning_changes_nothing(
        words in prop::collection::vec(word(), 0..64),
        start in prop::collection::vec(word(), 8),
        exact: bool,
        hdr in prop::collection::vec((any::<usize>(), any::<u8>()), 0..3),
        frame in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        known: bool,
    ) {
        let whole = module();
        let desc = ModuleDesc {
            eh_frame_hdr: damage(&whole.eh_frame_hdr, &hdr),
            eh_frame: damage(&whole.eh_frame, &frame),
            frame_pointers: if known { FramePointers::Known } else { FramePointers::Detect },
            ..whole
        };
        let set = ModuleSet::new(vec![desc], 1);
        let mut words = words;
        let base = words.as_mut_ptr().expose_provenance() as u64;
        let moved = |word: u64| if word >> 12 == STACK >> 12 { word - STACK + base } else { word };
        words.iter_mut().for_each(|word| *word = moved(*word));
        let start: Vec<u64> = start.into_iter().map(moved).collect();
        let regs = Regs {
            ip: start[0], sp: start[1], bp: start[2], bx: start[3],
            r12: start[4], r13: start[5], r14: start[6], r15: start[7],
        };
        // SAFETY: the words outlive the bounds.
        let bounds = unsafe { StackBounds::new(base, base + 8 * words.len() as u64) };
        let array = StackArray { base, words: &words };
        let mut capturer = Capturer::boxed();
        let mut known = Capturer::boxed();
        let mut take = |policy, in_place| {
            let mut out = [0; 100];
            let o = match in_place {
                true => capturer.capture(&set, &bounds, &regs, exact, policy, &mut out),
                false => known.capture(&set, &array, &regs, exact, policy, &mut out),
            };
            (out, o.len, o.status)
        };
        // Nothing is learned, then everything: the inner loop against the plain one.
        let first = take(Policy::Table, false);
        prop_assert_eq!(first, take(Policy::Table, false));
        prop_assert_eq!(first, take(Policy::Table, true));
        prop_assert_eq!(first, take(Policy::Table, true));
        prop_assert_eq!(first, take(Policy::Auto { c_on_stack: false }, true));
        prop_assert_ne!(take(Policy::FramePointer, true).2, StackStatus::Complete);
        // The memo has the same answer or none.
        take(Policy::Table, true);
        capturer.remember(3, 0);
        let found = capturer.lookup(1, &bounds, &regs, Kind::new(exact, Policy::Table, 100, 0));
        prop_assert!(found.is_none_or(|id| id == 3));
    }
}
