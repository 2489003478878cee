//! What the loader mapped: a module's dynamic section, symbols and relocations,
//! read from its own memory.
#![allow(unsafe_code)]

mod lookup;

pub(crate) use lookup::{Definition, Version, Wanted};

use std::ffi::CStr;

/// Relocation types that put a function's address somewhere (psABI 4.4).
pub(crate) const R_64: u32 = 1;
pub(crate) const R_GLOB_DAT: u32 = 6;
pub(crate) const R_JUMP_SLOT: u32 = 7;

const DT_NULL: i64 = 0;
const DT_PLTRELSZ: i64 = 2;
const DT_HASH: i64 = 4;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_RPATH: i64 = 15;
const DT_SYMBOLIC: i64 = 16;
const DT_PLTREL: i64 = 20;
const DT_TEXTREL: i64 = 22;
const DT_JMPREL: i64 = 23;
const DT_RUNPATH: i64 = 29;
const DT_FLAGS: i64 = 30;
const DT_GNU_HASH: i64 = 0x6fff_fef5;
const DT_VERSYM: i64 = 0x6fff_fff0;
const DT_FLAGS_1: i64 = 0x6fff_fffb;
const DT_VERDEF: i64 = 0x6fff_fffc;
const DT_VERNEED: i64 = 0x6fff_fffe;
const DF_SYMBOLIC: u64 = 2;
const DF_TEXTREL: u64 = 4;
const DF_1_NODEFLIB: u64 = 0x800;

const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const SHN_UNDEF: u16 = 0;

#[repr(C)]
#[derive(Clone, Copy)]
struct Dyn {
    tag: i64,
    value: u64,
}
#[repr(C)]
#[derive(Clone, Copy)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}
#[repr(C)]
#[derive(Clone, Copy)]
struct Rela {
    offset: u64,
    info: u64,
    addend: i64,
}

/// The dynamic section of a loaded module, as addresses in this process.
///
/// What it says is trusted: the loader has acted on it already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dynamic {
    /// Where the section itself is.
    pub(crate) address: u64,
    bias: u64,
    strings: u64,
    symbols: u64,
    gnu_hash: u64,
    hash: u64,
    versions: u64,
    defined_versions: u64,
    needed_versions: u64,
    relocations: [(u64, u64); 2],
    /// Whether it names directories for the libraries that it opens.
    pub(crate) has_runpath: bool,
    pub(crate) has_rpath: bool,
    /// Whether what it opens by name isn't searched for where it usually is.
    pub(crate) skips_defaults: bool,
    /// Whether its own definitions come first for itself (`-Bsymbolic`).
    pub(crate) is_symbolic: bool,
    /// Whether places are relocated that aren't meant to be written to.
    has_textrel: bool,
}

/// A place that the loader fills with the address of the function that a name
/// means: another module's, or the module's own if nobody comes before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Import {
    pub(crate) slot: u64,
    pub(crate) kind: u32,
    pub(crate) name: &'static CStr,
    /// The symbol's place in the symbol table.
    index: u64,
}

impl Dynamic {
    /// # Safety
    /// `address` is that of the dynamic section of a module that stays loaded
    /// for as long as the value is used, moved by `bias`.
    pub(crate) unsafe fn at(address: u64, bias: u64) -> Dynamic {
        let mut dynamic = Dynamic { address, bias, ..Dynamic::default() };
        let (mut jump, mut jump_bytes, mut rela, mut rela_bytes, mut plt_is_rela) = (0, 0, 0, 0, true);
        // glibc has added the bias to these entries, except where the section
        // is read-only. They are near the section itself, as loaded or as the file
        // states it; and the bias may be negative.
        let stated = address.wrapping_sub(bias);
        let moved = |value: u64| {
            let is_stated = value.abs_diff(stated) < value.abs_diff(address);
            if is_stated { value.wrapping_add(bias) } else { value }
        };
        let mut at = address as *const Dyn;
        loop {
            // SAFETY: the caller's promise, up to the entry that ends it.
            let entry = unsafe { at.read_unaligned() };
            match entry.tag {
                DT_NULL => break,
                DT_STRTAB => dynamic.strings = moved(entry.value),
                DT_SYMTAB => dynamic.symbols = moved(entry.value),
                DT_GNU_HASH => dynamic.gnu_hash = moved(entry.value),
                DT_HASH => dynamic.hash = moved(entry.value),
                DT_VERSYM => dynamic.versions = moved(entry.value),
                DT_VERDEF => dynamic.defined_versions = moved(entry.value),
                DT_VERNEED => dynamic.needed_versions = moved(entry.value),
                DT_JMPREL => jump = moved(entry.value),
                DT_PLTRELSZ => jump_bytes = entry.value,
                DT_PLTREL => plt_is_rela = entry.value == DT_RELA as u64,
                DT_RELA => rela = moved(entry.value),
                DT_RELASZ => rela_bytes = entry.value,
                DT_RUNPATH => dynamic.has_runpath = true,
                DT_RPATH => dynamic.has_rpath = true,
                DT_SYMBOLIC => dynamic.is_symbolic = true,
                DT_TEXTREL => dynamic.has_textrel = true,
                DT_FLAGS => {
                    dynamic.is_symbolic |= entry.value & DF_SYMBOLIC != 0;
                    dynamic.has_textrel |= entry.value & DF_TEXTREL != 0;
                }
                DT_FLAGS_1 => dynamic.skips_defaults = entry.value & DF_1_NODEFLIB != 0,
                _ => {}
            }
            // SAFETY: the entry that ends the section is still to come.
            at = unsafe { at.add(1) };
        }
        if plt_is_rela {
            dynamic.relocations[0] = (jump, jump_bytes);
        }
        dynamic.relocations[1] = (rela, rela_bytes);
        dynamic
    }

