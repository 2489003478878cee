//! Where the debug information of a stripped module lies.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::Object;

use super::{Elf, file};

/// Where distributions install separate debug files.
const SYSTEM_DEBUG_DIR: &str = "/usr/lib/debug";

/// A file beside the module and the path where it was found.
pub(crate) struct DebugFile {
    pub(crate) elf: Elf,
    pub(crate) path: PathBuf,
}

/// The directories that are searched, in order.
fn roots(extra: &[PathBuf]) -> impl Iterator<Item = PathBuf> + '_ {
    extra.iter().cloned().chain([PathBuf::from(SYSTEM_DEBUG_DIR)])
}

/// The separate debug file of `module`, by its build id or its debug link.
pub(crate) fn find(module: &Elf, path: &Path, extra: &[PathBuf]) -> Option<DebugFile> {
    let build_id = module.build_id().ok().flatten();
    by_build_id(build_id, extra).or_else(|| by_link(module, path, extra))
}

/// More than any debug file of a real program has.
const SIZE_CAP_BYTES: u64 = 8 << 30;

/// The dwz supplement that `debug` refers to.
pub(crate) fn find_supplement(debug: &Elf, path: &Path, extra: &[PathBuf]) -> Option<Elf> {
    let (name, build_id) = debug.gnu_debugaltlink().ok().flatten()?;
    let name = Path::new(OsStr::from_bytes(name));
    let beside = path.canonicalize().ok()?.parent()?.join(name);
    open_with_id(&beside, build_id).or_else(|| by_build_id(Some(build_id), extra)).map(|found| found.elf)
}

fn by_build_id(build_id: Option<&[u8]>, extra: &[PathBuf]) -> Option<DebugFile> {
    let build_id = build_id?;
    let (first, rest) = build_id.split_first()?;
    let hex: String = rest.iter().map(|b| format!("{b:02x}")).collect();
    let tail = format!("{first:02x}/{hex}.debug");
    roots(extra)
        .flat_map(|root| [root.join(".build-id").join(&tail), root.join(&tail)])
        .find_map(|candidate| open_with_id(&candidate, build_id))
}

fn by_link(module: &Elf, path: &Path, extra: &[PathBuf]) -> Option<DebugFile> {
    let (name, crc) = module.gnu_debuglink().ok().flatten()?;
    let name = Path::new(OsStr::from_bytes(name));
    // A link is a bare file name; anything else is not followed.
    if name.components().count() != 1 || name.file_name() != Some(name.as_os_str()) {
        return None;
    }
    let real = path.canonicalize().ok()?;
    let dir = real.parent()?;
    let build_id = module.build_id().ok().flatten();
    [dir.join(name), dir.join(".debug").join(name)]
        .into_iter()
        .chain(roots(extra).flat_map(|root| {
            let below = root.join(dir.strip_prefix("/").unwrap_or(dir)).join(name);
            [below, root.join(name)]
        }))
        .filter(|candidate| *candidate != real)
        .find_map(|candidate| match build_id {
            Some(id) => open_with_id(&candidate, id),
            None => open(&candidate, |bytes| crc32fast::hash(bytes) == crc),
        })
}

fn open_with_id(path: &Path, build_id: &[u8]) -> Option<DebugFile> {
    open(path, |_| true).filter(|f| f.elf.build_id().ok().flatten() == Some(build_id))
}

fn open(path: &Path, check: impl Fn(&[u8]) -> bool) -> Option<DebugFile> {
    let bytes = file::contents(path)?;
    let elf = Elf::parse(bytes).ok()?;
    (bytes.len() as u64 <= SIZE_CAP_BYTES && check(bytes)).then_some(())?;
    Some(DebugFile { elf, path: path.to_owned() })
}
