//! The protocol under a model checker: every order of steps that the memory
//! model allows, within a bound on preemptions. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p traceshim-ring --release --test loom`.
//!
//! The writer is the thread that the checker runs first: of several loads of a
//! word it remembers only the last, so a reader that ran before the writer's own
//! load-and-exchange would not be tried at any other place.
//!
//! For each ordering that is claimed to matter there is a run with that
//! ordering weakened, in which the checker must find a failure.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use std::panic::catch_unwind;
use traceshim_ring::layout::{CHUNK_WORDS, FLAG_OVERWRITE, MAGIC, VERSION, header};
use traceshim_ring::read::read_chunk;
use traceshim_ring::record::{Origin, Record, kind, pair, records};
use traceshim_ring::ring::{Clock, Cursor, Owner, Ring};
use traceshim_ring::sync::{Step, model::weaken};

struct Still;
impl Clock for Still {
    fn sync(&self) -> (u64, u64) {
        (1, 1)
    }
}

/// The words of a ring, shared by a model's threads.
#[derive(Clone)]
struct Model(Arc<(Vec<AtomicU64>, Vec<AtomicU64>)>);

impl Model {
    fn new(chunks: u32, overwrite: bool) -> Model {
        let words: Vec<AtomicU64> = (0..chunks as usize * CHUNK_WORDS).map(|_| AtomicU64::new(0)).collect();
        let set = |at: usize, value: u64| words[at].store(value, Ordering::Relaxed);
        set(header::MAGIC, MAGIC);
        set(header::VERSION, u64::from(VERSION));
        // One chunk is reserved for the ledger.
        set(header::CHUNKS, pair(chunks, 1));
        set(header::FLAGS, if overwrite { FLAG_OVERWRITE } else { 0 });
        Model(Arc::new((words, (0..4).map(|_| AtomicU64::new(0)).collect())))
    }

    fn ring(&self) -> Ring<'_> {
        Ring::new(&self.0.0, &self.0.1).expect("the header fits")
    }
}

fn owner(uid: u32) -> Owner {
    Owner { uid, tid: uid, origin: Origin::Host, creator: 0, name: 0, depth: 0 }
}

/// Writes an event that says `n` in three places, so that a torn one is seen.
fn event(ring: &Ring<'_>, cursor: &mut Cursor, uid: u32, n: u64) -> bool {
    ring.put(cursor, &owner(uid), &Still, 1, (kind::TASK_BEGIN, 0), &[n, n, n])
}

/// The events in a chunk, as far as published: (thread, number).
fn events(ring: &Ring<'_>, chunk: u32) -> Vec<(u32, u64)> {
    let Some(piece) = read_chunk(ring, chunk) else { return Vec::new() };
    let (mut all, mut walk, mut uid) = (Vec::new(), records(&piece.words), 0);
    for record in walk.by_ref() {
        match record {
            Record::Owner { uid: now, .. } => {
                assert_ne!(now, 0, "an owner record that wasn't written");
                uid = now;
            }
            Record::TaskBegin { stack, name, id, parent, .. } => {
                assert!(id == parent && pair(stack.0, name) == id && id != 0, "a torn event");
                all.push((uid, id));
            }
            other => panic!("nobody wrote {other:?}"),
        }
    }
    assert!(!walk.damaged(), "words that were published but not there");
    all
}

