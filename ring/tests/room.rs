//! A ring takes the space that it needs, and every event is accounted for where
//! there is no more.
#![cfg(not(loom))]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use traceshim_ring::drain::Drain;
use traceshim_ring::file::RingFile;
use traceshim_ring::layout::CHUNK_BYTES;
use traceshim_ring::mapping::{NewRing, RingMap};
use traceshim_ring::record::{Origin, kind};
use traceshim_ring::ring::{Clock, Cursor, Owner, Ring};

const BYTES: u64 = 4 << 20;
/// What a new ring may take, and how much more at a time, with what file systems
/// need for themselves.
const STEP: u64 = 300 << 10;

struct Now;
impl Clock for Now {
    fn sync(&self) -> (u64, u64) {
        (1, 1)
    }
}

struct Writer<'a> {
    ring: Ring<'a>,
    cursor: Cursor,
    ticks: u64,
    lost: u64,
}

impl<'a> Writer<'a> {
    fn new(map: &'a RingMap) -> Writer<'a> {
        Writer { ring: map.ring().unwrap(), cursor: Cursor::default(), ticks: 0, lost: 0 }
    }

    /// One chunk's worth of events.
    fn write_a_chunk(&mut self) {
        let owner = Owner { uid: 1, tid: 1, origin: Origin::Main, creator: 0, name: 0, depth: 0 };
        for _ in 0..CHUNK_BYTES / 16 {
            self.ticks += 1;
            let head = (kind::CALLBACK_EXIT, 0);
            self.lost += u64::from(!self.ring.put(&mut self.cursor, &owner, &Now, self.ticks, head, &[0]));
        }
    }
}

fn new_ring(dir: &Path, overwrite: bool) -> RingMap {
    let new = NewRing {
        bytes: BYTES,
        overwrite,
        tsc: false,
        pid: 1,
        ppid: 1,
        uuid: [1, 2],
        start_mono_ns: 1,
        start_real_ns: 1,
        stack_depth: 1,
    };
    RingMap::create(dir, b"app", &new).unwrap()
}

/// Bytes that the file has taken of its file system.
fn taken(map: &RingMap) -> u64 {
    std::fs::metadata(map.path()).unwrap().blocks() * 512
}

/// Memory and disk, where the machine has both.
fn file_systems() -> Vec<tempfile::TempDir> {
    let in_memory = tempfile::tempdir_in("/dev/shm").ok();
    in_memory.into_iter().chain(tempfile::tempdir()).collect()
}

#[test]
fn space_is_taken_as_it_is_needed_until_all_is_there() {
    for (dir, overwrite) in file_systems().iter().flat_map(|dir| [(dir, false), (dir, true)]) {
        let map = new_ring(dir.path(), overwrite);
        let mut writer = Writer::new(&map);
        let chunks = u64::from(writer.ring.chunks());
        assert!(taken(&map) <= STEP, "{} bytes of a new ring", taken(&map));
        for written in 1..=chunks {
            writer.write_a_chunk();
            // A chunk has a head and an unused end.
            let most = (written + 2) * CHUNK_BYTES as u64 * 103 / 100 + STEP;
            assert!(taken(&map) <= most, "{} bytes after {written} chunks", taken(&map));
        }
        // All but the header and what is kept for the ledger holds events.
        let snapshot = RingFile::open(map.path()).unwrap().snapshot().unwrap();
        let wanted = chunks - 1 - chunks / 64;
        let ledger = u64::from(!overwrite && writer.lost > 0);
        assert!(snapshot.pieces.len() as u64 + ledger >= wanted, "{} of {wanted}", snapshot.pieces.len());
        assert_eq!(writer.lost > 0, !overwrite);
    }
}

#[test]
fn a_ring_that_is_drained_in_time_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let map = new_ring(dir.path(), false);
    let mut writer = Writer::new(&map);
    let drain = Drain::open(map.path()).unwrap();
    let mut drained = 0;
    for written in 0..4096 {
        writer.write_a_chunk();
        if written % 32 == 0 {
            for piece in drain.closed().unwrap() {
                assert!(drain.confirm(&piece));
                drained += 1;
            }
        }
    }
    assert_eq!(writer.lost, 0);
    assert!(drained > 4000, "{drained}");
    assert!(taken(&map) <= STEP, "{}", taken(&map));
}

#[test]
fn all_is_reserved_when_it_is_asked_for() {
    for dir in file_systems() {
        let map = new_ring(dir.path(), false);
        map.reserve_all();
        assert!(taken(&map) >= BYTES, "{}", taken(&map));
        let mut writer = Writer::new(&map);
        (0..BYTES / CHUNK_BYTES as u64).for_each(|_| writer.write_a_chunk());
        assert!(taken(&map) <= BYTES + STEP);
    }
}
