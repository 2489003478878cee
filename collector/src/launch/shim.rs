//! Where the shim is, and how it gets into a program.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The library's file name.
const LIBRARY: &str = "libtraceshim.so";
/// Names another library than the one beside this program.
const OVERRIDE: &str = "TRACESHIM_LIBRARY";

/// Where a build and an installation put the library, from where this program is.
const PLACES: [&str; 4] = [".", "deps", "../lib", "../lib/traceshim"];

/// The library to preload.
pub(crate) fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(OVERRIDE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return path.canonicalize().with_context(|| format!("{OVERRIDE}={}", path.display()));
    }
    let exe = std::env::current_exe().context("where this program is")?;
    let dir = exe.parent().unwrap_or(Path::new("/"));
    let found = PLACES.iter().find_map(|place| dir.join(place).join(LIBRARY).canonicalize().ok());
    match found {
        Some(path) => Ok(path),
        None => bail!("{LIBRARY}: not found beside {} nor in ../lib; {OVERRIDE} can name it", exe.display()),
    }
}

/// The value of `LD_PRELOAD` that loads `library` before what is there.
pub(crate) fn preload(library: &Path, present: Option<OsString>) -> Result<OsString> {
    // The loader splits at both, and knows no way to quote them.
    if library.as_os_str().as_bytes().iter().any(|b| b" :".contains(b)) {
        bail!(
            "{}: a path with a space or a colon can't be preloaded; {OVERRIDE} can name a link to it",
            library.display()
        );
    }
    let mut value = library.as_os_str().to_owned();
    if let Some(present) = present.filter(|present| !present.is_empty()) {
        value.push(OsStr::new(":"));
        value.push(present);
    }
    Ok(value)
}

/// Names options of AddressSanitizer's runtime.
pub(crate) const SANITIZER_OPTIONS: &str = "ASAN_OPTIONS";

/// Those with which a program that has that runtime starts behind a preloaded
/// library: it wants to be first, which only matters to libraries that allocate
/// in the program's name. What the user asks for stays.
pub(crate) fn sanitizer_options(present: Option<OsString>) -> OsString {
    const LINK_ORDER: &[u8] = b"verify_asan_link_order=";
    let mut value = present.unwrap_or_default();
    if !value.as_bytes().windows(LINK_ORDER.len()).any(|part| part == LINK_ORDER) {
        if !value.is_empty() {
            value.push(":");
        }
        value.push("verify_asan_link_order=0");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_sanitizer_are_kept() {
        assert_eq!(sanitizer_options(None), "verify_asan_link_order=0");
        assert_eq!(sanitizer_options(Some("a=1:b=2".into())), "a=1:b=2:verify_asan_link_order=0");
        let asked = "verify_asan_link_order=1";
        assert_eq!(sanitizer_options(Some(asked.into())), asked);
    }

    #[test]
    fn what_is_preloaded_already_stays() {
        let library = Path::new("/lib/x.so");
        assert_eq!(preload(library, None).unwrap(), "/lib/x.so");
        assert_eq!(preload(library, Some("".into())).unwrap(), "/lib/x.so");
        assert_eq!(preload(library, Some("a.so b.so".into())).unwrap(), "/lib/x.so:a.so b.so");
        assert!(preload(Path::new("/a b/x.so"), None).is_err());
    }
}