fn check(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

/// The model holds, and each weakened step breaks it.
fn holds_only_with(steps: &[Step], f: impl Fn() + Sync + Send + Copy + std::panic::UnwindSafe + 'static) {
    weaken(None);
    check(f);
    for &step in steps {
        weaken(Some(step));
        let found = catch_unwind(move || check(f)).is_err();
        weaken(None);
        assert!(found, "{step:?} weakened, and nothing failed");
    }
}

#[test]
fn what_is_published_is_whole() {
    holds_only_with(&[Step::Publish, Step::Observe], || {
        let model = Model::new(3, false);
        let reader = model.clone();
        let thread = loom::thread::spawn(move || {
            let seen = events(&reader.ring(), 1);
            assert!(seen.is_empty() || seen == [(1, 7)]);
        });
        let (ring, mut cursor) = (model.ring(), Cursor::default());
        assert!(event(&ring, &mut cursor, 1, 7));
        thread.join().unwrap();
        assert_eq!(events(&model.ring(), 1), [(1, 7)]);
    });
}

#[test]
fn a_new_tenant_shows_nothing_of_the_old_one() {
    holds_only_with(&[Step::Open], || {
        let model = Model::new(3, false);
        {
            // Filled, drained and given back before the threads begin.
            let (ring, mut cursor) = (model.ring(), Cursor::default());
            for n in 0..3 {
                event(&ring, &mut cursor, 1, 100 + n);
            }
            let piece = read_chunk(&ring, 1).unwrap();
            ring.close_for_test(&mut cursor);
            assert!(ring.free_for_test(&piece));
        }
        let reader = model.clone();
        let thread = loom::thread::spawn(move || {
            let seen = events(&reader.ring(), 1);
            assert!(seen.is_empty() || seen == [(2, 7)], "{seen:?}");
        });
        let (ring, mut cursor) = (model.ring(), Cursor::default());
        assert!(event(&ring, &mut cursor, 2, 7));
        thread.join().unwrap();
    });
}

#[test]
fn two_threads_never_share_a_chunk() {
    holds_only_with(&[], || {
        let model = Model::new(4, false);
        let writer = model.clone();
        let thread = loom::thread::spawn(move || {
            let (ring, mut cursor) = (writer.ring(), Cursor::default());
            assert!(event(&ring, &mut cursor, 1, 7));
        });
        let (ring, mut cursor) = (model.ring(), Cursor::default());
        assert!(event(&ring, &mut cursor, 2, 8));
        thread.join().unwrap();
        let mut all = [events(&ring, 1), events(&ring, 2)].concat();
        all.sort_unstable();
        assert_eq!(all, [(1, 7), (2, 8)]);
    });
}

#[test]
fn what_is_handed_over_is_kept() {
    holds_only_with(&[Step::HandOver], || {
        // One chunk for records: the second thread has room only after the first.
        let model = Model::new(3, false);
        let writer = model.clone();
        let thread = loom::thread::spawn(move || {
            let (ring, mut cursor) = (writer.ring(), Cursor::default());
            let wrote = event(&ring, &mut cursor, 1, 7);
            ring.release(&mut cursor);
            wrote
        });
        let (ring, mut cursor) = (model.ring(), Cursor::default());
        let wrote = event(&ring, &mut cursor, 2, 8);
        ring.release(&mut cursor);
        let other_wrote = thread.join().unwrap();
        let mut expected = Vec::new();
        expected.extend(other_wrote.then_some((1, 7)));
        expected.extend(wrote.then_some((2, 8)));
        let mut all = events(&ring, 1);
        all.sort_unstable();
        assert_eq!(all, expected);
    });
}

#[test]
fn a_closed_chunk_is_drained_or_overwritten_never_both() {
    holds_only_with(&[], || {
        let model = Model::new(3, true);
        {
            let (ring, mut cursor) = (model.ring(), Cursor::default());
            assert!(event(&ring, &mut cursor, 1, 7));
            ring.close_for_test(&mut cursor);
        }
        let collector = model.clone();
        let thread = loom::thread::spawn(move || {
            let ring = collector.ring();
            match read_chunk(&ring, 1) {
                Some(piece) if !piece.open => ring.free_for_test(&piece),
                _ => false,
            }
        });
        let (ring, mut cursor) = (model.ring(), Cursor::default());
        assert!(event(&ring, &mut cursor, 2, 8), "there is always room");
        let drained = thread.join().unwrap();
        assert_eq!(ring.lost_for_test(1), u64::from(!drained));
    });
}

#[test]
fn a_stack_means_the_same_to_both_threads() {
    holds_only_with(&[], || {
        let model = Model::new(4, false);
        let other = model.clone();
        let read = |ring: &Ring<'_>, node: u32| {
            let word = |at: usize| ring.load(at, Ordering::Relaxed);
            (word(node as usize * 2), word(node as usize * 2 + 1))
        };
        let thread = loom::thread::spawn(move || {
            let ring = other.ring();
            let node = ring.stack_node(0x1000, 1).expect("room");
            assert_eq!(read(&ring, node), (0x1000, 1));
        });
        let ring = model.ring();
        let node = ring.stack_node(0x1000, 1).expect("room");
        assert_eq!(read(&ring, node), (0x1000, 1));
        thread.join().unwrap();
    });
}
