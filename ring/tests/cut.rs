//! Files that get shorter while they are mapped: no signal ends the collector.
#![cfg(not(loom))]

use std::fs::File;
use traceshim_ring::drain::Drain;
use traceshim_ring::guard::faults;
use traceshim_ring::mapping::{MappedFile, NewRing, RingMap};
use traceshim_ring::record::{Origin, kind};
use traceshim_ring::ring::{Clock, Cursor, Owner};

struct Now;
impl Clock for Now {
    fn sync(&self) -> (u64, u64) {
        (1, 1)
    }
}

#[test]
fn a_ring_may_be_cut_between_its_copy_and_its_return() {
    let dir = tempfile::tempdir().unwrap();
    let new = NewRing {
        bytes: 256 << 10,
        overwrite: false,
        tsc: false,
        pid: 1,
        ppid: 1,
        uuid: [1, 2],
        start_mono_ns: 1,
        start_real_ns: 1,
        stack_depth: 1,
    };
    let map = RingMap::create(dir.path(), b"app", &new).unwrap();
    let ring = map.ring().unwrap();
    let owner = Owner { uid: 1, tid: 1, origin: Origin::Main, creator: 0, name: 0, depth: 0 };
    let mut cursor = Cursor::default();
    for ticks in 0..5000 {
        assert!(ring.put(&mut cursor, &owner, &Now, ticks, (kind::CALLBACK_EXIT, 0), &[]));
    }
    let drain = Drain::open(map.path()).unwrap();
    let pieces = drain.closed().unwrap();
    assert!(pieces.len() > 2);
    assert!(drain.confirm(&pieces[0]));
    // The header is there, what comes behind isn't; then nothing is.
    let file = File::options().write(true).open(map.path()).unwrap();
    for bytes in [4096, 0] {
        file.set_len(bytes).unwrap();
        assert!(!drain.confirm(&pieces[1]) && !drain.confirm(&pieces[2]));
        assert!(drain.closed().map_or(0, |pieces| pieces.len()) == 0);
    }
}

#[test]
fn a_mapped_file_that_is_cut_reads_as_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("module");
    std::fs::write(&path, [7; 64 << 10]).unwrap();
    let mapped = MappedFile::open(&path).unwrap();
    let before = faults();
    assert!(mapped.iter().all(|&byte| byte == 7));
    assert_eq!(faults(), before);
    File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
    assert_eq!((mapped[4999], mapped[8191], mapped[8192], mapped[65535]), (7, 0, 0, 0));
    assert!(faults() >= before + 2);
}
