//! Walks over stacks in arrays, with call frame information made by hand: each
//! way that a walk can end, and what must not change.

#[path = "support/cfi.rs"]
mod cfi;

use cfi::*;
use traceshim_unwind::{
    Capturer, FRAME_EXACT, FramePointers, ModuleDesc, ModuleSet, Outcome, Policy, Regs, StackArray,
    StackStatus, Unwinder,
};

const BIAS: u64 = 0x5500_0000_0000;
const STACK: u64 = 0x7ffc_0000_0000;
/// A leaf: nothing is pushed.
const LEAF: u64 = 0x1000;
/// Four words and the return address: its CFA is rsp + 40.
const PLAIN: u64 = 0x1100;
/// Keeps a frame pointer.
const KEEPS: u64 = 0x1200;
/// No caller.
const START: u64 = 0x1300;
/// Not described.
const GAP: u64 = 0x1400;
/// Its CFA is counted from rbx.
const ON_RBX: u64 = 0x1500;
/// Saves rbx two words below its CFA, and uses rsp + 24.
const SAVES_RBX: u64 = 0x1600;
/// Its CFA is what rbp - 8 points to, rbp is where rbp points.
const DRAP: u64 = 0x1700;
/// Its CFA is counted from r11, which nobody can know.
const ODD: u64 = 0x1800;
/// A signal's trampoline: rip, rsp and rbp are 5, 4 and 3 words up.
const SIGNAL: u64 = 0x1900;

fn builder() -> Builder {
    Builder::default()
        .function(LEAF, 0x40, &[])
        .function(PLAIN, 0x40, &[cfa(RSP, 40)])
        .function(KEEPS, 0x40, &[keeps_frame_pointer()])
        .function(START, 0x40, &[undefined(RA)])
        .function(ON_RBX, 0x40, &[cfa(RBX, 16), saved(RBX, 2)])
        .function(SAVES_RBX, 0x40, &[cfa(RSP, 24), saved(RBX, 2)])
        .function(
            DRAP,
            0x40,
            &[cfa_expression(&[breg(RBP, 0x78), vec![DEREF]].concat()), at_expression(RBP, &breg(RBP, 0))],
        )
        .function(ODD, 0x40, &[cfa(11, 16)])
        .signal(
            SIGNAL,
            0x40,
            &[
                cfa_expression(&[breg(RSP, 32), vec![DEREF]].concat()),
                at_expression(RA, &breg(RSP, 40)),
                at_expression(RBP, &breg(RSP, 24)),
            ],
        )
}

fn module() -> ModuleDesc {
    builder().module(BIAS, 1)
}

/// A return address in the function at `svma`.
fn ret(svma: u64) -> u64 {
    BIAS + svma + 0x10
}

fn at(word: usize) -> u64 {
    STACK + 8 * word as u64
}

struct Walk {
    frames: Vec<u64>,
    outcome: Outcome,
}

fn walk_with(
    capturer: &mut Capturer,
    set: &ModuleSet,
    words: &[u64],
    regs: Regs,
    policy: Policy,
    depth: usize,
) -> Walk {
    let mut frames = vec![0; depth];
    let mem = StackArray { base: STACK, words };
    let outcome = capturer.capture(set, &mem, &regs, false, policy, &mut frames);
    frames.truncate(outcome.len);
    Walk { frames, outcome }
}

fn walk(words: &[u64], regs: Regs) -> Walk {
    let set = ModuleSet::new(vec![module()], 1);
    let mut capturer = Capturer::boxed();
    let first = walk_with(&mut capturer, &set, words, regs, Policy::Table, 64);
    let again = walk_with(&mut capturer, &set, words, regs, Policy::Table, 64);
    assert_eq!((&first.frames, first.outcome), (&again.frames, again.outcome));
    first
}

fn regs(svma: u64) -> Regs {
    Regs { ip: ret(svma), sp: STACK, ..Regs::default() }
}

#[track_caller]
fn ends(words: &[u64], regs: Regs, frames: &[u64], status: StackStatus) {
    let walk = walk(words, regs);
    assert_eq!((&walk.frames[..], walk.outcome.status), (frames, status));
}

