#![allow(unsafe_code)]
//! The walk's inner loop: rules that are learned and plain, on a stack whose
//! bounds are known.
//!
//! From one return address to the next it waits for a load, the rule's
//! address, the rule, and an addition; in code that keeps frame pointers, for a
//! load alone. Everything else goes on beside that.

use crate::memory::StackBounds;
use crate::rule::ADDRESSES;
use crate::rules::Rules;
use crate::trace::Step;
use std::arch::asm;
use std::hint::select_unpredictable;

/// A frame, at a return address.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) ip: u64,
    pub(crate) sp: u64,
    pub(crate) bp: u64,
}

/// Walks on from `frame` while rules are plain and everything is as it should
/// be. Each frame that it leaves is written to `out`, and how to `steps`;
/// returns their number. Where it stops, `frame` is as the next step finds it.
#[inline(never)]
pub(crate) fn walk(
    rules: &Rules,
    stack: &StackBounds,
    frame: &mut Frame,
    out: &mut [u64],
    steps: &mut [Step],
) -> usize {
    let Frame { mut ip, mut sp, mut bp } = *frame;
    let hi = stack.hi();
    if sp & 7 != 0 || sp < stack.lo() || sp > hi {
        return 0;
    }
    let mut walked = 0usize;
    for (slot, step) in out.iter_mut().zip(steps) {
        let Some(rule) = rules.get(ip.wrapping_sub(1)).filter(|rule| rule.is_plain()) else { break };
        let (cfa, bp_slot, keeps_bp) = if rule.is_frame_pointer() {
            // A branch of its own: where it is guessed right, the next step
            // waits for the chain of frame pointers and not for the rule.
            let mut slot = bp;
            // SAFETY: no instruction, only something that the compiler won't
            // do on both branches.
            unsafe { asm!("/* {} */", inout(reg) slot, options(nomem, nostack, preserves_flags)) };
            (slot.wrapping_add(16), slot, false)
        } else {
            let cfa = rule.cfa(sp, bp);
            (cfa, rule.bp_slot(cfa), rule.keeps_bp())
        };
        let size = cfa.wrapping_sub(sp);
        let outside = size.wrapping_sub(1) >= hi.wrapping_sub(sp);
        if outside | (bp_slot.wrapping_sub(sp) >= size) | (cfa & 7 != 0) {
            break;
        }
        // `sp` is aligned and in the stack, `cfa` is aligned and above `sp` but
        // not above the stack's end, and `bp_slot` is aligned and between them.
        // SAFETY: so the word below `cfa` is in the stack.
        let caller = unsafe { stack.word(cfa.wrapping_sub(8)) };
        // SAFETY: and so is that at `bp_slot`.
        let saved = unsafe { stack.word(bp_slot) };
        if caller.wrapping_sub(1) >= ADDRESSES {
            break;
        }
        *slot = ip;
        bp = select_unpredictable(keeps_bp, bp, saved);
        (ip, sp) = (caller, cfa);
        *step = Step { rule, cfa, ip, bp };
        walked = walked.wrapping_add(1);
    }
    *frame = Frame { ip, sp, bp };
    walked
}
