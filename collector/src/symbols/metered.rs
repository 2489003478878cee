//! A reader of debug information that gives up in time.
//!
//! Debug information is a graph of tables that refer to each other by offset. A
//! forged file can have every unit refer to the same large table, or to tables
//! that overlap, and the libraries that follow such references then take hours
//! and gigabytes for some kilobytes. Honest files are read about once. So
//! everything that is read of a module is counted, and beyond a multiple of its
//! size there is nothing more to read. Entries within entries within entries cost
//! them their stack: beyond a part of it there isn't, either.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use addr2line::gimli::{self, Reader, ReaderOffsetId, RunTimeEndian};

/// How many reads a byte is worth. Half of one was measured where each function
/// of a real program is looked up.
const READS_PER_BYTE: u64 = 2;
/// What any file may cost.
const READS_MIN: u64 = 1 << 20;

/// How much stack reading may take: a thousand levels, where real programs have tens.
const STACK_BYTES: usize = 1 << 20;

/// About where the stack is.
#[inline(always)]
fn here() -> usize {
    let place = 0u8;
    (&raw const place).addr()
}

/// What may still be read of one module.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Atomic only because the libraries share what holds it; nobody waits.
    left: AtomicU64,
    /// Where the stack was when reading began; 0: not yet.
    base: AtomicUsize,
}

impl Meter {
    /// One for a module, kept like its files for the life of the process.
    pub(crate) fn new() -> &'static Meter {
        Box::leak(Box::new(Meter { left: AtomicU64::new(READS_MIN), base: AtomicUsize::new(0) }))
    }

    /// From here on a part of the stack may be used, and no more.
    #[inline(never)]
    pub(crate) fn begin(&self) {
        self.base.store(here(), Ordering::Relaxed);
    }

    /// Whether more was read than any honest file needs.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    #[inline]
    fn charge(&self, reads: u64) -> gimli::Result<()> {
        let base = self.base.load(Ordering::Relaxed);
        let is_deep = base != 0 && base.abs_diff(here()) > STACK_BYTES;
        let left = if is_deep { 0 } else { self.left.load(Ordering::Relaxed).saturating_sub(reads) };
        self.left.store(left, Ordering::Relaxed);
        if left > 0 { Ok(()) } else { Err(gimli::Error::UnexpectedEof(ReaderOffsetId(0))) }
    }
}

type Slice = gimli::EndianSlice<'static, RunTimeEndian>;

/// A part of a section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metered {
    slice: Slice,
    meter: &'static Meter,
}

impl Metered {
    /// A section's content, for whose size more may be read.
    pub(crate) fn section(bytes: &'static [u8], endian: RunTimeEndian, meter: &'static Meter) -> Metered {
        let reads = (bytes.len() as u64).saturating_mul(READS_PER_BYTE);
        meter.left.store(meter.left.load(Ordering::Relaxed).saturating_add(reads), Ordering::Relaxed);
        Metered { slice: Slice::new(bytes, endian), meter }
    }
}

impl Reader for Metered {
    type Endian = RunTimeEndian;
    type Offset = usize;

    #[inline]
    fn endian(&self) -> RunTimeEndian {
        self.slice.endian()
    }
    #[inline]
    fn len(&self) -> usize {
        Reader::len(&self.slice)
    }
    #[inline]
    fn empty(&mut self) {
        self.slice.empty();
    }
    #[inline]
    fn truncate(&mut self, len: usize) -> gimli::Result<()> {
        self.slice.truncate(len)
    }
    #[inline]
    fn offset_from(&self, base: &Metered) -> usize {
        Reader::offset_from(&self.slice, &base.slice)
    }
    #[inline]
    fn offset_id(&self) -> ReaderOffsetId {
        self.slice.offset_id()
    }
    #[inline]
    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        self.slice.lookup_offset_id(id)
    }
    #[inline]
    fn find(&self, byte: u8) -> gimli::Result<usize> {
        let found = Reader::find(&self.slice, byte);
        // A string is looked through, and one without an end to the section's.
        let seen = *found.as_ref().unwrap_or(&Reader::len(&self.slice));
        self.meter.charge(1 + seen as u64 / 16)?;
        found
    }
    #[inline]
    fn skip(&mut self, len: usize) -> gimli::Result<()> {
        self.meter.charge(1)?;
        self.slice.skip(len)
    }
    #[inline]
    fn split(&mut self, len: usize) -> gimli::Result<Metered> {
        self.meter.charge(1)?;
        Ok(Metered { slice: self.slice.split(len)?, meter: self.meter })
    }
    #[inline]
    fn to_slice(&self) -> gimli::Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(self.slice.slice()))
    }
    #[inline]
    fn to_string(&self) -> gimli::Result<Cow<'_, str>> {
        Reader::to_string(&self.slice)
    }
    #[inline]
    fn to_string_lossy(&self) -> gimli::Result<Cow<'_, str>> {
        Reader::to_string_lossy(&self.slice)
    }
    #[inline]
    fn read_slice(&mut self, to: &mut [u8]) -> gimli::Result<()> {
        self.meter.charge(1)?;
        Reader::read_slice(&mut self.slice, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deeper(meter: &Meter, levels: usize) -> gimli::Result<()> {
        let frame = std::hint::black_box([0u8; 4096]);
        meter.charge(1)?;
        if levels > 0 {
            deeper(meter, levels - 1)?;
        }
        std::hint::black_box(frame);
        Ok(())
    }

    #[test]
    fn what_is_nested_too_deep_is_given_up() {
        let meter = Meter::new();
        meter.begin();
        assert!(deeper(meter, 10).is_ok() && !meter.is_exhausted());
        assert!(deeper(meter, 300).is_err() && meter.is_exhausted());
    }
}
