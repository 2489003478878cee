//! What is written comes back, from a real file, while it is written and after.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, Ordering};
use traceshim_ring::drain::Drain;
use traceshim_ring::file::RingFile;
use traceshim_ring::layout::header;
use traceshim_ring::mapping::{NewRing, RingMap};
use traceshim_ring::read::{Piece, ReadError};
use traceshim_ring::record::{Origin, Record, StackRef, kind, pair, records};
use traceshim_ring::ring::{Clock, Cursor, Owner, Ring};
use traceshim_ring::stack::{StackStatus, Unwinder};
use traceshim_ring::stamp::FileStamp;
use traceshim_ring::table::ModuleEntry;

struct Fixed;
impl Clock for Fixed {
    fn sync(&self) -> (u64, u64) {
        (1_000_000, 2_000_000)
    }
}

fn new_ring(dir: &Path, bytes: u64, overwrite: bool) -> RingMap {
    let new = NewRing {
        bytes,
        overwrite,
        tsc: true,
        pid: 77,
        ppid: 1,
        uuid: [1, 2],
        start_mono_ns: 5,
        start_real_ns: 6,
        stack_depth: 128,
    };
    RingMap::create(dir, b"app", &new).expect("create")
}

fn owner(ring: &Ring<'_>, tid: u32) -> Owner {
    Owner { uid: ring.next_uid(), tid, origin: Origin::Host, creator: 0, name: 0, depth: 0 }
}

/// Writes an enter whose "stack" carries the number of the event.
fn enter(ring: &Ring<'_>, cursor: &mut Cursor, owner: &Owner, n: u32) -> bool {
    ring.put(cursor, owner, &Fixed, 1000 + u64::from(n), (kind::CALLBACK_ENTER, 3), &[pair(n, 1)])
}