#[test]
fn complete_where_the_return_address_is_undefined() {
    let words = [ret(PLAIN), 1, 2, 3, 4, ret(START), 9];
    let frames = [ret(LEAF), ret(PLAIN), ret(START)];
    ends(&words, regs(LEAF), &frames, StackStatus::Complete);
}

#[test]
fn every_way_to_be_cut_short() {
    ends(&[0, 0], regs(LEAF), &[ret(LEAF)], StackStatus::NullReturn);
    ends(&[ret(PLAIN), 0], regs(LEAF), &[ret(LEAF), ret(PLAIN)], StackStatus::OutOfBounds);
    ends(&[0x1234, 0], regs(LEAF), &[ret(LEAF), 0x1234], StackStatus::NoModule);
    // Not an address at all: it is no frame.
    ends(&[1 << 60, 0], regs(LEAF), &[ret(LEAF)], StackStatus::NoModule);
    ends(&[ret(GAP), 0], regs(LEAF), &[ret(LEAF), ret(GAP)], StackStatus::NoUnwindInfo);
    ends(&[ret(ODD), 0], regs(LEAF), &[ret(LEAF), ret(ODD)], StackStatus::UnsupportedRule);
    let unknown = Regs { sp: 0x1000, ..regs(LEAF) };
    ends(&[0], unknown, &[ret(LEAF)], StackStatus::UnknownStack);
    let backwards = Regs { sp: at(2), bp: at(0), ..regs(KEEPS) };
    ends(&[0, ret(START), 0, 0], backwards, &[ret(KEEPS)], StackStatus::NotUpwards);
    let misaligned = Regs { bp: at(1) + 4, ..regs(KEEPS) };
    ends(&[0; 4], misaligned, &[ret(KEEPS)], StackStatus::OutOfBounds);
}

#[test]
fn registers_are_followed_where_they_are_saved() {
    // SAVES_RBX's caller has its CFA on rbx, saved two words below SAVES_RBX's CFA.
    let words = [0, at(6), ret(ON_RBX), 0, 0, 0, 0, ret(START)];
    let frames = [ret(SAVES_RBX), ret(ON_RBX), ret(START)];
    ends(&words, regs(SAVES_RBX), &frames, StackStatus::Complete);
    // Here rbx passes through a leaf from the start.
    let words = [ret(ON_RBX), 0, 0, ret(START), 0];
    let from_start = Regs { bx: at(2), ..regs(LEAF) };
    ends(&words, from_start, &[ret(LEAF), ret(ON_RBX), ret(START)], StackStatus::Complete);
}

#[test]
fn expressions_that_read_memory() {
    // rbp = 2; [rbp - 8] = CFA = 6; [rbp] = the caller's rbp.
    let words = [0, at(6), at(8), 0, 0, ret(KEEPS), 0, 0, 77, ret(START)];
    let frames = [ret(DRAP), ret(KEEPS), ret(START)];
    ends(&words, Regs { bp: at(2), ..regs(DRAP) }, &frames, StackStatus::Complete);
}

#[test]
fn a_signal_frame_may_lead_anywhere_and_is_exact() {
    // The trampoline's frame is above the interrupted one: stacks of their own.
    let words = [0, ret(START), 0, 0, 0, 0, 0, at(0), at(0), BIAS + KEEPS + 0x10];
    let start = Regs { sp: at(4), ..regs(SIGNAL) };
    let frames = [ret(SIGNAL), (BIAS + KEEPS + 0x10) | FRAME_EXACT, ret(START)];
    ends(&words, start, &frames, StackStatus::Complete);
    // One that leads to itself ends too.
    let mut words = [0; 10];
    (words[8], words[9]) = (at(4), BIAS + SIGNAL);
    let looped = walk(&words, start);
    assert_eq!(looped.outcome.status, StackStatus::NotUpwards);
}

