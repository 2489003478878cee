//! The one place that chooses between real atomics and loom's, and that names
//! the orderings which the protocol's correctness hangs on.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A step of the protocol whose ordering matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A record becomes part of what was published.
    Publish,
    /// A reader picks up what was published.
    Observe,
    /// A claimed chunk becomes an open one.
    Open,
    /// A chunk goes from one thread to another: put and taken.
    HandOver,
}

/// The ordering of a step. The model checker asks for one step's to be
/// weakened, and must then find a failure.
#[inline(always)]
pub(crate) fn order(step: Step) -> Ordering {
    #[cfg(loom)]
    if model::weakened() == Some(step) {
        return Ordering::Relaxed;
    }
    match step {
        Step::Publish | Step::Open => Ordering::Release,
        Step::Observe => Ordering::Acquire,
        Step::HandOver => Ordering::AcqRel,
    }
}

/// What only the model checker needs.
#[cfg(loom)]
pub mod model {
    use super::Step;
    use std::cell::Cell;

    // Loom runs all of a model's threads on one of the system's.
    std::thread_local!(static WEAKENED: Cell<Option<Step>> = const { Cell::new(None) });

    pub(super) fn weakened() -> Option<Step> {
        WEAKENED.get()
    }

    /// Weakens a step's ordering on this thread, or none.
    pub fn weaken(step: Option<Step>) {
        WEAKENED.set(step);
    }
}
