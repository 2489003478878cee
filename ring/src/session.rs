//! Where rings lie, and what they are called.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The ending of a ring file's name.
pub const RING_SUFFIX: &str = ".ring";

/// The session directory for user `uid` where `TRACESHIM_DIR` names none.
pub fn default_dir(xdg_runtime_dir: Option<OsString>, uid: u32) -> PathBuf {
    match xdg_runtime_dir.map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        Some(dir) => dir.join("traceshim"),
        None => PathBuf::from(format!("/tmp/traceshim-{uid}")),
    }
}

/// `<exe>.<pid>.ring`; a further ring of the same process id (after an exec, or
/// where a ring of an earlier process is still there) has a number before the
/// ending.
pub fn ring_name(exe: &[u8], pid: u32, nth: u32) -> OsString {
    // A file name has at most 255 bytes; the longest number needs 22 of them.
    let exe = exe.get(..200).unwrap_or(exe);
    let mut name: Vec<u8> = exe.iter().map(|&b| if b == b'/' || b == 0 { b'_' } else { b }).collect();
    name.extend_from_slice(format!(".{pid}").as_bytes());
    if nth > 0 {
        name.extend_from_slice(format!(".{nth}").as_bytes());
    }
    name.extend_from_slice(RING_SUFFIX.as_bytes());
    OsString::from_vec(name)
}

/// Whether a file of this name may be a ring.
pub fn is_ring_name(name: &OsStr) -> bool {
    name.as_bytes().ends_with(RING_SUFFIX.as_bytes())
}

/// The rings in a session directory, in the order of their names.
pub fn ring_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut rings = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if is_ring_name(&entry.file_name()) && entry.file_type()?.is_file() {
            rings.push(entry.path());
        }
    }
    rings.sort();
    Ok(rings)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(ring_name(b"app", 12, 0), "app.12.ring");
        assert_eq!(ring_name(b"app", 12, 3), "app.12.3.ring");
        assert!(ring_name(&[b'x'; 300], u32::MAX, u32::MAX).len() <= 255);
        assert_eq!(default_dir(Some("/run/u".into()), 5), Path::new("/run/u/traceshim"));
        assert_eq!(default_dir(Some("".into()), 5), Path::new("/tmp/traceshim-5"));
    }
}
