//! What is known about a captured stack beside its frames.
//!
//! The capture engine produces these values, the ring stores their codes, and
//! the collector prints their texts; so they are defined here, once.

use std::fmt;

/// Set in a frame's word where the address is that of the instruction itself
/// (a callback's entry, the instruction that a signal interrupted). Clear: it
/// is a return address, and what is looked up is the byte before it.
///
/// User-space addresses on x86-64 have at most 57 bits, so the bit is free.
pub const FRAME_EXACT: u64 = 1 << 63;

/// The mask that takes a frame's word to its address.
pub const FRAME_ADDRESS: u64 = !FRAME_EXACT;

/// Which unwinder took a stack's innermost frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unwinder {
    /// Call frame information, through framehop and its guard.
    Table,
    /// The chain of saved frame pointers.
    FramePointer,
}

impl Unwinder {
    /// The name in the contract: `table` or `frame-pointer`.
    pub const fn name(self) -> &'static str {
        match self {
            Unwinder::Table => "table",
            Unwinder::FramePointer => "frame-pointer",
        }
    }
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// How a walk ended. `Complete` is claimed only where the call frame
        /// information says that there is no caller; everything else is a
        /// right prefix and says why it stops.
        ///
        /// Codes are append-only: they are stored in rings and traces.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum StackStatus { $($(#[$doc])* $name = $code,)* }

        impl StackStatus {
            /// Every status, for tests and for documentation.
            pub const ALL: &[StackStatus] = &[$(StackStatus::$name),*];

            /// The code that a ring stores.
            pub const fn code(self) -> u8 { self as u8 }

            /// The status for a code read from a ring; `None` where this
            /// version doesn't know it.
            pub const fn from_code(code: u8) -> Option<StackStatus> {
                match code { $($code => Some(StackStatus::$name),)* _ => None }
            }

            /// The text of the contract: `complete`, or `truncated: <why>`.
            pub const fn text(self) -> &'static str {
                match self { $(StackStatus::$name => $text,)* }
            }
        }
    };
}

statuses! {
    /// The outermost frame has no caller, by its own unwind information.
    Complete = 1, "complete";
    /// More frames than `TRACESHIM_STACK_DEPTH` allows.
    DepthLimit = 2, "truncated: depth limit";
    /// The address belongs to no module (JIT code, a trampoline on the heap).
    NoModule = 3, "truncated: address in no module";
    /// The module has no unwind information for the address.
    NoUnwindInfo = 4, "truncated: no unwind information";
    /// The unwind information says something that the engine can't evaluate.
    UnsupportedRule = 5, "truncated: unsupported unwind rule";
    /// A read fell outside the stack's known bounds.
    OutOfBounds = 6, "truncated: left the known stack";
    /// The walk didn't move towards the stack's base.
    NotUpwards = 7, "truncated: stack pointer did not grow";
    /// A return address of zero where the unwind information promised a caller.
    NullReturn = 8, "truncated: null return address";
    /// The walk needs a register whose value is not known at that point.
    UnknownRegister = 9, "truncated: register value unknown";
    /// The frame-pointer chain ended or left the stack (forced `frame-pointer`).
    FramePointerEnd = 10, "truncated: frame-pointer chain ended";
    /// The stack's bounds are unknown (coroutine, foreign stack).
    UnknownStack = 11, "truncated: unknown stack";
    /// The code changed under the walk (a module was unloaded).
    ModulesChanged = 12, "truncated: modules changed during the walk";
    /// The unwind information itself is damaged.
    BadUnwindInfo = 13, "truncated: damaged unwind information";
    /// Too many first visits in one capture; a later one goes further.
    VisitLimit = 14, "truncated: first-visit limit";
    /// The ring has no room for more stack frames.
    TableFull = 15, "truncated: stack table full";
    /// Stacks are switched off (`TRACESHIM_STACK_DEPTH=0`).
    Off = 16, "truncated: stacks are off";
    /// Frame pointers were followed where unwind information was missing, and
    /// the chain ended there.
    FramePointersOnly = 17, "truncated: frame pointers only, no unwind information";
    /// Memory for the thread's unwinder could not be had.
    NoMemory = 18, "truncated: no memory for the unwinder";
}

impl fmt::Display for StackStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_texts_keep_the_contract() {
        for &s in StackStatus::ALL {
            assert_eq!(StackStatus::from_code(s.code()), Some(s));
            assert!(
                s == StackStatus::Complete && s.text() == "complete" || s.text().starts_with("truncated: ")
            );
        }
        assert_eq!(StackStatus::from_code(0), None);
    }
}
