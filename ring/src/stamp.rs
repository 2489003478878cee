//! What tells one file from another that has taken its place.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// A file's size and times, for a module that has no build id. Whoever replaces
/// or changes a file can choose all of these but the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Size in bytes.
    pub bytes: u64,
    /// When its content was changed, in nanoseconds since the epoch.
    pub modified_ns: u64,
    /// When anything about it was changed.
    pub changed_ns: u64,
}

impl FileStamp {
    /// Whether there was a file to look at.
    pub fn is_known(self) -> bool {
        self != FileStamp::default()
    }
}

impl From<&Metadata> for FileStamp {
    fn from(meta: &Metadata) -> FileStamp {
        let ns = |s: i64, ns: i64| s.wrapping_mul(1_000_000_000).wrapping_add(ns) as u64;
        FileStamp {
            bytes: meta.len(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }
}
