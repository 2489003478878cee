//! A module's file, read as the loader and the shim read it: by its dynamic
//! segment, for that is what is in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use object::elf::{self, FileHeader64, ProgramHeader64, Rela64, Sym64};
use object::read::elf::{Dyn, FileHeader, GnuHashTable, ProgramHeader, Rela, Sym, VersionTable};
use object::{Endianness, Object, ObjectSymbol, ReadRef, StringTable, SymbolIndex, SymbolKind};
use traceshim_ring::choice::{self, INTERPRETER, Side};
use traceshim_ring::env::Config;

use crate::symbols::{Elf, contents};

type Header = FileHeader64<Endianness>;

/// A place that the loader fills with the address of another module's function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// Called through the PLT; bound at the first call or at the start.
    Plt,
    /// Called, or its address taken, through the GOT.
    Got,
    /// A pointer in the module's data: a table of functions.
    Pointer,
}

impl Slot {
    /// What the psABI calls the relocation.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Slot::Plt => "JUMP_SLOT",
            Slot::Got => "GLOB_DAT",
            Slot::Pointer => "R_X86_64_64",
        }
    }
}

/// A function of another module that this one has a slot for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Import {
    pub(crate) name: &'static [u8],
    pub(crate) version: Option<&'static [u8]>,
    pub(crate) slot: Slot,
}

/// A function that a module exports.
#[derive(Clone, Copy, Debug)]
struct Export {
    version: Option<&'static [u8]>,
    /// Found by those only who ask for its version.
    hidden: bool,
}

/// A module of a program that doesn't run yet.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) path: PathBuf,
    pub(crate) side: Side,
    /// Where its names are looked up: the numbers of modules, in order.
    pub(crate) scope: Rc<[usize]>,
    pub(crate) imports: Vec<Import>,
    exports: HashMap<&'static [u8], Vec<Export>>,
    /// Names of the libraries that it is linked with.
    pub(crate) needed: Vec<&'static [u8]>,
    /// Whether its own functions come first for itself (`-Bsymbolic`).
    pub(crate) is_symbolic: bool,
    /// Whether it has unwind tables.
    pub(crate) has_unwind_tables: bool,
    /// The file.
    pub(crate) data: &'static [u8],
}

impl Module {
    /// Reads the file at `path`. `None`: not a 64-bit ELF file with a dynamic
    /// segment that makes sense.
    pub(crate) fn open(path: &Path) -> Option<Module> {
        let data = contents(path)?;
        let header = Header::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let headers = header.program_headers(endian, data).ok()?;
        let segments = Segments { data, endian, header, headers };
        let has_unwind_tables = segments.any(elf::PT_GNU_EH_FRAME);
        let tables = Tables::read(&segments);
        let tables = tables.unwrap_or_default();
        Some(Module {
            path: path.to_owned(),
            side: Side::CSide,
            scope: Rc::default(),
            imports: tables.imports(endian),
            exports: tables.exports(endian),
            needed: tables.needed,
            is_symbolic: tables.is_symbolic,
            has_unwind_tables,
            data,
        })
    }

    /// Decides whose side it is on, as the shim does.
    pub(crate) fn choose_side(&mut self, config: &Config, first: bool, is_shim: bool) {
        use std::os::unix::ffi::OsStrExt;
        let is_interpreter = || self.exports(INTERPRETER.to_bytes());
        self.side = match is_shim {
            true => Side::Untouchable,
            false => Side::of(config, self.path.as_os_str().as_bytes(), first, is_interpreter),
        };
    }

    /// Whether the loader finds in it what a slot is for.
    pub(crate) fn defines(&self, import: &Import) -> bool {
        let fits = |export: &Export| match (import.version, export.version) {
            (Some(wanted), Some(has)) => wanted == has,
            (_, _) => !export.hidden,
        };
        self.exports.get(import.name).is_some_and(|all| all.iter().any(fits))
    }

    /// Whether it exports a function of this name.
    pub(crate) fn exports(&self, name: &[u8]) -> bool {
        self.exports.contains_key(name)
    }

