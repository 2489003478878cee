//! C and C++ programs that the shim is tried on: one behaviour each, built by cargo in several flag sets.
//!
//! A fixture is a host executable, which exports the functions that are called back, and a C library, always built
//! without frame pointers, which calls them. The first comment in `c/NAME/host.c` says what it does and which
//! events it must yield; `c/NAME/expected.txt` is what it prints, with and without the shim.
//!
//! - [`table`]: what is built and how
//! - [`fixture`]: where a program is

use std::path::{Path, PathBuf};

pub mod table;

pub use table::{FIXTURES, FLAG_SETS};

/// The path of an executable, as in `fixture("founding", "O2-fp")`.
///
/// # Panics
/// Where no such fixture or flag set exists: the test that asked has a typing error.
pub fn fixture(name: &str, flag_set: &str) -> PathBuf {
    find(name, flag_set).unwrap_or_else(|| panic!("no fixture {name} in flag set {flag_set}"))
}

/// Like [`fixture`], for names that came from outside.
pub fn find(name: &str, flag_set: &str) -> Option<PathBuf> {
    let known = FIXTURES.iter().any(|fixture| fixture.name == name)
        && FLAG_SETS.iter().any(|flags| flags.name == flag_set);
    known.then(|| Path::new(env!("OUT_DIR")).join(flag_set).join(name))
}

/// The sources and expected output of a fixture.
///
/// # Panics
/// Where no such fixture exists.
pub fn source_dir(name: &str) -> PathBuf {
    assert!(FIXTURES.iter().any(|fixture| fixture.name == name), "no fixture {name}");
    Path::new(env!("CARGO_MANIFEST_DIR")).join("c").join(name)
}

/// What a fixture prints when it runs without arguments on this machine.
///
/// # Panics
/// Where there is no such fixture, or its `expected.txt` can't be read.
pub fn expected_output(name: &str) -> String {
    let path = source_dir(name).join("expected.txt");
    let expected =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if name == "abi" && !std::is_x86_feature_detected!("avx") {
        let without = "skipped vectors of 256 bits: this processor has no AVX";
        return expected.replace("ok vectors of 256 bits", without);
    }
    expected
}