#[test]
fn an_exact_address_is_looked_up_as_it_is() {
    let set = ModuleSet::new(vec![module()], 1);
    let words = [ret(START), 1, 2, 3, ret(START), 0];
    let mem = StackArray { base: STACK, words: &words };
    // The byte before PLAIN belongs to nothing; before its end, to PLAIN.
    for (ip, exact, status) in [
        (BIAS + PLAIN, true, StackStatus::Complete),
        (BIAS + PLAIN, false, StackStatus::NoUnwindInfo),
        (BIAS + PLAIN + 0x40, false, StackStatus::Complete),
        (BIAS + PLAIN + 0x40, true, StackStatus::NoUnwindInfo),
    ] {
        let mut out = [0; 8];
        let regs = Regs { ip, sp: STACK, ..Regs::default() };
        let mut capturer = Capturer::boxed();
        let o = capturer.capture(&set, &mem, &regs, exact, Policy::Table, &mut out);
        assert_eq!(o.status, status, "{ip:#x} {exact}");
        assert_eq!(out[0], if exact { ip | FRAME_EXACT } else { ip });
    }
}

#[test]
fn the_innermost_frames_are_kept() {
    let set = ModuleSet::new(vec![module()], 1);
    let words = [ret(PLAIN), 1, 2, 3, 4, ret(START), 9];
    let frames = [ret(LEAF), ret(PLAIN), ret(START)];
    for depth in 0..5 {
        let w = walk_with(&mut Capturer::boxed(), &set, &words, regs(LEAF), Policy::Table, depth);
        let whole = depth >= frames.len();
        assert_eq!(w.frames, frames[..depth.min(3)]);
        let status = if whole { StackStatus::Complete } else { StackStatus::DepthLimit };
        assert_eq!(w.outcome.status, status);
    }
}

#[test]
fn hidden_frames_are_walked_and_left_out() {
    let other = 0x6600_0000_0000;
    let hidden = ModuleDesc { hidden: true, ..builder().module(other, 2) };
    let set = ModuleSet::new(vec![module(), hidden], 1);
    let words = [other + PLAIN + 0x10, 1, 2, 3, 4, ret(START), 9];
    let mut capturer = Capturer::boxed();
    for depth in [2, 8] {
        let w = walk_with(&mut capturer, &set, &words, regs(LEAF), Policy::Table, depth);
        assert_eq!(w.frames, [ret(LEAF), ret(START)]);
        assert_eq!(w.outcome.status, StackStatus::Complete);
    }
}

#[test]
fn first_visits_are_limited_and_made_up_for() {
    let set = ModuleSet::new(vec![module()], 1);
    let words = [ret(PLAIN), 1, 2, 3, 4, ret(START), 9];
    let mut capturer = Capturer::boxed();
    capturer.set_visit_limit(1);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let w = walk_with(&mut capturer, &set, &words, regs(LEAF), Policy::Table, 8);
        seen.push((w.frames.len(), w.outcome.status));
    }
    let limit = StackStatus::VisitLimit;
    assert_eq!(seen, [(2, limit), (3, limit), (3, StackStatus::Complete)]);
}

#[test]
fn frame_pointers_are_followed_where_they_are_kept_and_the_table_goes_on() {
    let detect = ModuleDesc { frame_pointers: FramePointers::Detect, ..module() };
    let set = ModuleSet::new(vec![detect], 1);
    assert!(set.keeps_frame_pointers(ret(KEEPS)));
    for svma in [PLAIN, START, GAP, ON_RBX, DRAP, ODD, SIGNAL] {
        assert!(!set.keeps_frame_pointers(ret(svma)), "{svma:#x}");
    }
    let words = [at(2), ret(KEEPS), at(9), ret(PLAIN), 1, 2, 3, 4, ret(START), 0];
    let start = Regs { bp: at(0), ..regs(KEEPS) };
    let auto = Policy::Auto { c_on_stack: false };
    let mut capturer = Capturer::boxed();
    for _ in 0..2 {
        let table = walk_with(&mut capturer, &set, &words, start, Policy::Table, 8);
        let mixed = walk_with(&mut capturer, &set, &words, start, auto, 8);
        assert_eq!(mixed.frames, [ret(KEEPS), ret(KEEPS), ret(PLAIN), ret(START)]);
        assert_eq!(mixed.frames, table.frames);
        assert_eq!(mixed.outcome.status, StackStatus::Complete);
        assert_eq!(table.outcome.status, StackStatus::Complete);
        assert_eq!(mixed.outcome.unwinder, Unwinder::FramePointer);
        assert_eq!(table.outcome.unwinder, Unwinder::Table);
    }
    // In the prologue, before `mov %rsp,%rbp`, rbp is still the caller's.
    let words = [at(4), ret(KEEPS), 0, 0, 77, ret(START), 0];
    let pushed = Regs { ip: BIAS + KEEPS + 2, sp: STACK, bp: at(4), ..Regs::default() };
    let w = walk_with(&mut capturer, &set, &words, pushed, auto, 8);
    assert_eq!(w.frames[1..], [ret(KEEPS), ret(START)]);
    assert_eq!(w.outcome.unwinder, Unwinder::Table);
}

