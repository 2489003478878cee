#![allow(unsafe_code)]
//! The memo says the same as a walk: on random programs, and condition by
//! condition. Each of the single tests fails when its condition is taken out.

#[path = "support/cfi.rs"]
mod cfi;
#[path = "support/scene.rs"]
mod scene;
#[path = "support/simulated.rs"]
mod simulated;

use scene::{CODE, ROOM, Scene, set};
use simulated::{Program, Random, Shape, site};
use traceshim_unwind::{Capturer, Kind, Outcome, Policy, Regs, StackBounds, StackStatus};

const AUTO: Policy = Policy::Auto { c_on_stack: false };

fn shapes(random: &mut Random) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = (0..5)
        .map(|_| {
            let words = random.below(4) as u8;
            match random.below(3) {
                0 => Shape::Plain(words),
                1 => Shape::UsesRbp(words),
                _ => Shape::FramePointer(words),
            }
        })
        .collect();
    shapes.push(Shape::Start);
    shapes
}

/// How many events to try; `TRACESHIM_TEST_EVENTS` for a longer run.
fn events() -> u64 {
    std::env::var("TRACESHIM_TEST_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000_000)
}

#[test]
fn random_programs() {
    let (mut hits, mut spliced, mut total) = (0u64, 0u64, 0u64);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut capturer = Capturer::boxed();
    let mut code = shapes(&mut random);
    let mut generation = 1;
    let mut modules = set(&code, generation);
    let mut program = Program::new(code.clone(), 7);
    let mut stacks: Vec<(Vec<u64>, Outcome)> = Vec::new();
    while total < events() {
        total += 1;
        if random.below(500) == 0 {
            // A module is unloaded, and another or the same comes to its place.
            if random.below(3) > 0 {
                code = shapes(&mut random);
            }
            generation += 1;
            // No number from before is ever found again.
            stacks.clear();
            modules = set(&code, generation);
            program.replace(code.clone(), random.next() & random.next());
        }
        program.run();
        let policy = if random.below(4) == 0 { AUTO } else { Policy::Table };
        let regs = program.regs();
        let right = program.frames();
        let bounds = program.bounds();
        match capturer.lookup(generation, &bounds, &regs, Kind::new(false, policy, ROOM, 0)) {
            Some(id) => {
                hits += 1;
                let (frames, outcome) = &stacks[id as usize];
                assert_eq!((frames, outcome.status), (&right, StackStatus::Complete), "event {total}");
            }
            None => {
                let mut out = vec![0; ROOM];
                let o = capturer.capture(&modules, &bounds, &regs, false, policy, &mut out);
                out.truncate(o.len);
                assert_eq!((&out, o.status), (&right, StackStatus::Complete), "event {total}");
                // What is said to be unchanged since the last capture is.
                let outer = capturer.unchanged();
                if outer > 0 {
                    spliced += 1;
                    let last = &stacks.last().expect("a last stack").0;
                    assert_eq!(out[out.len() - outer..], last[last.len() - outer..], "event {total}");
                }
                let remembered = capturer.remember(stacks.len() as u32, 0);
                stacks.push((out, o));
                // What was just remembered is known.
                let again = capturer.lookup(generation, &bounds, &regs, Kind::new(false, policy, ROOM, 0));
                let last = stacks.len() as u32 - 1;
                assert_eq!(again, remembered.then_some(last), "event {total}");
            }
        }
    }
    println!("{hits} of {total} stacks were known, {spliced} spliced");
    assert!(spliced * 20 > total, "too few spliced: {spliced} of {total}");
    assert!(hits * 10 > total, "too few hits to mean anything: {hits} of {total}");
}

/// 0 called by 0 called by the start.
fn plain() -> Scene {
    Scene::new(0, &[9, site(0, 0), 9, site(3, 0), 0, 0], &[], None)
}

#[test]
fn a_changed_return_address_is_seen() {
    let mut scene = plain();
    scene.remember();
    scene.stack.0[3] = site(3, 1);
    assert_eq!(scene.lookup(), None);
    scene.stack.0[3] = site(3, 0);
    assert_eq!(scene.lookup(), Some(5));
}

#[test]
fn locals_dont_matter() {
    let mut scene = plain();
    scene.remember();
    (scene.stack.0[0], scene.stack.0[2], scene.stack.0[4]) = (1, 2, 3);
    assert_eq!(scene.lookup(), Some(5));
}

#[test]
fn another_generation_of_modules_knows_nothing() {
    let mut scene = plain();
    let before = scene.remember();
    // The same stack means something else to other code.
    let mut other = CODE;
    other[0] = Shape::Plain(3);
    scene.set = set(&other, 2);
    let bounds = scene.stack.bounds();
    let regs = scene.regs;
    assert_eq!(scene.capturer.lookup(2, &bounds, &regs, Kind::new(false, Policy::Table, ROOM, 0)), None);
    let (after, status) = scene.capture();
    assert_ne!(before, after);
    assert_eq!(status, StackStatus::Complete);
}

#[test]
fn rbp_is_compared_where_the_walk_used_it() {
    // At words 1 and 3 there are frames with the same return address, whose
    // callers are at 5 and at 7. Only rbp tells which is the start's.
    let words = [9, 5, site(2, 0), 7, site(2, 0), 0, site(3, 0), 0, site(3, 1)];
    let mut scene = Scene::new(2, &words, &[1, 3], Some(1));
    scene.remember();
    scene.regs.bp += 16;
    assert_eq!(scene.lookup(), None);
    assert_eq!(scene.capture().0[2], site(3, 1));
}

#[test]
fn rbp_is_not_compared_where_nothing_was_found_through_it() {
    let mut scene = plain();
    scene.remember();
    for bp in [0, 1, u64::MAX, scene.regs.sp] {
        scene.regs.bp = bp;
        assert_eq!(scene.lookup(), Some(5));
    }
}

#[test]
fn a_saved_rbp_is_compared_where_it_was_used_and_only_there() {
    // 1 saves rbp (word 0) and was called by 2, which is found through it: at word 2 or 5.
    let words = [2, site(2, 0), 0, site(3, 0), 9, 0, site(3, 1), 0];
    let mut scene = Scene::new(1, &words, &[0], None);
    scene.remember();
    scene.stack.0[0] += 24;
    assert_eq!(scene.lookup(), None);
    assert_eq!(scene.capture().0[2], site(3, 1));
    // The rbp that 2 itself saved (word 2) is nobody's frame pointer.
    scene.stack.0[0] -= 24;
    scene.stack.0[2] = 1234;
    assert_eq!(scene.lookup(), Some(5));
}

#[test]
fn slots_outside_the_stack_are_not_read() {
    let mut scene = plain();
    scene.remember();
    let (base, regs) = (scene.stack.base(), scene.regs);
    for (lo, hi, known) in [
        (base, base + 32, Some(5)),
        (base, base + 31, None),
        (base, base + 24, None),
        (base + 8, base + 48, None),
        (base, base, None),
        (base + 32, base, None),
    ] {
        // SAFETY: no more than the words, which are there.
        let bounds = unsafe { StackBounds::new(lo, hi) };
        let found = scene.capturer.lookup(1, &bounds, &regs, Kind::new(false, Policy::Table, ROOM, 0));
        assert_eq!(found, known, "{lo:#x}..{hi:#x}");
    }
}

#[test]
fn a_walk_that_could_not_read_is_not_remembered() {
    // The caller is beyond the end.
    let mut scene = Scene::new(0, &[9, site(0, 0)], &[], None);
    assert_eq!(scene.capture().1, StackStatus::OutOfBounds);
    scene.capturer.remember(5, 0);
    assert_eq!(scene.lookup(), None);
    // The stack isn't the one that it was taken for.
    let mut scene = Scene::new(0, &[9, site(3, 0), 0], &[], None);
    let detached = scene.stack.bounds();
    // SAFETY: an empty stack reads nothing.
    let nothing = unsafe { StackBounds::new(detached.lo(), detached.lo()) };
    let mut out = [0; ROOM];
    let regs = scene.regs;
    let o = scene.capturer.capture(&scene.set, &nothing, &regs, false, Policy::Table, &mut out);
    assert_eq!(o.status, StackStatus::UnknownStack);
    scene.capturer.remember(5, 0);
    assert_eq!(scene.lookup(), None);
}

#[test]
fn another_question_is_another_walk() {
    let mut scene = plain();
    scene.remember();
    let (bounds, regs) = (scene.stack.bounds(), scene.regs);
    let ask = |regs: &Regs, exact, policy, room| {
        scene.capturer.lookup(1, &bounds, regs, Kind::new(exact, policy, room, 0))
    };
    assert_eq!(ask(&regs, false, Policy::Table, ROOM), Some(5));
    assert_eq!(ask(&regs, false, Policy::Auto { c_on_stack: true }, ROOM), Some(5));
    assert_eq!(ask(&regs, true, Policy::Table, ROOM), None);
    assert_eq!(ask(&regs, false, AUTO, ROOM), None);
    assert_eq!(ask(&regs, false, Policy::FramePointer, ROOM), None);
    assert_eq!(ask(&regs, false, Policy::Table, 2), None);
    assert_eq!(ask(&Regs { ip: regs.ip + 1, ..regs }, false, Policy::Table, ROOM), None);
    assert_eq!(ask(&Regs { sp: regs.sp + 8, ..regs }, false, Policy::Table, ROOM), None);
}

#[test]
fn many_stacks_are_known_at_once_and_old_ones_are_forgotten() {
    let mut capturer = Capturer::boxed();
    let modules = set(&CODE, 1);
    let mut words = vec![0; 600];
    let base = words.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the words outlive the bounds.
    let bounds = unsafe { StackBounds::new(base, base + 8 * 600) };
    let set_up = |n: u64, words: &mut [u64]| {
        // Frames of two words each, down from the start; the sites are the bits of `n`.
        let at = 600 - 4 - 2 * 16;
        for i in 0..16 {
            let address = if i == 15 { site(3, 0) } else { site(0, n >> i & 1) };
            words[at + 2 * i + 1] = address;
        }
        Regs { ip: site(0, 0), sp: base + 8 * at as u64, ..Regs::default() }
    };
    let mut out = [0; ROOM];
    for n in 0..5000u64 {
        let regs = set_up(n, &mut words);
        let o = capturer.capture(&modules, &bounds, &regs, false, Policy::Table, &mut out);
        assert_eq!((o.len, o.status), (17, StackStatus::Complete));
        capturer.remember(n as u32, 0);
        for back in 0..n.min(30) {
            let regs = set_up(n - back, &mut words);
            let found = capturer.lookup(1, &bounds, &regs, Kind::new(false, Policy::Table, ROOM, 0));
            assert_eq!(found, Some((n - back) as u32), "{back} before {n}");
        }
    }
    let known = (0..5000u64)
        .filter(|n| {
            let regs = set_up(*n, &mut words);
            let found = capturer.lookup(1, &bounds, &regs, Kind::new(false, Policy::Table, ROOM, 0));
            assert!(found.is_none_or(|id| u64::from(id) == *n));
            found.is_some()
        })
        .count();
    println!("{known} of the last stacks are known");
    assert!(known >= 32);
}
