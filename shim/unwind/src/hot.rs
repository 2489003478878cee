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
    let Some(last_pair) = hi.checked_sub(16) else { return 0 };
    if sp & 7 != 0 || sp < stack.lo() || sp > hi {
        return 0;
    }
    let mut walked = 0usize;
    for (slot, step) in out.iter_mut().zip(steps.iter_mut()) {
        let rule = rules.known(ip.wrapping_sub(1));
        let (cfa, caller, caller_bp);
        // A branch of its own: where it is guessed right, the next step waits
        // for the chain of frame pointers and not for the rule.
        if rule.is_plain_frame_pointer() {
            if bp & 7 != 0 || bp < sp || bp > last_pair {
                break;
            }
            cfa = bp.wrapping_add(16);
            // `bp` is aligned, and it and the word above it are between `sp`
            // and the end of the stack.
            // SAFETY: so the word there is in the stack.
            caller_bp = unsafe { stack.word(bp) };
            // SAFETY: and so is the next.
            caller = unsafe { stack.word(bp.wrapping_add(8)) };
        } else if rule.is_plain() {
            cfa = rule.cfa(sp, bp);
            let bp_slot = rule.bp_slot(cfa);
            let size = cfa.wrapping_sub(sp);
            let outside = size.wrapping_sub(1) >= hi.wrapping_sub(sp);
            if outside | (bp_slot.wrapping_sub(sp) >= size) | (cfa & 7 != 0) {
                break;
            }
            // `sp` is aligned and in the stack, `cfa` is aligned and above `sp` but
            // not above the stack's end, and `bp_slot` is aligned and between them.
            // SAFETY: so the word below `cfa` is in the stack.
            caller = unsafe { stack.word(cfa.wrapping_sub(8)) };
            // SAFETY: and so is that at `bp_slot`.
            let saved = unsafe { stack.word(bp_slot) };
            caller_bp = select_unpredictable(rule.keeps_bp(), bp, saved);
        } else {
            break;
        }
        *slot = ip;
        (ip, sp, bp) = (caller, cfa, caller_bp);
        *step = Step { rule, cfa, ip, bp };
        walked = walked.wrapping_add(1);
    }
    // No rule is known of what can't be an address: it is the last one read,
    // and the step to it wasn't one.
    if ip.wrapping_sub(1) >= ADDRESSES
        && let Some(before) = walked.checked_sub(1)
        && let Some(slot) = out.get(before)
    {
        walked = before;
        ip = *slot;
        let step = before.checked_sub(1).and_then(|n| steps.get(n));
        (sp, bp) = step.map_or((frame.sp, frame.bp), |step| (step.cfa, step.bp));
    }
    *frame = Frame { ip, sp, bp };
    walked
}
