//! Files that symbols are read from, kept for the life of the process.

use std::path::Path;

use traceshim_ring::mapping::MappedFile;
use traceshim_ring::stamp::FileStamp;

/// The content of a regular file, and what tells it from others. It is never unmapped: a symbolizer needs each
/// of its files until it exits, opens each once, and borrows from all of them.
pub(crate) fn open(path: &Path) -> Option<(&'static [u8], FileStamp)> {
    // A process has 65,530 mappings, and a fuzzer tries more files than that.
    if cfg!(fuzzing) {
        return Some((std::fs::read(path).ok()?.leak(), FileStamp::from(&path.metadata().ok()?)));
    }
    let file: &'static MappedFile = Box::leak(Box::new(MappedFile::open(path).ok()?));
    (!file.is_empty()).then_some((&**file, file.stamp()))
}

/// The content alone, for what proves itself.
pub(crate) fn contents(path: &Path) -> Option<&'static [u8]> {
    open(path).map(|(bytes, _)| bytes)
}
