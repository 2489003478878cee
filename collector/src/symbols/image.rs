//! One module's file on disk, with everything that names its addresses.

use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};
use traceshim_ring::stamp::FileStamp;

use super::debug_file::{self, DebugFile};
use super::dwarf::Dwarf;
use super::symtab::SymbolTable;
use super::{Elf, Site, debugdata, demangle, file};

/// Why a module's addresses stay without names.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ImageError {
    #[error("the file is missing or can't be read; its frames stay unnamed")]
    Unreadable,
    #[error("the file got shorter while it was read; its frames stay unnamed")]
    Cut,
    #[error("not a 64-bit ELF file that can be parsed; its frames stay unnamed")]
    NotElf,
    #[error("the file has another build id than the module that was traced; its frames stay unnamed")]
    OtherBuild,
    #[error(
        "the file has no build id, and was changed or replaced since it was traced; its frames stay unnamed"
    )]
    OtherFile,
    #[error(
        "neither a build id nor the trace tells whether the file is the one that was traced; its frames stay unnamed"
    )]
    Unidentified,
    #[error("its debug information refers to itself without end; its frames have no files and lines")]
    Costly,
}

/// What is known of the file that was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity<'a> {
    /// Its build id; empty where it has none.
    pub(crate) build_id: &'a [u8],
    /// The file, where that is so.
    pub(crate) file: FileStamp,
}

/// A module's symbols and debug information.
pub(crate) struct Image {
    symbols: SymbolTable,
    dwarf: Option<Dwarf>,
}

impl Image {
    /// Opens the file of a module, and what belongs to it. One that isn't known
    /// to be the one that was loaded is refused: no name beats a wrong name.
    pub(crate) fn open(
        path: &Path,
        traced: Identity<'_>,
        debug_dirs: &[PathBuf],
    ) -> Result<Image, ImageError> {
        let (bytes, stamp) = file::open(path).ok_or(ImageError::Unreadable)?;
        let elf = Elf::parse(bytes).map_err(|_| ImageError::NotElf)?;
        let on_disk = elf.build_id().ok().flatten().unwrap_or_default();
        match traced {
            Identity { build_id: [], file } if !file.is_known() => return Err(ImageError::Unidentified),
            Identity { build_id: [], file } if file != stamp => return Err(ImageError::OtherFile),
            Identity { build_id: [], .. } => {}
            Identity { build_id, .. } if build_id != on_disk => return Err(ImageError::OtherBuild),
            Identity { .. } => {}
        }

        let mut symbols = SymbolTable::default();
        symbols.add(&elf);
        let own = has_dwarf(&elf);
        let separate = if own { None } else { debug_file::find(&elf, path, debug_dirs) };
        if let Some(DebugFile { elf, .. }) = &separate {
            symbols.add(elf);
        } else if let Some(mini) = elf.section_by_name(".gnu_debugdata")
            && let Some(expanded) = mini.data().ok().and_then(debugdata::expand)
            && let Ok(mini) = Elf::parse(expanded)
        {
            symbols.add(&mini);
        }
        symbols.finish();

        let (debug, debug_path) = match &separate {
            Some(found) => (&found.elf, found.path.as_path()),
            None => (&elf, path),
        };
        let dwarf = has_dwarf(debug).then(|| {
            let supplement = debug_file::find_supplement(debug, debug_path, debug_dirs);
            Dwarf::load(debug, path, supplement.as_ref())
        });
        Ok(Image { symbols, dwarf: dwarf.flatten() })
    }

    /// Whether the debug information costs more than it can be worth: then it is
    /// dropped, and symbols are what remains.
    pub(crate) fn gives_up(&mut self) -> bool {
        self.dwarf.take_if(|dwarf| dwarf.is_exhausted()).is_some()
    }

    /// The functions at `address` (as the file numbers them), innermost first.
    pub(crate) fn find(&self, address: u64, demangled: bool) -> Vec<Site> {
        let mut sites = self.dwarf.as_ref().map(|d| d.find(address, demangled)).unwrap_or_default();
        if let Some(raw) = self.symbols.find(address) {
            // DWARF often has only `f` where the symbol has `ns::f(int)`.
            let name = Some(demangle::name(raw, demangled));
            match sites.last_mut() {
                Some(outermost) => outermost.function = name,
                None => sites.push(Site { function: name, ..Site::default() }),
            }
        }
        sites
    }
}

fn has_dwarf(elf: &Elf) -> bool {
    let filled = |name| elf.section_by_name(name).is_some_and(|s| s.file_range().is_some());
    filled(".debug_info") || filled(".zdebug_info") || filled(".debug_line")
}
