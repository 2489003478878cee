//! The trace: what is kept of rings after draining them.
//!
//! A trace is a file of blocks that is only ever appended to. Blocks carry
//! copies of what the ring's chunks hold, so that one decoder serves both, and
//! a trace that is cut off at any byte is readable up to there.
//!
//! All numbers are little-endian. The file begins with [`MAGIC`], then the
//! version and a zero, each a `u32`. A block is a head of four `u32`
//! (its kind, the number of the process that it is of, the length of its
//! content in bytes, a CRC-32 of these three and the content), then the
//! content: a multiple of 8 bytes, at most [`CONTENT_MAX_BYTES`].
//!
//! | kind | content, in `u64` words |
//! |---|---|
//! | 1 header | the ring's chunk 0 |
//! | 2 page | chunk number, low half, and its tag, high half; then the chunk's words up to the last that isn't zero (a reader puts the zeros back) |
//! | 3 piece | the chunk's sequence number; chunk number, low half, and 1 in the high half if the chunk was still open; then the records |
//! | 4 retract | the sequence number of a piece that doesn't count: the program overwrote it, and counted it as lost, while it was copied |
//! | 5 end | nothing: the process is gone and everything was taken |
//!
//! Of several copies of the same thing the one counts that was made last; they
//! tell themselves which that is, since all of them only grow.
//!
//! Kinds are append-only, and a reader skips those that it doesn't know.

mod read;
mod write;

pub(crate) use read::{Content, TraceReader, words};
pub(crate) use write::TraceWriter;

/// The first bytes of a trace.
pub(crate) const MAGIC: [u8; 8] = *b"TRCTRACE";
/// The version of the format that is written and read.
pub(crate) const VERSION: u32 = 1;
/// The longest content of a block. A piece or page needs little more than 4 KiB.
pub(crate) const CONTENT_MAX_BYTES: u32 = 1 << 20;
/// Bytes of a block before its content.
const HEAD_BYTES: usize = 16;

mod kind {
    pub(super) const HEADER: u32 = 1;
    pub(super) const PAGE: u32 = 2;
    pub(super) const PIECE: u32 = 3;
    pub(super) const RETRACT: u32 = 4;
    pub(super) const END: u32 = 5;
}

/// The checksum of a block, over its head (without the checksum) and content.
fn checksum(kind: u32, process: u32, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for word in [kind, process, content.len() as u32] {
        crc.update(&word.to_le_bytes());
    }
    crc.update(content);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use traceshim_ring::read::Piece;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = TraceWriter::new(&mut out).unwrap();
        writer.header(0, &[7; 512]).unwrap();
        writer.page(0, 3, 16, &[1, 2, 3, 0, 0]).unwrap();
        writer.piece(0, &Piece { chunk: 4, seq: 9, words: vec![5; 100], open: true }).unwrap();
        writer.retract(0, 9).unwrap();
        writer.end(0).unwrap();
        out
    }

    fn read(bytes: &[u8]) -> Option<(Vec<(u32, Content)>, bool)> {
        let mut reader = TraceReader::new(bytes).ok()?;
        let mut all = Vec::new();
        while let Some(block) = reader.next_block().unwrap() {
            all.push((block.process, block.content));
        }
        Some((all, reader.cut().is_some()))
    }

    /// The bytes of version 1, which every later version must go on reading.
    /// Made, when the version was, by running the test with `UPDATE_GOLDEN=1`.
    #[test]
    fn version_1_is_what_it_was() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.trace");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, sample()).unwrap();
        }
        let golden = std::fs::read(path).unwrap();
        assert!(golden == sample(), "what is written has changed: that needs a new version");
        assert_eq!(read(&golden), read(&sample()));
    }

    #[test]
    fn what_is_written_is_read() {
        let (blocks, cut) = read(&sample()).unwrap();
        assert!(!cut);
        assert_eq!(blocks.len(), 5);
        assert_eq!(blocks[1].1, Content::Page { chunk: 3, tag: 16, words: vec![1, 2, 3] });
        let piece = Piece { chunk: 4, seq: 9, words: vec![5; 100], open: true };
        assert_eq!(blocks[2].1, Content::Piece(piece));
        assert_eq!(blocks[3].1, Content::Retract { seq: 9 });
        assert_eq!(blocks[4].1, Content::End);
    }

    #[test]
    fn a_trace_cut_anywhere_is_readable_up_to_there() {
        let whole = sample();
        let (all, _) = read(&whole).unwrap();
        let mut most = 0;
        for len in 16..whole.len() {
            let (blocks, cut) = read(&whole[..len]).unwrap();
            assert_eq!(blocks, all[..blocks.len()]);
            assert!(blocks.len() >= most);
            most = blocks.len();
            // A cut between two blocks looks like an earlier end.
            assert!(cut || blocks.len() < all.len());
        }
        assert_eq!(most, all.len() - 1);
    }

    #[test]
    fn a_later_kind_is_skipped() {
        let mut bytes = sample();
        let at = bytes.len();
        let content = [1u8; 8];
        for word in [77, 0, 8, checksum(77, 0, &content)] {
            bytes.extend_from_slice(&u32::to_le_bytes(word));
        }
        bytes.extend_from_slice(&content);
        bytes.extend_from_within(at - HEAD_BYTES..at);
        let (blocks, cut) = read(&bytes).unwrap();
        assert!(!cut);
        assert_eq!(blocks.len(), 6);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes: Vec<u8>, with_head: bool) {
            if with_head {
                bytes.splice(0..0, sample()[..16].iter().copied());
            }
            let _ = read(&bytes);
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 16usize..1000, bit in 0u8..8) {
            let mut bytes = sample();
            let at = at % bytes.len().max(17);
            prop_assume!(at >= 16);
            bytes[at] ^= 1 << bit;
            let (blocks, cut) = read(&bytes).unwrap();
            let (all, _) = read(&sample()).unwrap();
            prop_assert!(cut);
            prop_assert_eq!(&blocks[..], &all[..blocks.len()]);
        }
    }
}
