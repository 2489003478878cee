//! The shim and the fixtures, as cargo built them for these tests.
#![allow(dead_code)] // Each test binary uses its part.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The shim. Cargo puts a dev-dependency's library beside the tests, and one
/// directory up only when it is built for itself; the newer one is meant.
pub(crate) fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("this test");
    let deps = exe.parent().expect("its directory");
    let places = [deps.join("libtraceshim.so"), deps.join("../libtraceshim.so")];
    let built = |path: &PathBuf| path.metadata().and_then(|m| m.modified()).ok();
    let newest = places.into_iter().filter(|path| path.exists()).max_by_key(built);
    newest.expect("libtraceshim.so beside the tests").canonicalize().expect("its path")
}

/// The path of a fixture.
pub(crate) fn fixture(name: &str, flags: &str) -> PathBuf {
    c_fixtures::fixture(name, flags)
}

/// A program with the shim preloaded and its rings in `dir`, without a
/// collector.
pub(crate) fn preloaded(program: impl AsRef<OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library()).env("TRACESHIM_DIR", dir);
    command
}