/// The event numbers per thread, in the order of the thread's tenancies.
fn numbers(pieces: &[Piece]) -> BTreeMap<u32, Vec<u32>> {
    let mut tenancies: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
    for piece in pieces {
        let mut key = None;
        for record in records(&piece.words) {
            match record {
                Record::Owner { uid, nth, .. } => key = Some((uid, nth)),
                Record::CallbackEnter { stack, .. } => {
                    tenancies.entry(key.expect("an owner first")).or_default().push(stack.0);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    let mut all: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for ((uid, _), list) in tenancies {
        all.entry(uid).or_default().extend(list);
    }
    all
}

#[test]
fn tables_and_records_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let map = new_ring(dir.path(), 1 << 20, false);
    let ring = map.ring().unwrap();
    let frames = [0x1000, 0x2000, 0x3000];
    let node = ring.stack(&frames, StackStatus::Complete);
    assert_eq!(ring.stack(&frames, StackStatus::Complete), node, "interned once");
    assert_ne!(ring.stack(&frames, StackStatus::NoModule), node, "the status is part of the stack");
    let name = ring.string(b"host_called_from_c");
    assert_eq!(ring.string(b"host_called_from_c"), name);
    let long = vec![b'x'; 10_000];
    assert_ne!(ring.string(&long), 0);
    let module = ModuleEntry {
        start: 1,
        end: 2,
        bias: 3,
        load_ticks: 4,
        is_host: true,
        build_id: &[9; 20],
        path: b"/a",
        file: FileStamp { bytes: 10, modified_ns: 11, changed_ns: 12 },
    };
    let id = ring.module(&module);
    ring.module_unloaded(id, 99);
    assert!(ring.hook(3, 0x1234, b"host_called_from_c"));
    let (mut cursor, owner) = (Cursor::default(), owner(&ring, 5));
    let stack = StackRef::new(node, Unwinder::FramePointer);
    assert!(ring.put(&mut cursor, &owner, &Fixed, 1000, (kind::CALLBACK_ENTER, 3), &[pair(stack.0, 1)]));
    assert!(ring.put(&mut cursor, &owner, &Fixed, 1040, (kind::CALLBACK_EXIT, 3), &[]));

    let shot = RingFile::open(map.path()).unwrap().snapshot().unwrap();
    assert_eq!((shot.process.pid, shot.process.uuid, shot.cut), (77, [1, 2], None));
    let tables = &shot.tables;
    assert_eq!(tables.stack(stack), Some((frames.to_vec(), StackStatus::Complete)));
    let hook = tables.hook(3).unwrap();
    assert_eq!((hook.address, tables.string(hook.name).unwrap()), (0x1234, b"host_called_from_c".to_vec()));
    let seen = &tables.modules()[0];
    assert_eq!(
        (seen.start, seen.unload_ticks, &seen.build_id[..], &seen.path[..]),
        (1, 99, &[9; 20][..], &b"/a"[..])
    );
    assert_eq!(seen.file, module.file);
    assert_eq!(tables.module_with(id), Some(seen));
    let all: Vec<_> = records(&shot.pieces[0].words).collect();
    assert!(matches!(all[0], Record::Owner { tid: 5, ticks: 1000, sync_ticks: 1_000_000, .. }));
    assert_eq!(all[1], Record::CallbackEnter { delta: 0, hook: 3, depth: 1, stack });
    assert_eq!(all[2], Record::CallbackExit { delta: 40, hook: 3, unwound: false });
    assert_eq!(all.len(), 3);
}

#[test]
fn a_jump_in_time_is_written_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let map = new_ring(dir.path(), 1 << 20, false);
    let ring = map.ring().unwrap();
    let (mut cursor, owner) = (Cursor::default(), owner(&ring, 5));
    for ticks in [1000, 1000 + (1 << 40), 500] {
        assert!(ring.put(&mut cursor, &owner, &Fixed, ticks, (kind::CALLBACK_EXIT, 0), &[]));
    }
    let shot = RingFile::open(map.path()).unwrap().snapshot().unwrap();
    let all: Vec<_> = records(&shot.pieces[0].words).collect();
    assert!(matches!(all[2], Record::Time { ticks, .. } if ticks == 1000 + (1 << 40)));
    assert!(matches!(all[4], Record::CallbackExit { delta: 0, .. }), "a clock that steps back stands still");
}

#[test]
fn many_short_threads_share_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let map = new_ring(dir.path(), 1 << 20, false);
    let ring = map.ring().unwrap();
    for n in 0..5000 {
        let (mut cursor, owner) = (Cursor::default(), owner(&ring, n));
        assert!(enter(&ring, &mut cursor, &owner, n), "thread {n} found no room");
        ring.release(&mut cursor);
    }
    let shot = RingFile::open(map.path()).unwrap().snapshot().unwrap();
    assert_eq!(numbers(&shot.pieces).len(), 5000);
}

/// More threads come and go than the ledger has lines for.
#[test]
fn what_overwritten_threads_lost_is_counted() {
    const THREADS: u32 = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let map = new_ring(dir.path(), 256 << 10, true);
    let ring = map.ring().unwrap();
    for n in 0..THREADS {
        let (mut cursor, owner) = (Cursor::default(), owner(&ring, n));
        assert!(enter(&ring, &mut cursor, &owner, n), "thread {n} found no room");
        ring.release(&mut cursor);
    }
    let shot = RingFile::open(map.path()).unwrap().snapshot().unwrap();
    let kept = numbers(&shot.pieces).len() as u64;
    let lost: u64 = shot.tables.losses().iter().map(|loss| loss.count).sum();
    assert_eq!(kept + lost, u64::from(THREADS));
    assert!(kept > 1000, "the ledger took the ring: {kept} events are left");
}

/// 8 threads write, a consumer drains, and every event is drained, still in
/// the ring, or counted as lost.
fn every_event_is_accounted_for(overwrite: bool) {
    const THREADS: u32 = 8;
    const EVENTS: u32 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let map = new_ring(dir.path(), 256 << 10, overwrite);
    let ring = map.ring().unwrap();
    let (done, mut taken) = (AtomicBool::new(false), Vec::new());
    std::thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            let drain = Drain::open(map.path()).unwrap();
            let mut taken = Vec::new();
            while !done.load(Ordering::Acquire) {
                taken.extend(drain.closed().unwrap().into_iter().filter(|piece| drain.confirm(piece)));
            }
            taken
        });
        let writers: Vec<_> = (0..THREADS)
            .map(|tid| {
                scope.spawn(move || {
                    let (mut cursor, owner) = (Cursor::default(), owner(&ring, tid));
                    for n in 0..EVENTS {
                        enter(&ring, &mut cursor, &owner, n);
                    }
                    ring.release(&mut cursor);
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Release);
        taken = consumer.join().unwrap();
    });
    let shot = RingFile::open(map.path()).unwrap().snapshot().unwrap();
    taken.extend(shot.pieces);
    let kept = numbers(&taken);
    let mut lost = 0;
    for loss in shot.tables.losses() {
        assert!(loss.from_ticks >= 1000 && loss.from_ticks <= loss.to_ticks);
        assert!(loss.to_ticks < 1000 + u64::from(EVENTS));
        lost += loss.count;
    }
    for list in kept.values() {
        assert!(list.windows(2).all(|w| w[0] < w[1]), "in order, and none twice");
    }
    let kept: u64 = kept.values().map(|list| list.len() as u64).sum();
    assert_eq!(kept + lost, u64::from(THREADS * EVENTS));
}

