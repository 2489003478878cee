//! `/tmp/perf-PID.map`: the names that JIT compilers leave for profilers.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use traceshim_ring::stamp::FileStamp;

/// More than any real map; what lies beyond is ignored.
const MAP_CAP_BYTES: u64 = 128 << 20;

/// The functions of one process's map, by address.
#[derive(Debug, Default)]
pub(crate) struct PerfMap {
    entries: Vec<(u64, u64, String)>,
}

impl PerfMap {
    /// Reads the map of process `pid`, if the user `uid` whose trace it is wrote
    /// it: `/tmp` is anybody's, and so is a name there. And if it was written
    /// since the process began, at `start_ns` since the epoch: an earlier one may
    /// have had the same number.
    pub(crate) fn of_process(pid: u32, uid: u32, start_ns: u64) -> PerfMap {
        PerfMap::read(Path::new(&format!("/tmp/perf-{pid}.map")), uid, start_ns).unwrap_or_default()
    }

    pub(crate) fn read(path: &Path, uid: u32, start_ns: u64) -> Option<PerfMap> {
        const O_NOFOLLOW: i32 = 0o400_000;
        const O_NONBLOCK: i32 = 0o4_000;
        let flags = O_NOFOLLOW | O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let is_older = FileStamp::from(&metadata).modified_ns < start_ns;
        if !metadata.is_file() || metadata.uid() != uid || is_older {
            return None;
        }
        let mut entries = Vec::new();
        let mut reader = BufReader::new(file.take(MAP_CAP_BYTES));
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).ok()? > 0 {
            entries.extend(parse(&line));
            line.clear();
        }
        // Later lines replace earlier ones: the JIT reused the memory.
        entries.reverse();
        entries.sort_by_key(|e: &(u64, u64, String)| e.0);
        entries.dedup_by_key(|e| e.0);
        Some(PerfMap { entries })
    }

    /// The function that contains `address`.
    pub(crate) fn find(&self, address: u64) -> Option<&str> {
        let after = self.entries.partition_point(|e| e.0 <= address);
        let (_, end, name) = self.entries[..after].last()?;
        (address < *end).then_some(name)
    }
}

/// `START SIZE NAME`, the numbers in hexadecimal.
fn parse(line: &[u8]) -> Option<(u64, u64, String)> {
    let line = super::demangle::utf8(line.trim_ascii());
    let (start, rest) = line.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    let hex = |s: &str| u64::from_str_radix(s.trim_start_matches("0x"), 16).ok();
    let start = hex(start)?;
    let name = name.get(..name.floor_char_boundary(super::NAME_BYTES)).unwrap_or(name);
    Some((start, start.saturating_add(hex(size)?), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_earlier_processes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        std::fs::write(&path, b"1000 10 name\n").unwrap();
        let meta = path.metadata().unwrap();
        let written_ns = FileStamp::from(&meta).modified_ns;
        assert!(PerfMap::read(&path, meta.uid(), written_ns).is_some());
        assert!(PerfMap::read(&path, meta.uid(), written_ns + 1).is_none());
    }

    #[test]
    fn the_last_line_for_an_address_counts_and_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        std::fs::write(&path, b"1000 10 old\n1000 20 new name\nbad\n0x2000 8 b\xff\n").unwrap();
        let uid = path.metadata().unwrap().uid();
        let map = PerfMap::read(&path, uid, 0).unwrap();
        assert_eq!(map.find(0x101f), Some("new name"));
        assert_eq!(map.find(0x1020), None);
        assert!(map.find(0x2007).is_some());
        assert!(PerfMap::read(&path, uid + 1, 0).is_none());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(PerfMap::read(&link, uid, 0).is_none());
    }
}
