//! Version 1 stays readable, and is what is written.
//!
//! `tests/golden/v1.ring` was made by
//! `TRACESHIM_WRITE_GOLDEN=1 cargo test -p traceshim-ring --test golden`.
#![cfg(not(loom))]

use std::path::Path;
use traceshim_ring::file::RingFile;
use traceshim_ring::mapping::{NewRing, RingMap};
use traceshim_ring::record::{MORE, Origin, Record, StackRef, kind, pair, records};
use traceshim_ring::ring::{Clock, Cursor, Owner};
use traceshim_ring::stack::{FRAME_EXACT, StackStatus, Unwinder};
use traceshim_ring::stamp::FileStamp;
use traceshim_ring::table::ModuleEntry;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.ring");

struct Fixed;
impl Clock for Fixed {
    fn sync(&self) -> (u64, u64) {
        (2000, 3000)
    }
}

/// Every kind of record and every table.
fn write(dir: &Path) -> Vec<u8> {
    let new = NewRing {
        bytes: 64 << 10,
        overwrite: false,
        tsc: true,
        pid: 77,
        ppid: 1,
        uuid: [0x1111, 0x2222],
        start_mono_ns: 5,
        start_real_ns: 6,
        stack_depth: 128,
    };
    let map = RingMap::create(dir, b"golden", &new).unwrap();
    let ring = map.ring().unwrap();
    let module = ModuleEntry {
        start: 0x1000,
        end: 0x9000,
        bias: 0x1000,
        load_ticks: 1,
        is_host: true,
        build_id: &[0xab; 20],
        path: b"/bin/golden",
        file: FileStamp::default(),
    };
    let module = u64::from(ring.module(&module));
    ring.hook(3, 0x1234, b"host_called_from_c");
    let node = ring.stack(&[0x1234 | FRAME_EXACT, 0x2345, 0x3456], StackStatus::Complete);
    let stack = StackRef::new(node, Unwinder::FramePointer).0;
    let name = ring.string(b"name");
    let owner = Owner { uid: ring.next_uid(), tid: 78, origin: Origin::C, creator: 9, name, depth: 1 };
    let mut cursor = Cursor::default();
    let text = u64::from_le_bytes(*b"a messag");
    let bodies: [(u8, u16, &[u64]); 17] = [
        (kind::CALLBACK_ENTER, 3, &[pair(stack, 1)]),
        (kind::CALLBACK_EXIT, 3, &[]),
        (kind::CALLBACK_EXIT, 3, &[1]),
        (kind::THREAD_BIRTH, Origin::Host as u16, &[pair(stack, 2), 0x4567]),
        (kind::THREAD_START, Origin::C as u16, &[pair(name, 9), 0x4567]),
        (kind::THREAD_NAME, 0, &[pair(name, 1)]),
        (kind::LOG, 8 | MORE, &[pair(stack, name), text]),
        (kind::TEXT, 1, &[u64::from(b'e')]),
        (kind::REGION_BEGIN, 0, &[pair(stack, name)]),
        (kind::REGION_END, 0, &[pair(stack, name)]),
        (kind::TASK_BEGIN, 0, &[pair(stack, name), 5, 4]),
        (kind::TASK_END, 0, &[u64::from(stack), 5]),
        (kind::MODULE_LOAD, 0, &[module]),
        (kind::MODULE_UNLOAD, 0, &[module]),
        (kind::FORK, 0, &[79]),
        (kind::EXEC, 0, &[u64::from(name)]),
        (kind::THREAD_EXIT, 1, &[]),
    ];
    for (i, (kind, arg, body)) in bodies.into_iter().enumerate() {
        assert!(ring.put(&mut cursor, &owner, &Fixed, 1000 + i as u64 * 10, (kind, arg), body));
    }
    ring.module_unloaded(module as u32, 1200);
    ring.count_loss(&mut cursor, &owner, 1300);
    map.trim(true).unwrap();
    std::fs::read(map.path()).unwrap()
}

#[test]
fn what_is_written_is_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path());
    if std::env::var_os("TRACESHIM_WRITE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, &written).unwrap();
    }
    let golden = std::fs::read(GOLDEN).unwrap();
    assert_eq!(written.len(), golden.len());
    let first = written.iter().zip(&golden).position(|(a, b)| a != b);
    assert_eq!(first, None, "the first byte that differs");
}

#[test]
fn version_1_is_read() {
    let shot = RingFile::open(Path::new(GOLDEN)).unwrap().snapshot().unwrap();
    assert_eq!((shot.process.pid, shot.process.chunks, shot.cut), (77, 16, None));
    let tables = &shot.tables;
    let module = &tables.modules()[0];
    assert_eq!((module.unload_ticks, module.is_host, &module.path[..]), (1200, true, &b"/bin/golden"[..]));
    assert_eq!(module.build_id, [0xab; 20]);
    let loss = tables.losses()[0];
    assert_eq!((loss.uid, loss.tid, loss.count, loss.from_ticks, loss.to_ticks), (1, 78, 1, 1300, 1300));
    let all: Vec<_> = records(&shot.pieces[0].words).collect();
    assert_eq!(all.len(), 18);
    let Record::Owner { uid: 1, tid: 78, nth: 1, origin: Origin::C, depth: 1, creator: 9, name, .. } = all[0]
    else {
        panic!("{:?}", all[0]);
    };
    assert_eq!(tables.string(name).unwrap(), b"name");
    let Record::CallbackEnter { hook: 3, stack, .. } = all[1] else { panic!("{:?}", all[1]) };
    assert_eq!(stack.unwinder(), Unwinder::FramePointer);
    let frames = vec![0x1234 | FRAME_EXACT, 0x2345, 0x3456];
    assert_eq!(tables.stack(stack), Some((frames, StackStatus::Complete)));
    let Record::Log { text, more: true, .. } = all[7] else { panic!("{:?}", all[7]) };
    assert_eq!(text.to_vec(), b"a messag");
    assert!(matches!(all[17], Record::ThreadExit { unwound: true, delta: 10 }));
}

/// Every byte of a ring is the traced program's to scribble on.
#[test]
fn damage_is_survived() {
    let golden = std::fs::read(GOLDEN).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.ring");
    // A fixed sequence: what fails once fails again.
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    let mut readable = 0;
    for round in 0..2000 {
        let mut bytes = golden.clone();
        for _ in 0..=random() % 8 {
            let at = random() % bytes.len();
            match random() % 4 {
                0 => bytes[at] ^= 1 << (random() % 8),
                1 => bytes[at] = 0xff,
                2 => {
                    let word = bytes.get_mut(at / 8 * 8..at / 8 * 8 + 8);
                    word.into_iter().for_each(|word| word.copy_from_slice(&(random() as u64).to_le_bytes()));
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let Ok(shot) = RingFile::open(&path).unwrap().snapshot() else { continue };
        readable += 1;
        for piece in &shot.pieces {
            for record in records(&piece.words) {
                if let Record::CallbackEnter { stack, hook, .. } = record {
                    shot.tables.stack(stack);
                    shot.tables.hook(hook).and_then(|hook| shot.tables.string(hook.name));
                }
            }
        }
        for at in 0..300 {
            shot.tables.string(at * 7 + round);
            shot.tables.stack(StackRef(at * 5 + round));
        }
    }
    assert!(readable > 500, "most damage leaves a ring that can be read, {readable} did");
}
