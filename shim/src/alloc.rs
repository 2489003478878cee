//! The shim's own allocator, so that nothing of ours ever runs in the
//! program's `malloc`: it may be jemalloc half-way through its start, it may
//! call back into the host, and its locks are not ours to take.
//!
//! Only what is rare allocates (start, modules, hooks), so it is simple: lists
//! of freed blocks by power of two, cut from pages that are never returned;
//! larger ones are mapped and unmapped.
//!
//! Rust ends a process that has no memory. So where the system gives none, what
//! is going on is finished with a reserve, and tracing stops.
#![allow(unsafe_code)]

use crate::errno::KeepErrno;
use crate::sandbox::{self, Call};
use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SMALLEST: u32 = 4;
const LARGEST: u32 = 16;
const CLASSES: usize = (LARGEST - SMALLEST + 1) as usize;
const REGION_BYTES: usize = 256 << 10;
/// Enough to look through a thousand modules once more. Pages that are never
/// touched cost nothing.
const RESERVE_BYTES: usize = 4 << 20;

struct Free {
    lists: [*mut u8; CLASSES],
    region: *mut u8,
    left: usize,
}

/// The allocator.
pub(crate) struct Pages {
    locked: AtomicBool,
    for_fork: AtomicBool,
    free: UnsafeCell<Free>,
}

// SAFETY: `free` is only touched by whoever holds `locked`.
unsafe impl Sync for Pages {}

#[cfg_attr(not(test), global_allocator)]
pub(crate) static PAGES: Pages = Pages {
    locked: AtomicBool::new(false),
    for_fork: AtomicBool::new(false),
    free: UnsafeCell::new(Free { lists: [null_mut(); CLASSES], region: null_mut(), left: 0 }),
};

fn class(layout: Layout) -> u32 {
    let bytes = layout.size().max(layout.align()).max(1 << SMALLEST);
    usize::BITS - (bytes - 1).leading_zeros()
}

/// What is left where the system gives nothing more.
#[repr(align(4096))]
struct Reserve {
    bytes: UnsafeCell<[u8; RESERVE_BYTES]>,
    used: AtomicUsize,
    /// How many bytes of it were given back.
    cut: AtomicUsize,
}

/// Keeps no more than so many bytes (whole pages) for when there is no memory.
/// Called while there is one thread only.
pub(crate) fn shrink_reserve(keep: usize) {
    RESERVE.shrink(keep);
}

// SAFETY: each byte is handed out once, to one caller.
unsafe impl Sync for Reserve {}

// All zero, so that it takes no room in the file.
static RESERVE: Reserve = Reserve::new();

impl Reserve {
    const fn new() -> Reserve {
        let bytes = UnsafeCell::new([0; RESERVE_BYTES]);
        Reserve { bytes, used: AtomicUsize::new(0), cut: AtomicUsize::new(0) }
    }

    fn end(&self) -> usize {
        RESERVE_BYTES - self.cut.load(Ordering::Acquire)
    }

    fn start(&self) -> *mut u8 {
        self.bytes.get().cast()
    }

    /// As fresh pages would be; null where there isn't so much left.
    fn take(&self, bytes: usize) -> *mut u8 {
        let bytes = bytes.checked_next_multiple_of(4096).unwrap_or(usize::MAX);
        let fits = |used: usize| used.checked_add(bytes).filter(|&end| end <= self.end());
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(used) => self.start().wrapping_add(used),
            Err(_) => null_mut(),
        }
    }

    /// Gives back what was never taken of what lies behind the first `keep` bytes.
    /// Nobody else is taking any.
    fn shrink(&self, keep: usize) {
        let end = self.end();
        let from = self.used.load(Ordering::Acquire).max(keep).min(end);
        self.cut.store(RESERVE_BYTES - from, Ordering::Release);
        // SAFETY: whole pages of ours that were handed out to nobody.
        unsafe { libc::munmap(self.start().wrapping_add(from).cast(), end - from) };
    }

    fn holds(&self, block: *mut u8) -> bool {
        (block as usize).wrapping_sub(self.start() as usize) < RESERVE_BYTES
    }
}

fn map(bytes: usize) -> *mut u8 {
    if !sandbox::allows(&[Call::Mmap]) {
        return from_reserve(bytes);
    }
    let _errno = KeepErrno::new();
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: asks for fresh pages.
    let pages = unsafe { libc::mmap(null_mut(), bytes, access, kind, -1, 0) };
    if pages != libc::MAP_FAILED {
        return pages.cast();
    }
    crate::tracer::disable(format_args!("no memory is left"));
    RESERVE.take(bytes)
}

/// Where a sandbox allows no other memory: the reserve, as long as it lasts for
/// what is going on when tracing stops.
fn from_reserve(bytes: usize) -> *mut u8 {
    let block = RESERVE.take(bytes);
    if RESERVE.used.load(Ordering::Relaxed) > RESERVE.end() / 2 {
        crate::tracer::disable(format_args!("no memory is left"));
    }
    block
}

impl Pages {
    /// A spinning lock: parking would allocate.
    fn lock(&self) {
        while self.locked.swap(true, Ordering::Acquire) {
            crate::lock::give_way();
        }
    }

    fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
    }

    /// Before a fork; see [`crate::lock::lock_for_fork`].
    pub(crate) fn lock_for_fork(&self, tries: usize) {
        for _ in 0..tries {
            if !self.locked.swap(true, Ordering::Acquire) {
                self.for_fork.store(true, Ordering::Relaxed);
                return;
            }
            crate::lock::give_way();
        }
    }

    /// After a fork, in both processes.
    pub(crate) fn unlock_after_fork(&self) {
        if self.for_fork.swap(false, Ordering::Relaxed) {
            self.unlock();
        }
    }

    /// In a forked child whose parent had another thread in here: at worst one
    /// block is on no list.
    pub(crate) fn forget_others(&self) {
        self.for_fork.store(false, Ordering::Relaxed);
        self.unlock();
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
            if !RESERVE.holds(block) && sandbox::allows(&[Call::Munmap]) {
                // SAFETY: mapped by `alloc` with this size.
                unsafe { libc::munmap(block.cast(), layout.size()) };
            }
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

    #[test]
    fn the_reserve_is_handed_out_once() {
        static TRIED: Reserve = Reserve::new();
        let reserve = &TRIED;
        let (first, second) = (reserve.take(1), reserve.take(100_000));
        assert!(reserve.holds(first) && (first as usize).is_multiple_of(4096));
        assert_eq!(second as usize - first as usize, 4096);
        assert!(reserve.take(RESERVE_BYTES).is_null() && reserve.take(usize::MAX).is_null());
        let rest = RESERVE_BYTES - 4096 - 102_400;
        assert!(reserve.holds(reserve.take(rest)) && reserve.take(1).is_null());
        static SHRUNK: Reserve = Reserve::new();
        assert!(SHRUNK.holds(SHRUNK.take(4096)));
        SHRUNK.shrink(16384);
        assert!(SHRUNK.take(16384).is_null() && SHRUNK.holds(SHRUNK.take(12288)));
    }
}
