//! The functions that symbol tables name.

use object::elf;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol};

use super::Elf;

#[derive(Clone, Copy, Debug)]
struct Symbol {
    address: u64,
    /// One past the last address that the symbol may name.
    end: u64,
    /// Lower is preferred among symbols at the same address.
    rank: u8,
    name: &'static [u8],
}

/// Symbols by address.
#[derive(Debug, Default)]
pub(crate) struct SymbolTable {
    symbols: Vec<Symbol>,
}

/// How many symbols before an address are tried for one that contains it:
/// functions hardly ever nest, and a table can be made of nothing but overlaps.
const LOOK_BACK: usize = 64;

/// Executable sections that are looked at for each symbol; a linked file has a
/// handful.
const SECTIONS_MAX: usize = 1024;

impl SymbolTable {
    /// Adds what `file` has in its static and its dynamic symbol table.
    pub(crate) fn add(&mut self, file: &Elf) {
        let text = code_ranges(file);
        for symbol in file.symbols().chain(file.dynamic_symbols()) {
            let raw = symbol.elf_symbol();
            let kind = raw.st_type();
            let is_code = matches!(kind, elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_NOTYPE);
            if !is_code || symbol.is_undefined() {
                continue;
            }
            let address = symbol.address();
            let Some(&(_, section_end)) = text.iter().find(|(start, end)| (*start..*end).contains(&address))
            else {
                continue;
            };
            let Ok(name) = symbol.name_bytes() else { continue };
            // `pthread_create@@GLIBC_2.34` is the version's business.
            let name = name.split(|&b| b == b'@').next().unwrap_or_default();
            if name.is_empty() || is_local_label(name) {
                continue;
            }
            let end = match symbol.size() {
                // Assembly without `.size`: up to the next symbol, see `finish`.
                0 => 0,
                size => address.saturating_add(size).min(section_end),
            };
            let rank = rank(raw.st_bind(), kind, name);
            self.symbols.push(Symbol { address, end, rank, name });
            if end == 0 {
                // The section's end is where guessing stops.
                self.symbols.push(Symbol {
                    address: section_end,
                    end: section_end,
                    rank: u8::MAX,
                    name: b"",
                });
            }
        }
    }

    /// Sorts what was added; look-ups come after.
    pub(crate) fn finish(&mut self) {
        self.symbols.sort_unstable_by(|a, b| {
            (a.address, a.rank, a.name.len(), a.name).cmp(&(b.address, b.rank, b.name.len(), b.name))
        });
        self.symbols.dedup_by_key(|s| (s.address, s.end, s.name));
        let mut next_address = u64::MAX;
        let mut at = u64::MAX;
        for symbol in self.symbols.iter_mut().rev() {
            if symbol.address != at {
                next_address = at;
                at = symbol.address;
            }
            if symbol.end == 0 {
                symbol.end = next_address;
            }
        }
    }

    /// The name of the function that contains `address`. An address behind the
    /// end of the nearest symbol has no name: better none than a stranger's.
    pub(crate) fn find(&self, address: u64) -> Option<&'static [u8]> {
        let after = self.symbols.partition_point(|s| s.address <= address);
        let mut best: Option<&Symbol> = None;
        for symbol in self.symbols[..after].iter().rev().take(LOOK_BACK) {
            if best.is_some_and(|b| b.address != symbol.address) {
                break;
            }
            if address < symbol.end {
                // Walking back, so that the preferred of an address comes last.
                best = Some(symbol);
            }
        }
        best.map(|s| s.name)
    }
}

fn code_ranges(file: &ElfFile64<'static>) -> Vec<(u64, u64)> {
    let executable = |section: &object::read::elf::ElfSection64<'_, '_>| {
        let object::SectionFlags::Elf { sh_flags, .. } = section.flags() else { return false };
        sh_flags.contains(elf::SHF_EXECINSTR)
    };
    let range =
        |s: object::read::elf::ElfSection64<'_, '_>| (s.address(), s.address().saturating_add(s.size()));
    file.sections().filter(executable).map(range).take(SECTIONS_MAX).collect()
}

/// Labels that assemblers and compilers leave behind, and mapping symbols.
fn is_local_label(name: &[u8]) -> bool {
    name.starts_with(b".L") || name.starts_with(b"$")
}

/// What people call a function by: the exported name before the internal one.
fn rank(bind: elf::SymbolBind, kind: elf::SymbolType, name: &[u8]) -> u8 {
    let bind = match bind {
        elf::STB_GLOBAL => 0,
        elf::STB_WEAK => 1,
        _ => 2,
    };
    let underscores = name.iter().take_while(|&&b| b == b'_').count().min(3) as u8;
    u8::from(kind == elf::STT_NOTYPE) * 64 + bind * 8 + underscores
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(symbols: &[(u64, u64, u8, &'static str)]) -> SymbolTable {
        let symbols = symbols
            .iter()
            .map(|&(address, size, rank, name)| Symbol {
                address,
                end: if size == 0 { 0 } else { address + size },
                rank,
                name: name.as_bytes(),
            })
            .collect();
        let mut table = SymbolTable { symbols };
        table.finish();
        table
    }

    #[test]
    fn an_address_outside_every_symbol_has_no_name() {
        let t = table(&[(0x10, 0x10, 0, "a"), (0x40, 0x10, 0, "b")]);
        assert_eq!(t.find(0x0f), None);
        assert_eq!(t.find(0x1f), Some(&b"a"[..]));
        assert_eq!(t.find(0x20), None);
        assert_eq!(t.find(0x4f), Some(&b"b"[..]));
        assert_eq!(t.find(0x50), None);
    }

    #[test]
    fn aliases_nesting_and_missing_sizes() {
        let t = table(&[
            (0x10, 0x20, 10, "local"),
            (0x10, 0x20, 0, "exported"),
            (0x18, 4, 0, "inner"),
            (0x40, 0, 0, "asm"),
            (0x48, 8, 0, "next"),
        ]);
        assert_eq!(t.find(0x10), Some(&b"exported"[..]));
        assert_eq!(t.find(0x19), Some(&b"inner"[..]));
        assert_eq!(t.find(0x1c), Some(&b"exported"[..]));
        assert_eq!(t.find(0x47), Some(&b"asm"[..]));
        assert_eq!(t.find(0x4f), Some(&b"next"[..]));
    }
}
