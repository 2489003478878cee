//! The shim's own allocator, so that nothing of ours ever runs in the
//! program's `malloc`: it may be jemalloc half-way through its start, it may
//! call back into the host, and its locks are not ours to take.
//!
//! Only what is rare allocates (start, modules, hooks), so it is simple: lists
//! of freed blocks by power of two, cut from pages that are never returned;
//! larger ones are mapped and unmapped. There is no lock: a handler may jump away
//! in the middle, and a child be forked there; then one block is on no list.
//!
//! Rust ends a process that has no memory. So where the system gives none, what
//! is going on is finished with a reserve, and tracing stops.
#![allow(unsafe_code)]

use crate::errno::KeepErrno;
use crate::sandbox::{self, Call};
use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

const SMALLEST: u32 = 4;
const LARGEST: u32 = 16;
const CLASSES: usize = (LARGEST - SMALLEST + 1) as usize;
const REGION_BYTES: usize = 256 << 10;
/// Enough to look through a thousand modules once more. Pages that are never
/// touched cost nothing.
const RESERVE_BYTES: usize = 4 << 20;

/// The freed blocks of a class, each with the address of the next one in it: a
/// stack by R. Kent Treiber. An address leaves bits of the word free, in which
/// changes are counted, so that whoever was interrupted sees that there were some.
struct Freed(AtomicU64);

/// What user space has, less what every block is aligned to.
const ADDRESS: u64 = (1 << 47) - (1 << SMALLEST);

/// Where blocks are cut from: its beginning.
#[repr(C, align(16))]
struct Region {
    used: AtomicUsize,
}

/// The allocator.
pub(crate) struct Pages {
    freed: [Freed; CLASSES],
    region: AtomicPtr<Region>,
}

#[cfg_attr(not(test), global_allocator)]
pub(crate) static PAGES: Pages =
    Pages { freed: [const { Freed(AtomicU64::new(0)) }; CLASSES], region: AtomicPtr::new(null_mut()) };

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

/// Gives back what [`map`] gave, as far as it can be.
fn unmap(block: *mut u8, bytes: usize) {
    if !RESERVE.holds(block) && sandbox::allows(&[Call::Munmap]) {
        // SAFETY: mapped by `map` with this size, and nobody uses it.
        unsafe { libc::munmap(block.cast(), bytes) };
    }
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

impl Freed {
    /// The word after a change that makes `first` the first one.
    fn changed(word: u64, first: u64) -> u64 {
        // The count's lowest bits are the word's, the others are the highest.
        let low = (1 << SMALLEST) - 1;
        let count = (word >> 47 << SMALLEST | word & low).wrapping_add(1);
        first & ADDRESS | count & low | count >> SMALLEST << 47
    }

    fn take(&self) -> *mut u8 {
        let next = |word: u64| {
            let first = (word & ADDRESS) as *const AtomicU64;
            // SAFETY: blocks stay mapped. If it isn't free any more, whatever is read
            // is not used: the word has changed.
            let next = || unsafe { &*first }.load(Ordering::Relaxed);
            (!first.is_null()).then(|| Freed::changed(word, next()))
        };
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        taken.map_or(null_mut(), |word| (word & ADDRESS) as *mut u8)
    }

    /// # Safety
    /// The block is the caller's to give, and of the list's class.
    unsafe fn give(&self, block: *mut u8) {
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            // SAFETY: the caller's promise; a block has room for an address.
            unsafe { &*block.cast::<AtomicU64>() }.store(word & ADDRESS, Ordering::Relaxed);
            Some(Freed::changed(word, block as u64))
        });
    }
}

impl Region {
    /// Cuts a block off, at a multiple of its size.
    fn cut(&self, bytes: usize) -> Option<*mut u8> {
        let start = std::ptr::from_ref(self) as usize;
        let from = |used: usize| (start + used).next_multiple_of(bytes) - start;
        let next = |used| Some(from(used) + bytes).filter(|&used| used <= REGION_BYTES);
        let used = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Some(std::ptr::from_ref(self).cast::<u8>().cast_mut().wrapping_add(from(used)))
    }
}

impl Pages {
    fn take(&self, class: u32) -> *mut u8 {
        let Some(freed) = self.freed.get((class - SMALLEST) as usize) else { return null_mut() };
        let block = freed.take();
        if block.is_null() { self.cut(1 << class) } else { block }
    }

    fn cut(&self, bytes: usize) -> *mut u8 {
        loop {
            let region = self.region.load(Ordering::Acquire);
            // SAFETY: regions stay mapped.
            if let Some(block) = unsafe { region.as_ref() }.and_then(|region| region.cut(bytes)) {
                return block;
            }
            let new = map(REGION_BYTES).cast::<Region>();
            if new.is_null() {
                return null_mut();
            }
            // SAFETY: fresh pages, which nobody else knows.
            unsafe { new.write(Region { used: AtomicUsize::new(size_of::<Region>()) }) };
            if self.region.compare_exchange(region, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // Somebody else was faster.
                unmap(new.cast(), REGION_BYTES);
            }
        }
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
            return unmap(block, layout.size());
        }
        if let Some(freed) = self.freed.get((class - SMALLEST) as usize) {
            // SAFETY: allocated from this class, and the caller's to give.
            unsafe { freed.give(block) };
        }
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
    fn a_block_is_one_threads_at_a_time() {
        let layouts = [16, 24, 64, 3000].map(|size| Layout::from_size_align(size, 8).unwrap());
        std::thread::scope(|scope| {
            for thread in 1..=4u64 {
                scope.spawn(move || {
                    let mut held = std::collections::VecDeque::new();
                    for n in 0..200_000u64 {
                        let layout = layouts[(n % 4) as usize];
                        // SAFETY: the layout has a size, and room for a word.
                        let block = unsafe { PAGES.alloc(layout) }.cast::<u64>();
                        // SAFETY: as above.
                        unsafe { block.write(thread << 32 | n) };
                        held.push_back((block, layout, n));
                        if held.len() > 20 {
                            let (block, layout, n) = held.pop_front().unwrap();
                            // SAFETY: allocated above, and not freed yet.
                            assert_eq!(unsafe { block.read() }, thread << 32 | n);
                            // SAFETY: as above.
                            unsafe { PAGES.dealloc(block.cast(), layout) };
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn changes_are_counted_in_all_bits_that_are_free() {
        let address = 0x7fff_1234_5670;
        let (mut word, mut seen) = (0, std::collections::BTreeSet::new());
        for _ in 0..1 << 21 {
            word = Freed::changed(word, address | 5);
            assert!(word & ADDRESS == address && seen.insert(word));
        }
        assert_eq!(Freed::changed(word, 0) & ADDRESS, 0);
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
