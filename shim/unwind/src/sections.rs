#![allow(unsafe_code)]
//! Where a loaded module's unwind information is, read from its own memory.

use crate::module::Section;
use gimli::{BaseAddresses, EhFrameHdr, LittleEndian};
use std::ops::Range;
use std::sync::Arc;

/// The unwind sections of a loaded module; for the fields of the same names in
/// [`ModuleDesc`](crate::ModuleDesc).
#[derive(Clone, Debug, Default)]
pub struct UnwindSections {
    /// The stated address of `.eh_frame_hdr`.
    pub eh_frame_hdr_svma: u64,
    /// Its bytes.
    pub eh_frame_hdr: Section,
    /// The stated address of `.eh_frame`.
    pub eh_frame_svma: u64,
    /// Its bytes, to the end of its segment at most.
    pub eh_frame: Section,
}

/// Finds a module's unwind sections: `hdr_svma` is what its `PT_GNU_EH_FRAME`
/// says, `loads_svma` are its readable `PT_LOAD` segments, all as stated
/// addresses. `None` where the header is missing, damaged, of an encoding that
/// can't be searched, or points outside the segments: the module then has no
/// unwind information. With `copy` the sections are copied (for a module that
/// may be unloaded), which allocates.
///
/// # Safety
/// The bytes of `loads_svma`, moved by `bias`, are mapped and readable and
/// don't change during the call; without `copy`, for the life of the process.
pub unsafe fn sections_of(
    bias: u64,
    hdr_svma: Range<u64>,
    loads_svma: &[Range<u64>],
    copy: bool,
) -> Option<UnwindSections> {
    let segment_end = |svma: u64| loads_svma.iter().find(|l| l.contains(&svma)).map(|l| l.end);
    let hdr_end = hdr_svma.end.min(segment_end(hdr_svma.start)?);
    // SAFETY: the range lies in one of `loads_svma`, which the caller vouches for.
    let hdr = unsafe { bytes(bias, hdr_svma.start..hdr_end)? };
    let bases = BaseAddresses::default().set_eh_frame_hdr(hdr_svma.start);
    let parsed = EhFrameHdr::new(hdr, LittleEndian).parse(&bases, 8).ok()?;
    parsed.table()?;
    let eh_frame_svma = parsed.eh_frame_ptr().direct().ok()?;
    // SAFETY: the range lies in one of `loads_svma`.
    let eh_frame = unsafe { bytes(bias, eh_frame_svma..segment_end(eh_frame_svma)?)? };
    let section = |bytes: &'static [u8]| match copy {
        true => Section::Owned(Arc::from(bytes)),
        false => Section::InPlace(bytes),
    };
    // What follows the terminator isn't worth a copy; in place it costs nothing.
    let eh_frame = if copy { eh_frame.get(..terminated(eh_frame))? } else { eh_frame };
    Some(UnwindSections {
        eh_frame_hdr_svma: hdr_svma.start,
        eh_frame_hdr: section(hdr),
        eh_frame_svma,
        eh_frame: section(eh_frame),
    })
}

/// # Safety
/// The range, moved by `bias`, is readable and unchanging for as long as the result is used.
unsafe fn bytes(bias: u64, svma: Range<u64>) -> Option<&'static [u8]> {
    let len = usize::try_from(svma.end.checked_sub(svma.start)?).ok()?;
    let start = usize::try_from(svma.start.wrapping_add(bias)).ok()?;
    if len == 0 || len > isize::MAX as usize || start == 0 {
        return None;
    }
    let start = std::ptr::with_exposed_provenance::<u8>(start);
    // SAFETY: the caller's promise, for `len` bytes at an address that isn't null.
    Some(unsafe { std::slice::from_raw_parts(start, len) })
}

/// The length of `.eh_frame` up to and with its terminator; all of it where
/// there is none.
fn terminated(eh_frame: &[u8]) -> usize {
    let mut at = 0usize;
    while let Some(word) = eh_frame.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let (header, length) = match u32::from_le_bytes(*word) {
            0 => return at.saturating_add(4),
            u32::MAX => match eh_frame.get(at.saturating_add(4)..).and_then(|r| r.first_chunk::<8>()) {
                Some(long) => (12, u64::from_le_bytes(*long)),
                None => break,
            },
            length => (4, u64::from(length)),
        };
        let Ok(length) = usize::try_from(length) else { break };
        at = at.saturating_add(header).saturating_add(length);
    }
    eh_frame.len()
}
