//! From an address in a module's file to functions, files and lines.
//!
//! A module's file is opened once, checked against the build id that the shim
//! saw in memory, and joined with whatever else names its addresses: separate
//! debug files, dwz supplements, split DWARF, `.gnu_debugdata`.

mod debug_file;
mod debugdata;
mod demangle;
mod dwarf;
mod file;
mod image;
mod metered;
mod perf_map;
mod symtab;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[cfg(any(fuzzing, test))]
pub(crate) use debugdata::expand;
pub(crate) use demangle::{name, utf8};
pub(crate) use file::contents;
pub(crate) use image::Identity;
use image::{Image, ImageError};
pub(crate) use perf_map::PerfMap;
use traceshim_ring::stamp::FileStamp;

/// The only kind of file that the shim can be loaded beside.
pub(crate) type Elf = object::read::elf::ElfFile64<'static>;

/// A place in the source, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Site {
    /// The function's name.
    pub(crate) function: Option<String>,
    /// The source file.
    pub(crate) file: Option<String>,
    /// The line in it.
    pub(crate) line: Option<u32>,
    /// Whether the function was inlined into the next site's.
    pub(crate) inlined: bool,
}

/// No name of a real program is longer; a forged one would be kept for each frame.
const NAME_BYTES: usize = 64 << 10;

impl Site {
    fn shorten(&mut self) {
        for name in [&mut self.function, &mut self.file].into_iter().flatten() {
            if name.len() > NAME_BYTES {
                name.truncate(name.floor_char_boundary(NAME_BYTES));
                name.push('…');
                name.shrink_to_fit();
            }
        }
    }
}

/// What the user asks of symbols.
#[derive(Clone, Debug)]
pub(crate) struct SymbolOptions {
    /// Whether to look anything up.
    pub(crate) enabled: bool,
    /// Whether names are demangled.
    pub(crate) demangle: bool,
    /// Whether inlined functions get frames of their own.
    pub(crate) inlines: bool,
    /// Where to look for debug files before the system's directory.
    pub(crate) debug_dirs: Vec<PathBuf>,
}

/// A module: its path, and what tells its file from others.
type Key = (Vec<u8>, Vec<u8>, FileStamp);

/// Names addresses of any number of modules.
pub(crate) struct Symbolizer {
    options: SymbolOptions,
    images: HashMap<Key, Option<Image>>,
    /// Each path as it was written, and where it leads.
    paths: HashMap<Vec<u8>, Vec<u8>>,
    warnings: Vec<String>,
}

impl Symbolizer {
    /// One that has opened nothing yet.
    pub(crate) fn new(options: SymbolOptions) -> Symbolizer {
        Symbolizer { options, images: HashMap::new(), paths: HashMap::new(), warnings: Vec::new() }
    }

    /// What the user asked for.
    pub(crate) fn options(&self) -> &SymbolOptions {
        &self.options
    }

    /// The functions at `address` of the module at `path`, innermost first;
    /// empty where nothing is known. `address` is what the file calls it (the
    /// address in memory minus the load bias).
    pub(crate) fn find(&mut self, path: &[u8], traced: Identity<'_>, address: u64) -> Vec<Site> {
        if !self.options.enabled || path.first() != Some(&b'/') {
            return Vec::new();
        }
        // A file has one image, whatever ways there are to write its path.
        if !self.paths.contains_key(path) {
            let real = Path::new(OsStr::from_bytes(path)).canonicalize();
            let real = real.map_or_else(|_| path.to_vec(), |real| real.into_os_string().into_vec());
            self.paths.insert(path.to_vec(), real);
        }
        let real = self.paths.get(path).map_or(path, Vec::as_slice);
        let key = (real.to_vec(), traced.build_id.to_vec(), traced.file);
        let (options, warnings) = (&self.options, &mut self.warnings);
        let path = Path::new(OsStr::from_bytes(path));
        let mut warn = |error| warnings.push(format!("{}: {error}", path.display()));
        let image = self.images.entry(key).or_insert_with(|| {
            match unharmed(|| Image::open(path, traced, &options.debug_dirs)).flatten() {
                Ok(image) => Some(image),
                Err(error) => {
                    warn(error);
                    None
                }
            }
        });
        if image.as_mut().is_some_and(Image::gives_up) {
            warn(ImageError::Costly);
        }
        let Some(found) = image.as_ref().map(|image| unharmed(|| image.find(address, options.demangle)))
        else {
            return Vec::new();
        };
        let mut sites = found.unwrap_or_else(|error| {
            *image = None;
            warn(error);
            Vec::new()
        });
        sites.iter_mut().for_each(Site::shorten);
        if !options.inlines {
            sites.drain(..sites.len().saturating_sub(1));
        }
        sites
    }