    /// The names of the functions that it exports, sorted.
    pub(crate) fn functions(&self) -> Vec<&'static [u8]> {
        let mut names: Vec<_> = self.exports.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// Everything that its symbol tables call a function, exported or not.
    pub(crate) fn named_functions(&self) -> Vec<&'static [u8]> {
        let Ok(elf) = Elf::parse(self.data) else { return Vec::new() };
        let all = elf.symbols().chain(elf.dynamic_symbols());
        let defined = all.filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text);
        defined.filter_map(|symbol| symbol.name_bytes().ok()).collect()
    }

    /// Whether it has a slot for this function.
    pub(crate) fn imports(&self, name: &[u8]) -> bool {
        self.imports.iter().any(|import| import.name == name)
    }

    /// The name of its file, for people.
    pub(crate) fn file_name(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        String::from_utf8_lossy(choice::file_name(self.path.as_os_str().as_bytes())).into_owned()
    }
}

fn may_be_function(symbol: &Sym64<Endianness>) -> bool {
    matches!(symbol.st_type(), elf::STT_NOTYPE | elf::STT_FUNC | elf::STT_GNU_IFUNC)
}

/// The parts of a file that are mapped.
struct Segments {
    data: &'static [u8],
    endian: Endianness,
    header: &'static Header,
    headers: &'static [ProgramHeader64<Endianness>],
}

impl Segments {
    fn any(&self, kind: elf::ProgramType) -> bool {
        self.headers.iter().any(|segment| segment.p_type(self.endian) == kind)
    }

    /// What will be at an address, up to the end of its segment in the file.
    fn at(&self, address: u64) -> Option<&'static [u8]> {
        self.headers.iter().filter(|segment| segment.p_type(self.endian) == elf::PT_LOAD).find_map(
            |segment| {
                let bytes = segment.data(self.endian, self.data).ok()?;
                let offset = address.checked_sub(segment.p_vaddr(self.endian))?;
                bytes.get(usize::try_from(offset).ok()?..).filter(|bytes| !bytes.is_empty())
            },
        )
    }

    /// So many values at an address, as far as there are.
    fn slice<T: object::Pod>(&self, address: u64, count: u64) -> &'static [T] {
        let bytes = self.at(address).unwrap_or_default();
        let count = (bytes.len() / size_of::<T>()).min(usize::try_from(count).unwrap_or(0));
        bytes.read_slice_at(0, count).unwrap_or_default()
    }
}

