//! `.gnu_debugdata`: an xz-compressed ELF file with the function symbols that
//! stripping took, as Fedora and its relatives ship it.

/// More than any such section expands to; beyond it the section is ignored.
const EXPANDED_CAP_BYTES: u64 = 256 << 20;

/// The expanded file, kept for the life of the process like every other one.
pub(crate) fn expand(xz: &[u8]) -> Option<&'static [u8]> {
    // The decoder collects all output before it hands any out, so the sizes
    // that it will reach are added up beforehand.
    if expanded_bytes(xz)? > EXPANDED_CAP_BYTES {
        return None;
    }
    let mut expanded = Vec::new();
    lzma_rs::xz_decompress(&mut &xz[..], &mut expanded).ok()?;
    Some(expanded.leak())
}

/// What the chunks of all blocks say that they expand to; the decoder holds
/// each chunk to it.
fn expanded_bytes(xz: &[u8]) -> Option<u64> {
    const STREAM_HEADER: usize = 12;
    let check_bytes = match xz.get(7)? & 15 {
        0 => 0,
        1 => 4,
        4 => 8,
        10 => 32,
        _ => return None,
    };
    let byte = |at: usize| xz.get(at).map(|&b| usize::from(b));
    let be16 = |at: usize| Some(byte(at)? << 8 | byte(at + 1)?);
    let mut at = STREAM_HEADER;
    let mut total = 0u64;
    loop {
        let header_size = byte(at)?;
        if header_size == 0 {
            return Some(total);
        }
        at += (header_size + 1) * 4;
        let block = at;
        loop {
            let control = byte(at)?;
            let (expanded, skip) = match control {
                0 => break,
                1 | 2 => {
                    let size = be16(at + 1)? + 1;
                    (size, 3 + size)
                }
                0x80.. => {
                    let props = usize::from(control >> 5 & 3 >= 2);
                    let expanded = ((control & 31) << 16 | be16(at + 1)?) + 1;
                    (expanded, 5 + props + be16(at + 3)? + 1)
                }
                _ => return None,
            };
            total += expanded as u64;
            at += skip;
        }
        let block_bytes = at + 1 - block;
        at = block + block_bytes.next_multiple_of(4) + check_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_what_it_adds_up() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut &data[..], &mut xz).unwrap();
        assert_eq!(expanded_bytes(&xz), Some(data.len() as u64));
        assert_eq!(expand(&xz), Some(&data[..]));
        for cut in [0, 5, 12, 100, xz.len() - 1] {
            assert_eq!(expand(&xz[..cut]), None);
        }
    }
}
