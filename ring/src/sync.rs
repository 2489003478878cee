//! The one place that chooses between real atomics and loom's.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The ordering with which a record is published. The model checker runs the
/// protocol once with this weakened, and must then find a failure.
pub(crate) const PUBLISH: Ordering =
    if cfg!(weaken = "publish") { Ordering::Relaxed } else { Ordering::Release };

/// The ordering with which a reader picks up what was published.
pub(crate) const OBSERVE: Ordering =
    if cfg!(weaken = "observe") { Ordering::Relaxed } else { Ordering::Acquire };

/// The ordering of the step that makes a claimed chunk visible as open.
pub(crate) const OPEN_CHUNK: Ordering =
    if cfg!(weaken = "open") { Ordering::Relaxed } else { Ordering::Release };

/// The ordering with which a partly filled chunk is handed to another thread.
pub(crate) const HAND_OVER: Ordering =
    if cfg!(weaken = "hand-over") { Ordering::Relaxed } else { Ordering::AcqRel };
