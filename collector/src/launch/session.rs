//! A session directory of our own.

use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use traceshim_ring::session::{self, RECORD_PREFIX};

use crate::input::own_uid;

/// A directory that only this user can look into, made for one command. It is
/// removed when it goes out of scope, unless something is still in it.
#[derive(Debug)]
pub(crate) struct SessionDir {
    path: PathBuf,
}

impl SessionDir {
    /// Makes one. `mkdir` follows no link and takes no directory that is there,
    /// so nobody can have prepared it.
    pub(crate) fn create() -> Result<SessionDir> {
        let parent = parent();
        // Where it can't be made, that of the directory below says why.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(&parent);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        // Named by the user, as far as this program can tell.
        session::check_dir(&parent, true, own_uid()).with_context(|| parent.display().to_string())?;
        for attempt in 0..100 {
            let path = parent.join(format!("{RECORD_PREFIX}{}-{:x}", std::process::id(), nanos ^ attempt));
            match DirBuilder::new().recursive(false).mode(0o700).create(&path) {
                Ok(()) => {
                    // Whatever the umask took away.
                    std::fs::set_permissions(&path, Permissions::from_mode(0o700))?;
                    return Ok(SessionDir { path });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        anyhow::bail!("{}: no free name for a session directory", parent.display())
    }

    /// One that is there, for a fuzzer to fill.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn at(path: PathBuf) -> SessionDir {
        SessionDir { path }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The rings in it now.
    pub(crate) fn rings(&self) -> Vec<PathBuf> {
        session::ring_files(&self.path).unwrap_or_default()
    }
}

/// Where session directories are made: as the user says, else in memory if
/// there is such a place, for a ring on a disk is written back all the time.
pub(crate) fn parent() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    absolute("TRACESHIM_DIR").or_else(|| absolute("XDG_RUNTIME_DIR")).unwrap_or_else(std::env::temp_dir)
}

impl Drop for SessionDir {
    fn drop(&mut self) {
        // What processes in a sandbox left for the programs that they executed.
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        for word in entries.filter(|entry| session::is_vouch_name(&entry.file_name())) {
            let _ = std::fs::remove_file(word.path());
        }
        // Fails where a ring is left that somebody still writes to.
        let _ = std::fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_gone_afterwards() {
        let dir = SessionDir::create().unwrap();
        let path = dir.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(dir.rings().is_empty());
        drop(dir);
        assert!(!path.exists());
    }
}