#[test]
fn drop_accounts_for_every_event() {
    every_event_is_accounted_for(false);
}

#[test]
fn overwrite_accounts_for_every_event() {
    every_event_is_accounted_for(true);
}

#[test]
fn a_full_ring_drops_until_a_chunk_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let map = new_ring(dir.path(), 64 << 10, false);
    let ring = map.ring().unwrap();
    let (mut cursor, owner) = (Cursor::default(), owner(&ring, 1));
    let mut n = 0;
    while enter(&ring, &mut cursor, &owner, n) {
        n += 1;
    }
    assert!(!enter(&ring, &mut cursor, &owner, n + 1));
    // What is full is known to be, and isn't searched again by whoever comes.
    let searches = || ring.load(header::CLAIM_CURSOR, Relaxed);
    let before = searches();
    assert!(ring.will_lose(&cursor) && ring.will_lose(&Cursor::default()));
    let found = (0..1000).filter_map(|frame| ring.stack_node(frame << 20, 0xfff)).count();
    assert_eq!((ring.string(&[7; 1000]), found, searches()), (0, 0, before));
    let drain = Drain::open(map.path()).unwrap();
    let pieces = drain.closed().unwrap();
    assert!(drain.confirm(&pieces[0]) && !drain.confirm(&pieces[0]), "a chunk is given back once");
    assert!(!ring.will_lose(&cursor));
    assert!(enter(&ring, &mut cursor, &owner, n + 2));
    let shot = drain.snapshot().unwrap();
    assert_eq!(shot.tables.losses().iter().map(|loss| loss.count).sum::<u64>(), 2);
    assert!(Drain::open(map.path()).is_err_and(|e| matches!(e, ReadError::Io(_))), "one collector at a time");
}

#[test]
fn the_end_cuts_the_file_and_late_writers_do_not_fault() {
    let dir = tempfile::tempdir().unwrap();
    let map = new_ring(dir.path(), 16 << 20, false);
    let ring = map.ring().unwrap();
    let (mut cursor, owner) = (Cursor::default(), owner(&ring, 1));
    enter(&ring, &mut cursor, &owner, 1);
    map.trim(true).unwrap();
    assert!(std::fs::metadata(map.path()).unwrap().len() <= 128 << 10);
    for n in 0..100_000 {
        enter(&ring, &mut cursor, &owner, n);
    }
    let shot = RingFile::open(map.path()).unwrap().snapshot().unwrap();
    assert!(shot.pieces[0].words.len() > 8);
    map.trim(false).unwrap();
    assert!(!map.path().exists());
}

#[test]
fn two_rings_of_one_process_have_two_names() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (new_ring(dir.path(), 64 << 10, false), new_ring(dir.path(), 64 << 10, false));
    assert_ne!(a.path(), b.path());
    assert_eq!(traceshim_ring::session::ring_files(dir.path()).unwrap().len(), 2);
}

/// Two readers of the same chunk: one gives it back, the other one is killed
/// after its copy, and the program overwrites it.
#[test]
fn a_chunk_says_whether_its_content_was_given_back_or_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let map = new_ring(dir.path(), 64 << 10, true);
    let ring = map.ring().unwrap();
    let (mut cursor, owner) = (Cursor::default(), owner(&ring, 5));
    let mut n = 0;
    let mut write = |events: u32| {
        for _ in 0..events {
            assert!(enter(&ring, &mut cursor, &owner, n));
            n += 1;
        }
    };
    write(2000);
    let drain = Drain::open(map.path()).unwrap();
    let (given_back, kept): (Vec<Piece>, Vec<Piece>) =
        drain.closed().unwrap().into_iter().partition(|piece| piece.chunk % 2 == 0);
    assert!(given_back.len() > 2 && kept.len() > 2);
    assert!(given_back.iter().all(|piece| drain.confirm(piece)));
    let head = |piece: &Piece| {
        let heads = drain.snapshot().unwrap().heads;
        heads.into_iter().find(|head| head.chunk == piece.chunk).unwrap()
    };
    assert!(given_back.iter().chain(&kept).all(|piece| !head(piece).overwrote(piece.seq)));
    write(20_000);
    for piece in given_back {
        assert!(head(&piece).seq > piece.seq && !head(&piece).overwrote(piece.seq));
    }
    for piece in kept {
        assert!(head(&piece).overwrote(piece.seq));
    }
}