    fn symbol(&self, index: u64) -> Option<Symbol> {
        if self.symbols == 0 {
            return None;
        }
        let at = (self.symbols as *const Symbol).wrapping_add(index as usize);
        // SAFETY: relocations and hash tables name symbols that exist.
        Some(unsafe { at.read_unaligned() })
    }

    fn name(&self, symbol: &Symbol) -> &'static CStr {
        self.string(symbol.name)
    }

    fn string(&self, offset: u32) -> &'static CStr {
        if self.strings == 0 {
            return c"";
        }
        let at = (self.strings as *const libc::c_char).wrapping_add(offset as usize);
        // SAFETY: the string table ends in a zero. The name outlives every use
        // that is made of it, which ends with the module (see `at`).
        unsafe { CStr::from_ptr(at) }
    }

    /// The `i`th word of a table.
    fn word(&self, table: u64, i: u64) -> u32 {
        // SAFETY: the table is the module's, and `i` is within it by its layout.
        unsafe { (table as *const u32).wrapping_add(i as usize).read_unaligned() }
    }

    /// The `i`th half word of a table.
    fn half(&self, table: u64, i: u64) -> u16 {
        // SAFETY: as above.
        unsafe { (table as *const u16).wrapping_add(i as usize).read_unaligned() }
    }

    /// Every place where the address of a function is put that is found by name.
    pub(crate) fn imports(&self) -> impl Iterator<Item = Import> + '_ {
        self.relocations.iter().flat_map(move |&(at, bytes)| {
            let count = if at == 0 { 0 } else { bytes as usize / size_of::<Rela>() };
            (0..count).filter_map(move |i| {
                let rela = (at as *const Rela).wrapping_add(i);
                // SAFETY: the dynamic section says that it is there.
                let rela = unsafe { rela.read_unaligned() };
                self.import(rela)
            })
        })
    }

    fn import(&self, rela: Rela) -> Option<Import> {
        let kind = rela.info as u32;
        if !matches!(kind, R_64 | R_GLOB_DAT | R_JUMP_SLOT) || (kind == R_64 && rela.addend != 0) {
            return None;
        }
        // A word in a table may be in code, or among constants.
        if kind == R_64 && self.has_textrel {
            return None;
        }
        let index = rela.info >> 32;
        let symbol = self.symbol(index)?;
        if !matches!(symbol.info & 0xf, STT_NOTYPE | STT_FUNC | STT_GNU_IFUNC) {
            return None;
        }
        let name = self.name(&symbol);
        let slot = rela.offset.wrapping_add(self.bias);
        (!name.is_empty()).then_some(Import { slot, kind, name, index })
    }

    /// Where this module jumps on to functions of others, in so far as that is
    /// the functions' address for the whole process: so it is in an executable
    /// that is linked for a fixed place. Sorted.
    pub(crate) fn stand_ins(&self) -> Vec<u64> {
        if self.bias != 0 {
            return Vec::new();
        }
        let symbols = (1..self.symbol_count()).filter_map(|index| self.symbol(index));
        let stands_in = |symbol: &Symbol| {
            symbol.section == SHN_UNDEF && symbol.value != 0 && symbol.info & 0xf == STT_FUNC
        };
        let mut found: Vec<u64> = symbols.filter(stands_in).map(|symbol| symbol.value).collect();
        found.sort_unstable();
        found
    }
}
