//! The shim's own calls of libc go to libc, whoever stands before it.
//!
//! A sanitizer's runtime, a program or another preloaded library may define
//! `fstat` or `mmap`, and the loader then gives us theirs: before they have
//! begun, with their locks, their counting, their idea of who calls. So our own
//! slots are bound once more, by hand, to libc's definitions, before anything
//! else is done.
#![allow(unsafe_code)]

use crate::arch;
use crate::elf::{Dynamic, Wanted};
use crate::slots;
use std::ffi::CStr;

/// Memory that libc gets from the program's allocator goes back to that one.
const ALLOCATOR: [&CStr; 3] = [c"free", c"malloc", c"realloc"];

unsafe extern "C" {
    #[link_name = "__ehdr_start"]
    static OUR_HEADER: libc::Elf64_Ehdr;
}

/// Binds our slots. No function is called for it that anybody could define.
pub(crate) fn bind(ours: &Dynamic, libc: &Dynamic) {
    let (start, end) = read_only();
    let protect = |access| start == end || arch::protect(start, end - start, access);
    if !protect(libc::PROT_READ | libc::PROT_WRITE) {
        return;
    }
    for import in ours.imports().filter(|import| !ALLOCATOR.contains(&import.name)) {
        let Some(own) = libc.find(import.name, Wanted::Reference(ours.version_of(&import))) else { continue };
        // SAFETY: one of our own slots, which is mapped.
        let bound = unsafe { slots::read(import.slot) };
        let address = own.function();
        if bound != address {
            // SAFETY: the slot is writable, and the function is what the slot was
            // meant for.
            let _ = unsafe { slots::write(import.slot, address, false) };
        }
    }
    protect(libc::PROT_READ);
}

/// The pages of ours that the loader made read-only after it had bound them.
fn read_only() -> (u64, u64) {
    const PAGE: u64 = 4096;
    // SAFETY: the linker's symbol for what our library's first page begins with.
    let header = unsafe { &OUR_HEADER };
    let base = (&raw const *header).expose_provenance() as u64;
    let first = (base + header.e_phoff) as *const libc::Elf64_Phdr;
    for i in 0..usize::from(header.e_phnum) {
        // SAFETY: the program headers are mapped with the first page, as many as
        // the header says.
        let segment = unsafe { first.wrapping_add(i).read_unaligned() };
        if segment.p_type == libc::PT_GNU_RELRO {
            let from = base + segment.p_vaddr;
            // Whole pages only, as the loader does.
            return (from & !(PAGE - 1), (from + segment.p_memsz) & !(PAGE - 1));
        }
    }
    (0, 0)
}
