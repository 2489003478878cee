//! A module's file: the functions that it names, and the code as it was built.
#![allow(unsafe_code)]

use memmap2::Mmap;
use object::elf::{PF_R, PT_LOAD, ProgramHeader64, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE};
use object::read::elf::{ElfFile64, ElfSymbol64};
use object::{LittleEndian, Object as _, ObjectSegment as _, ObjectSymbol as _};
use std::fs::File;
use std::io::Result;
use std::path::Path;

/// A symbol that may be a function. Addresses are as the file states them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function<'a> {
    pub(super) svma: u64,
    /// 0 where the file doesn't say.
    pub(super) size: u64,
    pub(super) name: &'a [u8],
    pub(super) kind: Kind,
}

/// What the symbol's type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Function,
    /// The function is another one, which this one chooses.
    Chooser,
    /// A label of hand-written assembly, as a rule.
    Untyped,
}

pub(super) struct Image<'a> {
    file: ElfFile64<'a, LittleEndian>,
}

/// Maps the file. The loader has mapped it too, so that this depends on nothing
/// that the program doesn't depend on.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the mapping is private and only read. Whoever cuts or overwrites
    // the file of running code breaks the program, too.
    unsafe { Mmap::map(&file) }
}

impl<'a> Image<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Image<'a>> {
        ElfFile64::parse(bytes).ok().map(|file| Image { file })
    }

    /// Everything in the symbol tables that may be a function, by address.
    pub(super) fn functions(&self) -> Vec<Function<'a>> {
        let symbols = self.file.symbols().chain(self.file.dynamic_symbols());
        let mut found: Vec<Function<'a>> = symbols.filter_map(|symbol| function(&symbol)).collect();
        found.sort_unstable_by_key(|function| (function.svma, function.name));
        found.dedup_by_key(|function| (function.svma, function.name));
        found
    }

    /// How many bytes that may be read there are from an address on, as far as its
    /// segment goes.
    pub(super) fn readable(&self, svma: u64) -> Option<u64> {
        let endian = LittleEndian;
        let headers = self.file.elf_program_headers().iter();
        let readable = |header: &&ProgramHeader64<LittleEndian>| {
            header.p_type.get(endian) == PT_LOAD && (header.p_flags.get(endian) & PF_R).0 != 0
        };
        headers.filter(readable).find_map(|header| {
            let behind = svma.checked_sub(header.p_vaddr.get(endian))?;
            header.p_memsz.get(endian).checked_sub(behind).filter(|&bytes| bytes > 0)
        })
    }

    /// Code as the file has it.
    pub(super) fn code(&self, svma: u64, len: u64) -> Option<&'a [u8]> {
        self.file.segments().find_map(|segment| segment.data_range(svma, len).ok().flatten())
    }
}

fn function<'a>(symbol: &ElfSymbol64<'a, '_, LittleEndian>) -> Option<Function<'a>> {
    let kind = match symbol.elf_symbol().st_type() {
        STT_FUNC => Kind::Function,
        STT_GNU_IFUNC => Kind::Chooser,
        STT_NOTYPE => Kind::Untyped,
        _ => return None,
    };
    let name = symbol.name_bytes().ok()?;
    let defined = symbol.section_index().is_some() && !name.is_empty();
    defined.then(|| Function { svma: symbol.address(), size: symbol.size(), name, kind })
}
