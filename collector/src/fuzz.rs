//! What a fuzzer tries: everything that reads what others have written.
//!
//! A target must neither panic nor hang, and must need no more memory than a
//! small multiple of its input. `scripts/fuzz.sh` runs them under libFuzzer; the
//! test below replays `collector/fuzz/corpus`, in which each finding has left
//! the input that showed it.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use object::{Object, ObjectSection};
use traceshim_ring::stamp::FileStamp;

use crate::cli;
use crate::doctor;
use crate::launch::{Drainer, SessionDir};
use crate::symbols::{self, Identity, PerfMap, SymbolOptions, Symbolizer};

/// A name, and what is tried with the bytes that a fuzzer makes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("ring", ring),
    ("drain", drain),
    ("trace", trace),
    ("symbols", symbols),
    ("debugdata", debugdata),
    ("perf_map", perf_map),
    ("demangle", demangle),
    ("launch", launch),
];

/// Every way to look at an input.
const LOOKS: [&[&str]; 4] = [
    &["dump", "--depth", "40"],
    &["dump", "--format", "json", "--time", "delta", "--function", "a*", "--min-duration", "1us"],
    &["stats"],
    &["stats", "--format", "json", "--module", "*", "--origin", "c,main"],
];

fn look_at(path: &Path) {
    for look in LOOKS {
        let [command, options @ ..] = look else { continue };
        let words = ["collector", command, "--no-symbols", "-o", "/dev/null"];
        let words = words.iter().chain(options).map(OsStr::new).chain([path.as_os_str()]);
        let _ = cli::run_line(words);
    }
}

/// A ring that was left by somebody.
fn ring(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.1.ring");
    std::fs::write(&path, bytes).expect("a file");
    look_at(&path);
}

/// A trace, whose checksums a fuzzer needn't know.
fn trace(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("trace");
    std::fs::write(&path, bytes).expect("a file");
    look_at(&path);
}

/// A ring that its program ruins while it is drained: how many changes, the
/// changes (a word's place and its value; behind the end: the file's new
/// length), the ring.
fn drain(bytes: &[u8]) {
    const CHANGE_BYTES: usize = 10;
    let Some((&count, rest)) = bytes.split_first() else { return };
    let Some((changes, ring)) = rest.split_at_checked(usize::from(count) * CHANGE_BYTES) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.1.ring");
    std::fs::write(&path, ring).expect("a file");
    let file = File::options().write(true).open(&path).expect("the file");
    let session = SessionDir::at(dir.path().to_owned());
    let mut trace = Vec::new();
    let mut drainer = Drainer::new(&mut trace).expect("a trace");
    for change in changes.as_chunks::<CHANGE_BYTES>().0 {
        let _ = drainer.poll(&session);
        let (at, value) = change.split_at(2);
        let at = u64::from(u16::from_le_bytes([at[0], at[1]])) * 8;
        let _ = match at < ring.len() as u64 {
            true => file.write_at(value, at).map(drop),
            false => file.set_len(u64::from_le_bytes(change[2..].try_into().unwrap_or_default()) % (1 << 20)),
        };
    }
    let _ = drainer.finish(&session);
    drop(drainer);
    let path = dir.path().join("trace");
    std::fs::write(&path, trace).expect("a file");
    look_at(&path);
}

/// A module and the files that may belong to it: the sizes of these, then the
/// module, then they.
fn symbols(bytes: &[u8]) {
    const OTHERS: [&str; 4] = ["module.debug", "module.alt", "module.dwo", "module.dwp"];
    let Some((sizes, mut rest)) = bytes.split_at_checked(2 * OTHERS.len()) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    for (name, size) in OTHERS.into_iter().zip(sizes.as_chunks::<2>().0) {
        let at = rest.len().saturating_sub(usize::from(u16::from_le_bytes(*size)));
        if at < rest.len() {
            std::fs::write(dir.path().join(name), &rest[at..]).expect("a file");
            rest = &rest[..at];
        }
    }
    let path = dir.path().join("module");
    std::fs::write(&path, rest).expect("a file");
    let options = SymbolOptions {
        enabled: true,
        demangle: true,
        inlines: true,
        debug_dirs: vec![dir.path().to_owned()],
    };
    let mut symbolizer = Symbolizer::new(options);
    let mut places = vec![0, 0x1000, u64::MAX];
    if let Ok(elf) = object::File::parse(rest) {
        places.extend(
            elf.sections().take(16).flat_map(|s| [s.address(), s.address().wrapping_add(s.size() / 2)]),
        );
        places.push(elf.entry());
    }
    let file = FileStamp::from(&path.metadata().expect("it is there"));
    for address in places {
        symbolizer.find(path.as_os_str().as_bytes(), Identity { build_id: b"", file }, address);
    }
}

/// The compressed symbols of a stripped module.
fn debugdata(bytes: &[u8]) {
    symbols::expand(bytes);
}

/// What a JIT compiler leaves in `/tmp`.
fn perf_map(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("map");
    std::fs::write(&path, bytes).expect("a file");
    let uid = path.metadata().expect("it is there").uid();
    let map = PerfMap::read(&path, uid, 0).unwrap_or_default();
    for address in [0, 1, 0x1000, 0x7fff_0000_0000, u64::MAX] {
        map.find(address);
    }
}

/// A symbol's name.
fn demangle(bytes: &[u8]) {
    let name = symbols::name(bytes, true);
    assert!(name.len() <= 64 * bytes.len() + 64, "a name that grows to {} bytes", name.len());
}

/// A program that is to be recorded, or a library of one.
fn launch(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("program");
    std::fs::write(&path, bytes).expect("a file");
    std::fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("our own file");
    doctor::look_at(&path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_survived() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let mut files = 0;
            for entry in std::fs::read_dir(corpus.join(name)).expect(name) {
                let path = entry.expect(name).path();
                eprintln!("{}", path.display());
                target(&std::fs::read(&path).expect(name));
                files += 1;
            }
            assert!(files > 0, "{name}: an empty corpus");
        }
    }
}