/// What the dynamic segment leads to.
#[derive(Default)]
struct Tables {
    symbols: &'static [Sym64<Endianness>],
    /// Behind this many of them there is none that is exported.
    exported: usize,
    strings: StringTable<'static>,
    versions: VersionTable<'static, Header>,
    relocations: [&'static [Rela64<Endianness>]; 2],
    needed: Vec<&'static [u8]>,
    is_symbolic: bool,
    /// Whether places are relocated that aren't meant to be written to; a word
    /// in a table may be one, and the shim leaves it alone.
    has_textrel: bool,
}

impl Tables {
    fn read(segments: &Segments) -> Option<Tables> {
        let endian = segments.endian;
        let dynamic =
            segments.headers.iter().find_map(|s| s.dynamic(endian, segments.data).ok().flatten())?;
        let entries: Vec<(elf::DynamicTag, u64)> = dynamic
            .iter()
            .map(|entry| (entry.tag(endian), entry.val(endian)))
            .take_while(|(tag, _)| *tag != elf::DT_NULL)
            .collect();
        let get = |tag| entries.iter().find(|(t, _)| *t == tag).map(|(_, value)| *value);
        let string_bytes = segments.at(get(elf::DT_STRTAB)?)?;
        let string_bytes = string_bytes.get(..get(elf::DT_STRSZ)? as usize).unwrap_or(string_bytes);
        let strings = StringTable::new(string_bytes, 0, string_bytes.len() as u64);
        let string = |offset| strings.get(u32::try_from(offset).ok()?).ok();

        let gnu = get(elf::DT_GNU_HASH).and_then(|at| segments.at(at));
        let gnu = gnu.and_then(|bytes| GnuHashTable::<Header>::parse(endian, bytes).ok());
        let hashed = gnu.as_ref().map(|g| g.symbol_table_length(endian).unwrap_or(g.symbol_base()));
        let sysv = || {
            let words = segments.slice::<object::U32<Endianness>>(get(elf::DT_HASH)?, 2);
            words.get(1).map(|chains| chains.get(endian))
        };
        // What is not exported need not be in the table that tells how many
        // there are.
        let symbols = segments.slice(get(elf::DT_SYMTAB)?, u64::MAX);

        // The parser takes these by their sections. A file without them has
        // slots that ask for no version, as far as this goes.
        let sections = segments.header.sections(endian, segments.data).ok();
        let versions = sections.and_then(|all| all.versions(endian, segments.data).ok().flatten());
        let relocations = |at, bytes| {
            let count = get(bytes).unwrap_or(0) / size_of::<Rela64<Endianness>>() as u64;
            get(at).map_or(&[][..], |at| segments.slice(at, count))
        };
        let plt_is_rela = get(elf::DT_PLTREL).is_none_or(|kind| kind == elf::DT_RELA.0 as u64);
        let jump = if plt_is_rela { relocations(elf::DT_JMPREL, elf::DT_PLTRELSZ) } else { &[] };
        let flag = |tag, bit: u64| get(tag).is_some_and(|flags| flags & bit != 0);
        let needed = entries.iter().filter(|(tag, _)| *tag == elf::DT_NEEDED);
        Some(Tables {
            symbols,
            exported: hashed.or_else(sysv).unwrap_or(0) as usize,
            strings,
            versions: versions.unwrap_or_default(),
            relocations: [jump, relocations(elf::DT_RELA, elf::DT_RELASZ)],
            needed: needed.filter_map(|(_, at)| string(*at)).collect(),
            is_symbolic: get(elf::DT_SYMBOLIC).is_some() || flag(elf::DT_FLAGS, elf::DF_SYMBOLIC.0),
            has_textrel: get(elf::DT_TEXTREL).is_some() || flag(elf::DT_FLAGS, elf::DF_TEXTREL.0),
        })
    }

    fn version(&self, endian: Endianness, index: usize) -> (Option<&'static [u8]>, bool) {
        let version = self.versions.version_index(endian, SymbolIndex(index));
        let name = self.versions.version(version.index()).ok().flatten().map(|version| version.name());
        (name, version.is_hidden())
    }

    fn imports(&self, endian: Endianness) -> Vec<Import> {
        let import = |rela: &Rela64<Endianness>| {
            let slot = match elf::RelocationType(rela.r_type(endian, false).0) {
                elf::R_X86_64_JUMP_SLOT => Slot::Plt,
                elf::R_X86_64_GLOB_DAT => Slot::Got,
                elf::R_X86_64_64 if rela.r_addend(endian) == 0 && !self.has_textrel => Slot::Pointer,
                _ => return None,
            };
            let index = rela.r_sym(endian, false) as usize;
            let symbol = self.symbols.get(index)?;
            let name = symbol.name(endian, self.strings).ok().filter(|name| !name.is_empty())?;
            let version = self.version(endian, index).0;
            may_be_function(symbol).then_some(Import { name, version, slot })
        };
        self.relocations.iter().flat_map(|table| table.iter()).filter_map(import).collect()
    }

    fn exports(&self, endian: Endianness) -> HashMap<&'static [u8], Vec<Export>> {
        let mut exports: HashMap<_, Vec<Export>> = HashMap::new();
        for (index, symbol) in self.symbols.iter().enumerate().take(self.exported) {
            let is_bound = matches!(symbol.st_bind(), elf::STB_GLOBAL | elf::STB_WEAK | elf::STB_GNU_UNIQUE);
            let Ok(name) = symbol.name(endian, self.strings) else { continue };
            let is_function = matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_GNU_IFUNC);
            if symbol.st_shndx(endian) == elf::SHN_UNDEF || !is_bound || !is_function || name.is_empty() {
                continue;
            }
            let (version, hidden) = self.version(endian, index);
            exports.entry(name).or_default().push(Export { version, hidden });
        }
        exports
    }
}
