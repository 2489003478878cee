#![allow(unsafe_code)]
//! Finding the unwind sections of what is loaded, and of what only looks so.

#[path = "support/cfi.rs"]
mod cfi;
mod support;

use cfi::*;
use std::ops::Range;
use std::ptr::NonNull;
use std::time::Instant;
use traceshim_unwind::{Capturer, FramePointers, ModuleSet, Section, UnwindSections, sections_of};

#[test]
fn every_module_of_this_process_has_them() {
    let modules = support::modules(FramePointers::Detect);
    let with = modules.iter().filter(|m| !m.eh_frame_hdr.is_empty() && !m.eh_frame.is_empty()).count();
    // The program, libc, libgcc, the loader and the vdso.
    assert!(with >= 4, "{with} of {}", modules.len());
    let start = Instant::now();
    let set = ModuleSet::new(modules, 1);
    println!("a set of {} modules took {:?}", set.modules().len(), start.elapsed());
    let here = every_module_of_this_process_has_them as *const () as u64;
    assert!(set.find(here).is_some());
    assert!(set.find(0).is_none());
}

/// Calls `sections_of` for sections that are laid out in an array like a
/// segment: `.eh_frame_hdr` first, `.eh_frame` 256 bytes on.
fn find(image: &[u8], hdr: Range<u64>, loads: &[Range<u64>], copy: bool) -> Option<UnwindSections> {
    let image: &'static [u8] = Vec::leak(image.to_vec());
    let bias = image.as_ptr().expose_provenance() as u64 - SVMA;
    // SAFETY: the segments given below are within the image, which is never freed.
    unsafe { sections_of(bias, hdr, loads, copy) }
}

const SVMA: u64 = 0x4000;

fn image() -> Vec<u8> {
    let module = Builder::default().function(CODE_SVMA, 64, &[]).module(0, 1);
    let mut image = module.eh_frame_hdr.to_vec();
    // Both sections move; what they say of each other is relative.
    image[4..8].copy_from_slice(&(256u32 - 4).to_le_bytes());
    image.resize(256, 0);
    image.extend(&*module.eh_frame);
    image.extend([0xee; 64]);
    image
}

#[test]
fn sections_are_found_in_place_and_copied() {
    let image = image();
    let (whole, hdr) = (SVMA..SVMA + image.len() as u64, SVMA..SVMA + 20);
    let in_place = find(&image, hdr.clone(), std::slice::from_ref(&whole), false).expect("sections");
    assert!(matches!(in_place.eh_frame, Section::InPlace(_)));
    assert_eq!((in_place.eh_frame_hdr_svma, in_place.eh_frame_svma), (SVMA, SVMA + 256));
    assert_eq!(in_place.eh_frame_hdr.len(), 20);
    let copied = find(&image, hdr, std::slice::from_ref(&whole), true).expect("sections");
    assert!(matches!(copied.eh_frame, Section::Owned(_)));
    // The copy ends with the terminator.
    assert_eq!(copied.eh_frame.len(), image.len() - 256 - 64);
    assert_eq!(copied.eh_frame[..], in_place.eh_frame[..copied.eh_frame.len()]);
}

#[test]
fn damaged_headers_are_none() {
    let good = image();
    let whole = SVMA..SVMA + good.len() as u64;
    let hdr = SVMA..SVMA + 20;
    let broken = |at: usize, byte: u8| {
        let mut image = good.clone();
        image[at] = byte;
        image
    };
    // Version, pointer encodings, no table, a pointer out of the segment.
    for image in [broken(0, 2), broken(1, 0xff), broken(2, 0xff), broken(3, 0xff), broken(7, 0x7f)] {
        assert!(find(&image, hdr.clone(), std::slice::from_ref(&whole), true).is_none());
    }
    // No segment has it, or not all of it; it is empty or backwards.
    assert!(find(&good, hdr.clone(), &[], false).is_none());
    let later = SVMA + 1..SVMA + 400;
    assert!(find(&good, hdr.clone(), std::slice::from_ref(&later), false).is_none());
    assert!(find(&good, SVMA..SVMA, std::slice::from_ref(&whole), false).is_none());
    let backwards = Range { start: SVMA + 20, end: SVMA };
    assert!(find(&good, backwards, std::slice::from_ref(&whole), false).is_none());
    assert!(find(&good, SVMA..SVMA + 3, std::slice::from_ref(&whole), false).is_none());
    // The rest of `.eh_frame` may be in another segment than its header.
    let two = [SVMA..SVMA + 200, SVMA + 256..whole.end];
    assert!(find(&good, hdr, &two, false).is_some());
}

#[test]
fn modules_are_shared_by_threads_and_capturers_made_in_place() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<ModuleSet>();
    sent::<Capturer>();
    let mut memory = vec![0u128; Capturer::MAX_BYTES / 16 + 8];
    let start = memory.as_mut_ptr().cast::<u8>();
    let aligned = start.wrapping_add(start.align_offset(64));
    let at = |p: *mut u8| NonNull::new(p).expect("an address");
    // SAFETY: the memory is large enough for what is asked, zero, and used for nothing else.
    unsafe {
        assert!(Capturer::from_zeroed(at(aligned), size_of::<Capturer>() - 1).is_none());
    }
    // SAFETY: as above.
    unsafe {
        assert!(Capturer::from_zeroed(at(aligned.wrapping_add(8)), Capturer::MAX_BYTES).is_none());
    }
    // SAFETY: as above.
    let capturer = unsafe { Capturer::from_zeroed(at(aligned), Capturer::MAX_BYTES) };
    capturer.expect("a capturer").remember(1, 0);
}
