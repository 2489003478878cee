//! Writing a function's address into another module's slot.
#![allow(unsafe_code)]

use std::io::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: u64 = 4096;

/// What a slot holds.
///
/// # Safety
/// `slot` is mapped and readable for eight bytes.
pub(crate) unsafe fn read(slot: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { (slot as *const u64).read_unaligned() }
}

/// Puts `value` into a slot, also into one that the loader made read-only.
///
/// # Safety
/// `slot` is a slot of a loaded module, and `value` does for its callers what
/// the value before it did.
pub(crate) unsafe fn write(slot: u64, value: u64, read_only: bool) -> Result<()> {
    let start = slot & !(PAGE - 1);
    let bytes = ((slot + 8).next_multiple_of(PAGE) - start) as usize;
    let protect = |access: i32| {
        // SAFETY: pages of a loaded module; read access stays.
        match unsafe { libc::mprotect(start as *mut libc::c_void, bytes, access) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    };
    if read_only {
        protect(libc::PROT_READ | libc::PROT_WRITE)?;
    }
    if slot.is_multiple_of(8) {
        // Other threads may be calling through it at this moment.
        // SAFETY: aligned, mapped and writable.
        unsafe { AtomicU64::from_ptr(slot as *mut u64) }.store(value, Ordering::Release);
    } else {
        // SAFETY: mapped and writable; a packed table of function pointers.
        unsafe { (slot as *mut u64).write_unaligned(value) };
    }
    if read_only { protect(libc::PROT_READ) } else { Ok(()) }
}
