//! Files that symbols are read from, kept for the life of the process.

use std::path::Path;

use traceshim_ring::mapping::MappedFile;

/// The content of a regular file. It is never unmapped: a symbolizer needs each
/// of its files until it exits, opens each once, and borrows from all of them.
pub(crate) fn contents(path: &Path) -> Option<&'static [u8]> {
    let file: &'static MappedFile = Box::leak(Box::new(MappedFile::open(path).ok()?));
    (!file.is_empty()).then_some(&**file)
}
