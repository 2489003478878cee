//! Finding a name among what a module exports, as the loader would: through
//! either kind of hash table, and by version.
#![allow(unsafe_code)]

use super::{Dynamic, Import, SHN_UNDEF, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, Symbol};
use std::ffi::CStr;

const STB_LOCAL: u8 = 0;
/// In a symbol's version: not the one that a name without a version means.
const HIDDEN: u16 = 0x8000;
/// Version numbers up to here say that a symbol has none; the next one is the
/// first that the module defined.
const UNVERSIONED: u16 = 1;
const VER_FLG_BASE: u16 = 1;

/// A version that a reference asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version {
    pub(crate) name: &'static CStr,
    /// Whether a definition without any version will not do.
    pub(crate) strict: bool,
}

/// Which definition of a name is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// What a reference with this version is bound to, or without one.
    Reference(Option<Version>),
    /// What `dlsym` finds.
    Newest,
}

/// A function that a module exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    address: u64,
    /// It is at `address` that the loader asks where the function is.
    is_indirect: bool,
}

impl Definition {
    /// Where the function is. An indirect one's resolver is called, as the loader
    /// does for each slot, and lazily wherever a call happens to be.
    pub(crate) fn function(self) -> u64 {
        if !self.is_indirect {
            return self.address;
        }
        // SAFETY: such a symbol is at a function of this type, in a module that
        // is relocated.
        let resolver: extern "C" fn() -> u64 = unsafe { std::mem::transmute(self.address as usize) };
        resolver()
    }
}

impl Dynamic {
    /// What the loader finds in this module.
    pub(crate) fn find(&self, name: &CStr, wanted: Wanted) -> Option<Definition> {
        let (mut default, mut defaults) = (None, 0);
        // Without a version: the oldest one that there was, for programs that were
        // linked before the module had versions; with `dlsym` none of them.
        let unversioned = if matches!(wanted, Wanted::Newest) { UNVERSIONED } else { UNVERSIONED + 1 };
        for (index, symbol) in self.definitions(name) {
            let found = Some(self.definition(&symbol));
            let Some(version) = self.version_number(index) else { return found };
            let (number, hidden) = (version & !HIDDEN, version & HIDDEN != 0);
            if let Wanted::Reference(Some(asked)) = wanted {
                match self.defined_version(number) {
                    Some(own) if own == asked.name => return found,
                    None if !asked.strict && !hidden => return found,
                    _ => {}
                }
            } else if number <= unversioned {
                return found;
            } else if !hidden {
                default = found;
                defaults += 1;
            }
        }
        default.filter(|_| defaults == 1)
    }

    /// Whether this module exports the function at `address` under `name`, in
    /// whatever version.
    pub(crate) fn exports_at(&self, name: &CStr, address: u64) -> bool {
        self.definitions(name).any(|(_, symbol)| {
            let definition = self.definition(&symbol);
            // Only the loader knows what an indirect function's resolver said.
            definition.is_indirect || definition.address == address
        })
    }

    /// Whether this module exports any function of this name.
    pub(crate) fn exports(&self, name: &CStr) -> bool {
        self.definitions(name).next().is_some()
    }

    /// The version that an import asks for.
    pub(crate) fn version_of(&self, import: &Import) -> Option<Version> {
        let number = self.version_number(import.index)? & !HIDDEN;
        let own = || self.defined_version(number).map(|name| Version { name, strict: false });
        self.needed_version(number).or_else(own)
    }

    fn definition(&self, symbol: &Symbol) -> Definition {
        Definition {
            address: symbol.value.wrapping_add(self.bias),
            is_indirect: symbol.info & 0xf == STT_GNU_IFUNC,
        }
    }

