//! The shim's own allocator, so that nothing of ours ever runs in the
//! program's `malloc`: it may be jemalloc half-way through its start, it may
//! call back into the host, and its locks are not ours to take.
//!
//! Only what is rare allocates (start, modules, hooks), so it is simple: lists
//! of freed blocks by power of two, cut from pages that are never returned;
//! larger ones are mapped and unmapped.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

const SMALLEST: u32 = 4;
const LARGEST: u32 = 16;
const CLASSES: usize = (LARGEST - SMALLEST + 1) as usize;
const REGION_BYTES: usize = 256 << 10;

struct Free {
    lists: [*mut u8; CLASSES],
    region: *mut u8,
    left: usize,
}

/// The allocator.
pub(crate) struct Pages {
    locked: AtomicBool,
    free: UnsafeCell<Free>,
}

// SAFETY: `free` is only touched by whoever holds `locked`.
unsafe impl Sync for Pages {}

#[cfg_attr(not(test), global_allocator)]
pub(crate) static PAGES: Pages = Pages {
    locked: AtomicBool::new(false),
    free: UnsafeCell::new(Free { lists: [null_mut(); CLASSES], region: null_mut(), left: 0 }),
};

fn class(layout: Layout) -> u32 {
    let bytes = layout.size().max(layout.align()).max(1 << SMALLEST);
    usize::BITS - (bytes - 1).leading_zeros()
}

fn map(bytes: usize) -> *mut u8 {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: asks for fresh pages.
    let pages = unsafe { libc::mmap(null_mut(), bytes, access, kind, -1, 0) };
    if pages == libc::MAP_FAILED { null_mut() } else { pages.cast() }
}

impl Pages {
    /// A spinning lock: parking would allocate.
    pub(crate) fn lock(&self) {
        while self.locked.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    /// Also for a forked child whose parent had another thread in here: at
    /// worst one block is on no list.
    pub(crate) fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
    }

    fn take(&self, class: u32) -> *mut u8 {
        self.lock();
        // SAFETY: the lock is held.
        let free = unsafe { &mut *self.free.get() };
        let block = free.take(class);
        self.unlock();
        block
    }
}

impl Free {
    fn take(&mut self, class: u32) -> *mut u8 {
        let Some(list) = self.lists.get_mut((class - SMALLEST) as usize) else {
            return null_mut();
        };
        let head = *list;
        if !head.is_null() {
            // SAFETY: a freed block holds the address of the next one.
            *list = unsafe { head.cast::<*mut u8>().read() };
            return head;
        }
        let bytes = 1usize << class;
        // Cut to the block's own alignment; what lies before is left over.
        let pad = self.region.align_offset(bytes);
        if self.left < pad.saturating_add(bytes) {
            let region = map(REGION_BYTES);
            if region.is_null() {
                return null_mut();
            }
            (self.region, self.left) = (region, REGION_BYTES);
        }
        let pad = self.region.align_offset(bytes);
        if self.left < pad.saturating_add(bytes) {
            return null_mut();
        }
        // SAFETY: `pad` bytes are left in the region.
        let block = unsafe { self.region.add(pad) };
        // SAFETY: and so are `bytes` more.
        self.region = unsafe { block.add(bytes) };
        self.left -= pad + bytes;
        block
    }
}

// SAFETY: blocks are disjoint, as large and as aligned as their class, which
// is at least the layout's size and alignment.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            class @ 0..=LARGEST => self.take(class),
            _ if layout.align() <= 4096 => map(layout.size()),
            _ => null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let class = class(layout);
        if class > LARGEST {
            // SAFETY: mapped by `alloc` with this size.
            unsafe { libc::munmap(block.cast(), layout.size()) };
            return;
        }
        self.lock();
        // SAFETY: the lock is held.
        let free = unsafe { &mut *self.free.get() };
        if let Some(list) = free.lists.get_mut((class - SMALLEST) as usize) {
            // SAFETY: the block is the caller's to give, and large enough.
            unsafe { block.cast::<*mut u8>().write(*list) };
            *list = block;
        }
        self.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_disjoint_and_reused() {
        let layouts: Vec<Layout> = [(1, 1), (24, 8), (100, 64), (4096, 4096), (65536, 16), (70_000, 16)]
            .map(|(size, align)| Layout::from_size_align(size, align).unwrap())
            .to_vec();
        let mut blocks: Vec<(usize, usize)> = Vec::new();
        for &layout in &layouts {
            // SAFETY: the layouts have a size.
            let block = unsafe { PAGES.alloc(layout) };
            assert!(!block.is_null() && (block as usize).is_multiple_of(layout.align()));
            blocks.push((block as usize, block as usize + layout.size()));
        }
        for (i, a) in blocks.iter().enumerate() {
            assert!(blocks.iter().skip(i + 1).all(|b| a.1 <= b.0 || b.1 <= a.0));
        }
        // SAFETY: allocated above with the same layout.
        unsafe { PAGES.dealloc(blocks[1].0 as *mut u8, layouts[1]) };
        // SAFETY: the layout has a size.
        assert_eq!(unsafe { PAGES.alloc(layouts[1]) } as usize, blocks[1].0);
    }
}
