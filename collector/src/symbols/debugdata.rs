//! `.gnu_debugdata`: an xz-compressed ELF file with the function symbols that
//! stripping took, as Fedora and its relatives ship it.

/// More than any such section expands to; beyond it the section is ignored.
const EXPANDED_CAP_BYTES: u64 = 256 << 20;
/// Symbols pack to a fifth; what packs better than this, and isn't small, was
/// made to fill the memory.
const RATIO_CAP: u64 = 64;
const SMALL_BYTES: u64 = 1 << 20;

/// The expanded file, kept for the life of the process like every other one.
pub(crate) fn expand(xz: &[u8]) -> Option<&'static [u8]> {
    // The decoder collects all output before it hands any out, so the sizes
    // that it will reach are added up beforehand.
    let plausible = (xz.len() as u64).saturating_mul(RATIO_CAP).max(SMALL_BYTES);
    if expanded_bytes(xz)? > EXPANDED_CAP_BYTES.min(plausible) {
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
    fn what_was_made_to_fill_the_memory_is_left_alone() {
        let packed = |bytes: &str| {
            let line = format!("head -c {bytes} /dev/zero | xz -c");
            std::process::Command::new("sh").args(["-c", &line]).output().unwrap().stdout
        };
        let (small, large) = (packed("1M"), packed("9M"));
        if small.is_empty() {
            eprintln!("skipped: no xz here");
            return;
        }
        assert_eq!(expand(&small).map(<[u8]>::len), Some(1 << 20));
        assert_eq!(expanded_bytes(&large), Some(9 << 20));
        assert_eq!(expand(&large), None);
    }

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