    /// What went wrong since the last call, for stderr.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}

/// Files on disk may hold anything, and be changed at any time. What the parsers
/// report as an error is one; a fault in a parser, and a file that got shorter
/// and was read as zeros there, cost the module's names only.
fn unharmed<T>(read: impl FnOnce() -> T) -> Result<T, ImageError> {
    let faults = traceshim_ring::guard::faults();
    let result = catch_unwind(AssertUnwindSafe(read)).map_err(|_| ImageError::NotElf)?;
    if traceshim_ring::guard::faults() == faults { Ok(result) } else { Err(ImageError::Cut) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbolizer() -> Symbolizer {
        Symbolizer::new(SymbolOptions {
            enabled: true,
            demangle: true,
            inlines: true,
            debug_dirs: Vec::new(),
        })
    }

    fn this_test() -> (Vec<u8>, u64) {
        use object::{Object, ObjectSymbol};
        let path = std::env::current_exe().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let wanted =
            |s: &object::Symbol<'_, '_>| s.name().is_ok_and(|n| n.contains("a_function_that_names_itself"));
        let address = file.symbols().find(wanted).unwrap().address();
        (path.as_os_str().as_bytes().to_vec(), address)
    }

    /// A module without a build id whose file is still the one that was loaded.
    fn as_it_is(path: &[u8]) -> Identity<'static> {
        let file = FileStamp::from(&Path::new(OsStr::from_bytes(path)).metadata().unwrap());
        Identity { build_id: b"", file }
    }

    #[inline(never)]
    fn a_function_that_names_itself() -> u32 {
        std::hint::black_box(line!())
    }

    #[test]
    fn names_files_and_lines_come_from_the_file() {
        let line = a_function_that_names_itself();
        let (path, address) = this_test();
        let sites = symbolizer().find(&path, as_it_is(&path), address);
        let site = sites.last().unwrap();
        assert!(site.function.as_deref().unwrap().ends_with("a_function_that_names_itself"));
        assert!(site.file.as_deref().unwrap().ends_with("mod.rs"));
        assert!(site.line.unwrap().abs_diff(line) <= 2);
        assert!(!site.inlined);
    }

    #[test]
    fn names_have_an_end() {
        let mut site = Site { function: Some("ä".repeat(1 << 20)), ..Site::default() };
        site.shorten();
        assert!(site.function.is_some_and(|name| name.len() <= NAME_BYTES + 3 && name.ends_with('…')));
    }

    #[test]
    fn another_build_id_means_no_names_and_one_warning() {
        let (path, address) = this_test();
        let mut s = symbolizer();
        let other = Identity { build_id: b"\x01\x02", ..as_it_is(&path) };
        assert_eq!(s.find(&path, other, address), []);
        assert_eq!(s.find(&path, other, address + 1), []);
        let warnings = s.take_warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("build id"));
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_read_costs_its_names() {
        let (path, address) = this_test();
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        std::fs::copy(OsStr::from_bytes(&path), &copy).unwrap();
        let mut s = symbolizer();
        let copy_path = copy.as_os_str().as_bytes();
        let traced = as_it_is(copy_path);
        assert!(!s.find(copy_path, traced, address).is_empty());
        std::fs::File::options().write(true).open(&copy).unwrap().set_len(4096).unwrap();
        assert_eq!(s.find(copy_path, traced, address), []);
        assert_eq!(s.find(copy_path, traced, address), []);
        let warnings = s.take_warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("got shorter"));
    }

    #[test]
    fn debug_information_that_refers_to_itself_is_given_up() {
        for name in ["all-units-share-a-table", "tables-overlap"] {
            let input =
                std::fs::read(format!("{}/fuzz/corpus/symbols/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("module");
            // Behind the sizes of four other files, of which there are none.
            std::fs::write(&path, &input[8..]).unwrap();
            let path = path.as_os_str().as_bytes();
            let mut s = symbolizer();
            for address in [0x1000, 0x1001] {
                assert_eq!(s.find(path, as_it_is(path), address), []);
            }
            let warnings = s.take_warnings();
            assert!(warnings.len() == 1 && warnings[0].contains("refers to itself"), "{name}: {warnings:?}");
        }
    }

    #[test]
    fn damaged_files_cost_names_and_nothing_else() {
        let exe = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let head = &exe[..exe.len().min(1 << 20)];
        for (n, cut) in [0, 1, 63, 64, 1000, 4096, head.len()].into_iter().enumerate() {
            let path = dir.path().join(format!("cut{n}"));
            std::fs::write(&path, &head[..cut]).unwrap();
            let path = path.as_os_str().as_bytes();
            symbolizer().find(path, as_it_is(path), 0x1000);
        }
    }
}