#[test]
fn forced_frame_pointers_are_never_complete() {
    let set = ModuleSet::new(vec![module()], 1);
    let words = [at(2), ret(PLAIN), 0, ret(START), 0];
    let start = Regs { bp: at(0), ..regs(KEEPS) };
    let w = walk_with(&mut Capturer::boxed(), &set, &words, start, Policy::FramePointer, 8);
    assert_eq!(w.frames, [ret(KEEPS), ret(PLAIN), ret(START)]);
    assert_eq!(w.outcome.status, StackStatus::FramePointerEnd);
    assert_eq!(w.outcome.unwinder, Unwinder::FramePointer);
}

#[test]
fn without_unwind_information_only_known_frame_pointers_are_followed() {
    let words = [ret(GAP), at(3), ret(START), 77, ret(START)];
    let start = Regs { bp: at(1), ..regs(LEAF) };
    let known = ModuleDesc { frame_pointers: FramePointers::Known, ..module() };
    let set = ModuleSet::new(vec![known], 1);
    let mut capturer = Capturer::boxed();
    for _ in 0..2 {
        let w = walk_with(&mut capturer, &set, &words, start, Policy::Table, 8);
        assert_eq!(w.frames, [ret(LEAF), ret(GAP), ret(START)]);
        assert_eq!(w.outcome.status, StackStatus::FramePointersOnly);
    }
}

#[test]
fn a_module_at_the_address_of_another_has_its_own_rules() {
    let old = ModuleSet::new(vec![module()], 1);
    // At PLAIN there is now a function with a smaller frame.
    let other = Builder::default()
        .function(LEAF, 0x40, &[])
        .function(PLAIN, 0x40, &[cfa(RSP, 16)])
        .function(START, 0x40, &[undefined(RA)])
        .module(BIAS, 2);
    let new = ModuleSet::replacing(vec![other], 2, Some(&old));
    let words = [ret(PLAIN), 1, ret(START), 3, 4, ret(LEAF), 0];
    let mut capturer = Capturer::boxed();
    let before = walk_with(&mut capturer, &old, &words, regs(LEAF), Policy::Table, 8);
    let after = walk_with(&mut capturer, &new, &words, regs(LEAF), Policy::Table, 8);
    let back = walk_with(&mut capturer, &old, &words, regs(LEAF), Policy::Table, 8);
    assert_eq!(before.frames, [ret(LEAF), ret(PLAIN), ret(LEAF)]);
    assert_eq!(before.outcome.status, StackStatus::NullReturn);
    assert_eq!(after.frames, [ret(LEAF), ret(PLAIN), ret(START)]);
    assert_eq!(after.outcome.status, StackStatus::Complete);
    assert_eq!(back.frames, before.frames);
    // A module that stays keeps its rules: no first visit is needed.
    let kept = ModuleSet::replacing(vec![module()], 3, Some(&old));
    capturer.set_visit_limit(0);
    let w = walk_with(&mut capturer, &kept, &words, regs(LEAF), Policy::Table, 8);
    assert_eq!(w.frames, before.frames);
}
