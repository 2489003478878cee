//! Whether code keeps frame pointers, by its unwind tables.

use std::borrow::Cow;

use addr2line::gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, LittleEndian, UnwindContext, UnwindSection, X86_64,
};
use object::{Object, ObjectSection, ObjectSymbol};

/// How many functions are looked at.
const ENOUGH: usize = 20_000;

/// The unwind tables' bytes, and where they are.
fn eh_frame_of<'a>(file: &object::read::elf::ElfFile64<'a>) -> Option<(Cow<'a, [u8]>, BaseAddresses)> {
    let section = file.section_by_name(".eh_frame")?;
    let bases = BaseAddresses::default().set_eh_frame(section.address());
    Some((section.uncompressed_data().ok()?, bases))
}

/// Of the functions that a module exports, the share in percent that its unwind
/// tables describe; `None` where it exports none.
pub(crate) fn share_with_tables(data: &[u8]) -> Option<usize> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(data).ok()?;
    let (bytes, bases) = eh_frame_of(&file)?;
    let eh_frame = EhFrame::new(&bytes, LittleEndian);
    let mut described = Vec::new();
    let mut entries = eh_frame.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        if let CieOrFde::Fde(partial) = entry
            && let Ok(fde) = partial.parse(EhFrame::cie_from_offset)
        {
            described.push((fde.initial_address(), fde.end_address()));
        }
    }
    described.sort_unstable();
    let is_described = |at: u64| {
        let next = described.partition_point(|&(start, _)| start <= at);
        next.checked_sub(1).and_then(|n| described.get(n)).is_some_and(|&(_, end)| at < end)
    };
    let is_function = |symbol: &object::read::elf::ElfSymbol64<'_, '_, object::Endianness>| {
        symbol.is_definition() && symbol.kind() == object::SymbolKind::Text && symbol.size() > 0
    };
    let exported: Vec<u64> =
        file.dynamic_symbols().filter(is_function).map(|symbol| symbol.address()).collect();
    let with = exported.iter().filter(|&&at| is_described(at)).count();
    (with * 100).checked_div(exported.len())
}

/// Of the functions with a frame, the share in percent that sets up rbp as its
/// frame pointer; `None` where there is none to ask about.
pub(crate) fn share_with_frame_pointer(data: &[u8]) -> Option<u32> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(data).ok()?;
    let (bytes, bases) = eh_frame_of(&file)?;
    let eh_frame = EhFrame::new(&bytes, LittleEndian);
    let mut context = UnwindContext::new();
    let (mut with_frame, mut with_pointer) = (0u32, 0u32);
    let mut entries = eh_frame.entries(&bases);
    for _ in 0..ENOUGH {
        let Ok(Some(entry)) = entries.next() else { break };
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(EhFrame::cie_from_offset) else { continue };
        let Ok(mut rows) = fde.rows(&eh_frame, &bases, &mut context) else { continue };
        let (mut frame, mut pointer) = (false, false);
        while let Ok(Some(row)) = rows.next_row() {
            if let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() {
                frame |= register != X86_64::RSP || offset > 16;
                pointer |= register == X86_64::RBP && offset == 16;
            }
        }
        with_frame += u32::from(frame || pointer);
        with_pointer += u32::from(pointer);
    }
    (with_pointer * 100).checked_div(with_frame)
}
