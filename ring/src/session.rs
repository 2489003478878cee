//! Where rings lie, and what they are called.

use std::ffi::{OsStr, OsString};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The ending of a ring file's name.
pub const RING_SUFFIX: &str = ".ring";

/// How the names of directories begin that `record` makes, each for one command.
pub const RECORD_PREFIX: &str = "traceshim-record-";

/// Whether a session directory is one of `record`'s: who comes when it is gone,
/// or may not enter it, doesn't belong to the session any more.
pub fn is_of_record(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name.as_bytes().starts_with(RECORD_PREFIX.as_bytes()))
}

/// The session directory for user `uid` where `TRACESHIM_DIR` names none.
pub fn default_dir(xdg_runtime_dir: Option<OsString>, uid: u32) -> PathBuf {
    match xdg_runtime_dir.map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        Some(dir) => dir.join("traceshim"),
        None => PathBuf::from(format!("/tmp/traceshim-{uid}")),
    }
}

/// Refuses a session directory in which others may tamper with rings.
///
/// One that nobody named (`is_named`: `TRACESHIM_DIR` did) has a name that
/// anybody can foresee: it must be a directory, no link, of user `uid`, in which
/// nobody else may write. One that was named is taken, whoever owns it and
/// through links, unless anybody may replace files in it.
pub fn check_dir(dir: &Path, is_named: bool, uid: u32) -> Result<()> {
    let refuse = |why: String| Err(Error::new(ErrorKind::PermissionDenied, why));
    let meta = if is_named { dir.metadata() } else { dir.symlink_metadata() }?;
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    if !meta.is_dir() {
        let what = if meta.is_symlink() { "a link" } else { "not a directory" };
        return refuse(format!("is {what}: a session directory must be a directory"));
    }
    if !is_named && (owner != uid || mode & 0o022 != 0) {
        return refuse(format!(
            "belongs to user {owner} and has mode {mode:04o}: must belong to user {uid} and be \
             writable by nobody else; TRACESHIM_DIR can name another"
        ));
    }
    if mode & 0o1002 == 0o002 {
        return refuse(format!(
            "has mode {mode:04o}, so that anybody may replace files in it: must not be writable by \
             all, or be sticky like /tmp"
        ));
    }
    Ok(())
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

/// What the names begin with of files by which a process says to the program that
/// it executes that its seccomp filters allow what tracing takes.
const VOUCH_PREFIX: &str = ".seccomp.";

/// The name of such a file: of a process by its id and the time of its start,
/// and with how many filters.
pub fn vouch_name(pid: u32, start: u64, filters: u32) -> String {
    format!("{VOUCH_PREFIX}{pid}.{start}.{filters}")
}

/// Whether a file of this name is nothing but such a word.
pub fn is_vouch_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(VOUCH_PREFIX.as_bytes())
}

/// Whether a file of this name may be a ring.
pub fn is_ring_name(name: &OsStr) -> bool {
    name.as_bytes().ends_with(RING_SUFFIX.as_bytes())
}

/// The rings in a session directory, in the order of their names.
pub fn ring_files(dir: &Path) -> Result<Vec<PathBuf>> {
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
    fn directories_that_others_can_tamper_with_are_refused() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("d"), dir.path().join("link"));
        std::fs::create_dir(&path).unwrap();
        symlink(&path, &link).unwrap();
        let uid = path.metadata().unwrap().uid();
        // Mode, and whether it is taken by default, where it is named.
        for (mode, by_default, named) in [
            (0o700, true, true),
            (0o755, true, true),
            (0o775, false, true),
            (0o777, false, false),
            (0o1777, false, true),
        ] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_dir(&path, false, uid).is_ok(), by_default, "{mode:o}");
            assert_eq!(check_dir(&path, true, uid).is_ok(), named, "{mode:o}");
            assert_eq!(check_dir(&link, true, uid).is_ok(), named, "{mode:o}");
            assert_eq!(check_dir(&path, true, uid + 1).is_ok(), named, "{mode:o}");
            let why = check_dir(&path, false, uid + 1).unwrap_err().to_string();
            assert!(
                why.contains(&format!("user {uid} and has mode {mode:04o}: must belong to user {}", uid + 1))
            );
            assert!(check_dir(&link, false, uid).unwrap_err().to_string().contains("is a link"));
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(check_dir(&dir.path().join("file"), true, uid).is_err());
    }

    #[test]
    fn names() {
        assert_eq!(ring_name(b"app", 12, 0), "app.12.ring");
        assert_eq!(ring_name(b"app", 12, 3), "app.12.3.ring");
        assert!(is_vouch_name(vouch_name(12, 34, 1).as_ref()) && !is_vouch_name("app.12.ring".as_ref()));
        assert!(ring_name(&[b'x'; 300], u32::MAX, u32::MAX).len() <= 255);
        assert_eq!(default_dir(Some("/run/u".into()), 5), Path::new("/run/u/traceshim"));
        assert_eq!(default_dir(Some("".into()), 5), Path::new("/tmp/traceshim-5"));
    }
}