    fn definitions<'a>(&'a self, name: &'a CStr) -> impl Iterator<Item = (u64, Symbol)> + 'a {
        let gnu = (self.gnu_hash != 0).then(|| self.gnu_hashed(name));
        let plain = (self.gnu_hash == 0 && self.hash != 0).then(|| self.hashed(name));
        gnu.into_iter().flatten().chain(plain.into_iter().flatten()).filter_map(move |index| {
            let symbol = self.symbol(index)?;
            let is_defined =
                symbol.section != SHN_UNDEF && symbol.value != 0 && symbol.info >> 4 != STB_LOCAL;
            let is_function = matches!(symbol.info & 0xf, STT_FUNC | STT_NOTYPE | STT_GNU_IFUNC);
            (is_defined && is_function && self.name(&symbol) == name).then_some((index, symbol))
        })
    }

    /// The symbols in the name's chain, by the table of the System V ABI.
    fn hashed(&self, name: &CStr) -> impl Iterator<Item = u64> + '_ {
        let hash = name.to_bytes().iter().fold(0u32, |hash, &byte| {
            let hash = (hash << 4).wrapping_add(u32::from(byte));
            let top = hash & 0xf000_0000;
            (hash ^ top >> 24) & !top
        });
        let word = |i: u64| u64::from(self.word(self.hash, i));
        let (buckets, symbols) = (word(0), word(1));
        let first = if buckets == 0 { 0 } else { word(2 + u64::from(hash) % buckets) };
        let next = move |&index: &u64| Some(word(2 + buckets + index));
        // As many steps as there are symbols: a chain has no more.
        std::iter::successors(Some(first), next).take(symbols as usize).take_while(|&index| index != 0)
    }

    /// The symbols whose names have the same hash, by GNU's table.
    fn gnu_hashed(&self, name: &CStr) -> impl Iterator<Item = u64> + '_ {
        let word = |i: u64| self.word(self.gnu_hash, i);
        let wide = |i: u64| u64::from(word(i));
        let (buckets, first, bloom_words, shift) = (wide(0), wide(1), wide(2), word(3));
        let hash =
            name.to_bytes().iter().fold(5381u32, |h, &b| h.wrapping_mul(33).wrapping_add(u32::from(b)));
        let bucket_base = 4 + bloom_words * 2;
        let start = || {
            let place = 4 + (u64::from(hash) / 64).checked_rem(bloom_words)? * 2;
            let bloom = wide(place) | wide(place + 1) << 32;
            let both = 1u64 << (hash % 64) | 1u64 << ((hash >> shift.min(31)) % 64);
            if bloom & both != both {
                return None;
            }
            let index = wide(bucket_base + u64::from(hash).checked_rem(buckets)?);
            (index >= first).then_some(index)
        };
        let chain = move |index: u64| word(bucket_base + buckets + index - first);
        let next = move |&index: &u64| (chain(index) & 1 == 0).then_some(index + 1);
        std::iter::successors(start(), next).filter(move |&index| chain(index) | 1 == hash | 1)
    }

    /// How many symbols there are, which only the hash table tells; GNU's by the
    /// end of the last chain.
    pub(super) fn symbol_count(&self) -> u64 {
        let word = |table: u64, i: u64| u64::from(self.word(table, i));
        if self.hash != 0 {
            return word(self.hash, 1);
        }
        if self.gnu_hash == 0 {
            return 0;
        }
        let word = |i: u64| word(self.gnu_hash, i);
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

    /// A symbol's version number; `None`: the module has no versions.
    fn version_number(&self, index: u64) -> Option<u16> {
        (self.versions != 0).then(|| self.half(self.versions, index))
    }

    /// The name of a version that the module defines; none for the module's own
    /// name, which has a number, too.
    fn defined_version(&self, number: u16) -> Option<&'static CStr> {
        // Verdef: version, flags, number, count (halves); hash, names, next (words).
        let mut at = self.defined_versions;
        while at != 0 {
            let (flags, own, next) = (self.half(at, 1), self.half(at, 2), self.word(at, 4));
            if own == number {
                let name = self.word(at + u64::from(self.word(at, 3)), 0);
                return (flags & VER_FLG_BASE == 0).then(|| self.string(name));
            }
            at = if next == 0 { 0 } else { at + u64::from(next) };
        }
        None
    }

    /// The version that the module wants of another one under this number.
    fn needed_version(&self, number: u16) -> Option<Version> {
        // Verneed: version, count (halves); file, entries, next (words).
        let mut at = self.needed_versions;
        while at != 0 {
            let mut entry = at + u64::from(self.word(at, 2));
            // Vernaux: hash (word); flags, number (halves); name, next (words).
            for _ in 0..self.half(at, 1) {
                let own = self.half(entry, 3);
                if own & !HIDDEN == number {
                    let name = self.string(self.word(entry, 2));
                    return Some(Version { name, strict: own & HIDDEN != 0 });
                }
                entry += u64::from(self.word(entry, 3));
            }
            let next = self.word(at, 3);
            at = if next == 0 { 0 } else { at + u64::from(next) };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use findshlibs::{Segment as _, SharedLibrary as _};

    fn libc() -> Dynamic {
        let mut found = None;
        findshlibs::TargetSharedLibrary::each(|library| {
            let bias = library.virtual_memory_bias().0 as u64;
            for segment in library.segments() {
                if segment.name() == "DYNAMIC" && library.name().to_string_lossy().contains("libc.so") {
                    let address = segment.stated_virtual_memory_address().0 as u64 + bias;
                    // SAFETY: libc stays loaded.
                    found = Some(unsafe { Dynamic::at(address, bias) });
                }
            }
        });
        found.expect("libc is loaded")
    }

    /// Every function that libc exports, with its versions and the loader's answers.
    fn compare(libc: &Dynamic) {
        let mut compared = 0;
        for index in 1..libc.symbol_count() {
            let symbol = libc.symbol(index).expect("a symbol table");
            let (name, number) = (libc.name(&symbol), libc.version_number(index).expect("versions"));
            let is_function = symbol.info & 0xf == STT_FUNC && symbol.section != SHN_UNDEF;
            let Some(version) = libc.defined_version(number & !HIDDEN).filter(|_| is_function) else {
                continue;
            };
            // SAFETY: C strings.
            let expected =
                unsafe { libc::dlvsym(libc::RTLD_DEFAULT, name.as_ptr(), version.as_ptr()) } as u64;
            let asked = Version { name: version, strict: true };
            let found = libc.find(name, Wanted::Reference(Some(asked))).expect("it is there");
            assert_eq!(found.address, expected, "{name:?}@{version:?}");
            assert!(libc.exports_at(name, expected));
            // SAFETY: a C string.
            let newest = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) } as u64;
            match libc.find(name, Wanted::Newest) {
                Some(found) if found.is_indirect => {}
                found => assert_eq!(found.map_or(0, |found| found.address), newest, "{name:?}"),
            }
            compared += 1;
        }
        assert!(compared > 1000, "{compared} functions");
    }

    #[test]
    fn finds_what_the_loader_finds_by_either_table() {
        let both = libc();
        assert!(both.hash != 0 && both.gnu_hash != 0, "this libc has only one hash table");
        compare(&Dynamic { hash: 0, ..both });
        compare(&Dynamic { gnu_hash: 0, ..both });
        for tables in [both, Dynamic { gnu_hash: 0, ..both }, Dynamic { hash: 0, gnu_hash: 0, ..both }] {
            assert_eq!(tables.find(c"no_such_function_anywhere", Wanted::Newest), None);
        }
    }

    #[test]
    fn a_reference_without_a_version_means_the_first_one() {
        let libc = libc();
        let oldest = |name| libc.find(name, Wanted::Reference(None)).map(|found| found.address);
        let version = Version { name: c"GLIBC_2.2.5", strict: true };
        let first = libc.find(c"memcpy", Wanted::Reference(Some(version))).map(|found| found.address);
        let newest = libc.find(c"memcpy", Wanted::Newest).map(|found| found.address);
        assert_eq!(oldest(c"memcpy"), first);
        assert_ne!(first, newest);
    }
}
