//! What the loader mapped: a module's dynamic section, symbols and relocations,
//! read from its own memory.
#![allow(unsafe_code)]

use std::ffi::CStr;

/// Relocation types that put a function's address somewhere (psABI 4.4).
pub(crate) const R_64: u32 = 1;
pub(crate) const R_GLOB_DAT: u32 = 6;
pub(crate) const R_JUMP_SLOT: u32 = 7;

const DT_NULL: i64 = 0;
const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_RPATH: i64 = 15;
const DT_PLTREL: i64 = 20;
const DT_JMPREL: i64 = 23;
const DT_RUNPATH: i64 = 29;
const DT_GNU_HASH: i64 = 0x6fff_fef5;

const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
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
    bias: u64,
    strings: u64,
    symbols: u64,
    gnu_hash: u64,
    relocations: [(u64, u64); 2],
    /// Whether it names directories for the libraries that it opens.
    pub(crate) has_runpath: bool,
    pub(crate) has_rpath: bool,
}

/// A place that the loader fills with the address of a function defined in
/// another module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Import {
    pub(crate) slot: u64,
    pub(crate) kind: u32,
    pub(crate) name: &'static CStr,
}

impl Dynamic {
    /// # Safety
    /// `address` is that of the dynamic section of a module that stays loaded
    /// for as long as the value is used, moved by `bias`.
    pub(crate) unsafe fn at(address: u64, bias: u64) -> Dynamic {
        let mut dynamic = Dynamic { bias, ..Dynamic::default() };
        let (mut jump, mut jump_bytes, mut rela, mut rela_bytes, mut plt_is_rela) = (0, 0, 0, 0, true);
        // glibc has added the bias to these entries, except where the section
        // is read-only.
        let moved = |value: u64| if value < bias { value.wrapping_add(bias) } else { value };
        let mut at = address as *const Dyn;
        loop {
            // SAFETY: the caller's promise, up to the entry that ends it.
            let entry = unsafe { at.read_unaligned() };
            match entry.tag {
                DT_NULL => break,
                DT_STRTAB => dynamic.strings = moved(entry.value),
                DT_SYMTAB => dynamic.symbols = moved(entry.value),
                DT_GNU_HASH => dynamic.gnu_hash = moved(entry.value),
                DT_JMPREL => jump = moved(entry.value),
                DT_PLTRELSZ => jump_bytes = entry.value,
                DT_PLTREL => plt_is_rela = entry.value == DT_RELA as u64,
                DT_RELA => rela = moved(entry.value),
                DT_RELASZ => rela_bytes = entry.value,
                DT_RUNPATH => dynamic.has_runpath = true,
                DT_RPATH => dynamic.has_rpath = true,
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
        if self.strings == 0 {
            return c"";
        }
        let at = (self.strings as *const libc::c_char).wrapping_add(symbol.name as usize);
        // SAFETY: the string table ends in a zero. The name outlives every use
        // that is made of it, which ends with the module (see `at`).
        unsafe { CStr::from_ptr(at) }
    }

    /// Every place where a foreign function's address is put.
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
        let symbol = self.symbol(rela.info >> 32)?;
        if symbol.section != SHN_UNDEF || !matches!(symbol.info & 0xf, STT_NOTYPE | STT_FUNC) {
            return None;
        }
        let name = self.name(&symbol);
        let slot = rela.offset.wrapping_add(self.bias);
        (!name.is_empty()).then_some(Import { slot, kind, name })
    }

    /// The address of the function that this module exports under `name`,
    /// through its GNU hash table.
    pub(crate) fn export(&self, name: &CStr) -> Option<u64> {
        if self.gnu_hash == 0 {
            return None;
        }
        let word = |i: u64| {
            let at = (self.gnu_hash as *const u32).wrapping_add(i as usize);
            // SAFETY: within the hash table, by its own layout.
            unsafe { at.read() }
        };
        let (buckets, first, bloom_words, shift) =
            (u64::from(word(0)), u64::from(word(1)), u64::from(word(2)), word(3));
        if buckets == 0 || bloom_words == 0 {
            return None;
        }
        let hash =
            name.to_bytes().iter().fold(5381u32, |h, &b| h.wrapping_mul(33).wrapping_add(u32::from(b)));
        let place = 4 + (u64::from(hash) / 64 % bloom_words) * 2;
        let bloom = u64::from(word(place)) | u64::from(word(place + 1)) << 32;
        let both = 1u64 << (hash % 64) | 1u64 << ((hash >> shift.min(31)) % 64);
        if bloom & both != both {
            return None;
        }
        let bucket_base = 4 + bloom_words * 2;
        let mut index = u64::from(word(bucket_base + u64::from(hash) % buckets));
        if index < first {
            return None;
        }
        loop {
            let chain = word(bucket_base + buckets + index - first);
            if chain | 1 == hash | 1 {
                let symbol = self.symbol(index)?;
                if symbol.section != SHN_UNDEF && symbol.info & 0xf == STT_FUNC && self.name(&symbol) == name
                {
                    return Some(symbol.value.wrapping_add(self.bias));
                }
            }
            if chain & 1 != 0 {
                return None;
            }
            index += 1;
        }
    }
}

impl Dynamic {
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

    /// How many symbols there are, which only the hash table tells: one more
    /// than the last that a chain ends with.
    fn symbol_count(&self) -> u64 {
        if self.gnu_hash == 0 {
            return 0;
        }
        let word = |i: u64| {
            let at = (self.gnu_hash as *const u32).wrapping_add(i as usize);
            // SAFETY: within the hash table, by its own layout.
            u64::from(unsafe { at.read() })
        };
        let (buckets, first, bloom_words) = (word(0), word(1), word(2));
        let bucket_base = 4 + bloom_words * 2;
        let last = (0..buckets).map(|i| word(bucket_base + i)).max().unwrap_or(0);
        if last < first {
            return first;
        }
        let chains = bucket_base + buckets;
        let length = (0..).find(|i| word(chains + last - first + i) & 1 != 0).unwrap_or(0);
        last + length + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_dlsym_finds() {
        let mut found = 0;
        use findshlibs::{Segment as _, SharedLibrary as _};
        findshlibs::TargetSharedLibrary::each(|library| {
            let bias = library.virtual_memory_bias().0 as u64;
            for segment in library.segments() {
                if segment.name() == "DYNAMIC" && library.name().to_string_lossy().contains("libc.so") {
                    let address = segment.stated_virtual_memory_address().0 as u64 + bias;
                    // SAFETY: libc stays loaded.
                    let dynamic = unsafe { Dynamic::at(address, bias) };
                    for name in [c"pthread_create", c"qsort", c"getpid", c"dlopen"] {
                        // SAFETY: a C string.
                        let expected = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) } as u64;
                        assert!(dynamic.export(name).is_some() && expected != 0, "{name:?}");
                        found += 1;
                    }
                    assert_eq!(dynamic.export(c"no_such_function_anywhere"), None);
                }
            }
        });
        assert_eq!(found, 4);
    }
}
