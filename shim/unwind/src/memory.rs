#![allow(unsafe_code)]
//! The memory that a walk may read: nothing else is ever dereferenced.

/// The only stack memory that a walk may read.
pub trait StackMemory {
    /// The eight bytes at `addr`; `None` where they are outside what is known
    /// to be readable stack, or `addr` isn't a multiple of 8.
    fn read(&self, addr: u64) -> Option<u64>;

    /// The stack around `addr`, where this is the process's own memory: reads
    /// in there may go past [`read`](Self::read).
    fn stack_at(&self, addr: u64) -> Option<StackBounds> {
        let _ = addr;
        None
    }
}

/// A piece of the calling process's own memory: one stack.
#[derive(Clone, Copy, Debug)]
pub struct StackBounds {
    lo: u64,
    hi: u64,
}

impl StackBounds {
    /// The stack in `lo..hi` (addresses in bytes; an empty range reads nothing).
    ///
    /// # Safety
    /// Until the last read through the value, every aligned word in `lo..hi`
    /// is mapped and readable. Other threads may write there: what is read is
    /// a word that was there, no more.
    pub const unsafe fn new(lo: u64, hi: u64) -> Self {
        StackBounds { lo, hi }
    }

    /// The word at `addr`, unchecked.
    ///
    /// # Safety
    /// `addr` is a multiple of 8, and `addr..addr + 8` lies in `lo..hi`.
    #[inline(always)]
    pub(crate) unsafe fn word(&self, addr: u64) -> u64 {
        let word = core::ptr::with_exposed_provenance::<u64>(addr as usize);
        // SAFETY: aligned, and in what the maker of this value promised to be readable.
        unsafe { word.read_volatile() }
    }

    /// The lowest address.
    pub const fn lo(&self) -> u64 {
        self.lo
    }

    /// The address just beyond.
    pub const fn hi(&self) -> u64 {
        self.hi
    }
}

impl StackMemory for StackBounds {
    #[inline(always)]
    fn read(&self, addr: u64) -> Option<u64> {
        let room = self.hi.wrapping_sub(self.lo);
        let offset = addr.wrapping_sub(self.lo);
        // The room is compared first: an empty or inverted range has none for a word.
        if addr & 7 != 0 || self.hi < self.lo || room < 8 || offset > room.wrapping_sub(8) {
            return None;
        }
        // SAFETY: `addr` is aligned and `addr..addr + 8` lies in `lo..hi`.
        Some(unsafe { self.word(addr) })
    }

    #[inline(always)]
    fn stack_at(&self, addr: u64) -> Option<StackBounds> {
        (addr >= self.lo && addr < self.hi).then_some(*self)
    }
}

/// Several stacks: that of the thread, its alternate signal stack, a coroutine's.
impl<M: StackMemory> StackMemory for [M] {
    #[inline]
    fn read(&self, addr: u64) -> Option<u64> {
        self.iter().find_map(|m| m.read(addr))
    }

    #[inline]
    fn stack_at(&self, addr: u64) -> Option<StackBounds> {
        self.iter().find_map(|m| m.stack_at(addr))
    }
}

impl<M: StackMemory, const N: usize> StackMemory for [M; N] {
    #[inline]
    fn read(&self, addr: u64) -> Option<u64> {
        self.as_slice().read(addr)
    }

    #[inline]
    fn stack_at(&self, addr: u64) -> Option<StackBounds> {
        self.as_slice().stack_at(addr)
    }
}

impl<M: StackMemory + ?Sized> StackMemory for &M {
    #[inline(always)]
    fn read(&self, addr: u64) -> Option<u64> {
        (**self).read(addr)
    }

    #[inline(always)]
    fn stack_at(&self, addr: u64) -> Option<StackBounds> {
        (**self).stack_at(addr)
    }
}

/// A stack in an array, for tests: `words[0]` is at address `base`.
#[derive(Clone, Copy, Debug)]
pub struct StackArray<'a> {
    /// The address of the first word.
    pub base: u64,
    /// The words, lowest address first.
    pub words: &'a [u64],
}

impl StackMemory for StackArray<'_> {
    fn read(&self, addr: u64) -> Option<u64> {
        let offset = addr.checked_sub(self.base)?;
        if offset & 7 != 0 {
            return None;
        }
        self.words.get(usize::try_from(offset >> 3).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_admit_whole_aligned_words_only() {
        let words = [1u64, 2, 3];
        let lo = words.as_ptr().expose_provenance() as u64;
        // SAFETY: `words` outlives the bounds.
        let m = unsafe { StackBounds::new(lo, lo + 24) };
        assert_eq!(m.read(lo), Some(1));
        assert_eq!(m.read(lo + 16), Some(3));
        for bad in [lo + 4, lo - 8, lo + 24, lo + 17, 0, u64::MAX, !7] {
            assert_eq!(m.read(bad), None, "{bad:#x}");
        }
        for (lo, hi) in [(lo, lo), (lo + 8, lo), (lo, lo + 7)] {
            // SAFETY: no word fits into the range.
            let none = unsafe { StackBounds::new(lo, hi) };
            assert_eq!([none, none].read(lo), None);
        }
    }
}
