#![allow(unsafe_code)]
//! What may be taken over from the last stack, condition by condition. Each of
//! these fails when its condition is taken out.

#[path = "support/cfi.rs"]
mod cfi;
#[path = "support/scene.rs"]
mod scene;
#[path = "support/simulated.rs"]
mod simulated;

use scene::{CODE, Scene, set};
use simulated::{Shape, site};
use traceshim_unwind::{Policy, StackBounds, StackStatus};

const PLAIN: usize = 0;
const USES_RBP: usize = 1;
const FRAME_POINTER: usize = 2;
const START: usize = 3;

/// Five frames of function 0, two words each, and then `rest`.
fn after_five(rest: &[u64]) -> Vec<u64> {
    let mut words = Vec::new();
    for _ in 0..4 {
        words.extend([9, site(PLAIN, 0)]);
    }
    words.push(9);
    words.extend(rest);
    words
}

/// Captures twice; the first time everything is learned.
fn learned(scene: &mut Scene) -> Vec<u64> {
    scene.capture();
    let (frames, status) = scene.capture();
    assert_eq!(status, StackStatus::Complete);
    frames
}

/// Seven frames: five plain ones, one that saves rbp, a frame pointer's that is
/// found through it at word 14 or 17, and the start.
fn through_saved_rbp() -> Scene {
    let rest =
        [site(USES_RBP, 0), 14, site(FRAME_POINTER, 0), 0, 0, 0, site(START, 0), 0, 0, site(START, 1), 0];
    Scene::new(PLAIN, &after_five(&rest), &[10], None)
}

#[test]
fn the_outer_part_is_taken_over() {
    let mut scene = through_saved_rbp();
    let before = learned(&mut scene);
    assert_eq!(before.len(), 8);
    assert!((3..8).contains(&scene.capturer.unchanged()));
    // With another leaf it is still.
    scene.stack.0[1] = site(PLAIN, 1);
    let after = scene.capture().0;
    assert!((2..7).contains(&scene.capturer.unchanged()));
    assert_eq!((after[1], &after[2..]), (site(PLAIN, 1), &before[2..]));
}

#[test]
fn a_changed_return_address_is_seen() {
    let mut scene = through_saved_rbp();
    learned(&mut scene);
    scene.stack.0[15] = site(START, 2);
    let (frames, _) = scene.capture();
    assert_eq!(frames.last(), Some(&site(START, 2)));
    assert_eq!(scene.capturer.unchanged(), 0);
}

#[test]
fn a_saved_rbp_that_leads_elsewhere_is_seen() {
    let mut scene = through_saved_rbp();
    learned(&mut scene);
    scene.stack.0[10] += 24;
    let (frames, _) = scene.capture();
    assert_eq!(frames.last(), Some(&site(START, 1)));
}

#[test]
fn an_rbp_that_leads_elsewhere_is_seen() {
    // The start's rbp passes through the plain frames.
    let rest = [site(FRAME_POINTER, 0), 0, 0, 0, 0, site(START, 0), 0, 0, site(START, 1), 0];
    let mut scene = Scene::new(PLAIN, &after_five(&rest), &[], Some(13));
    learned(&mut scene);
    scene.regs.bp += 24;
    let (frames, _) = scene.capture();
    assert_eq!(frames.last(), Some(&site(START, 1)));
}

#[test]
fn other_modules_make_another_stack() {
    let mut scene = through_saved_rbp();
    learned(&mut scene);
    // The frame that saves rbp is larger now.
    let mut code = CODE;
    code[USES_RBP] = Shape::Plain(8);
    scene.set = set(&code, 2);
    let (frames, status) = scene.capture();
    assert_eq!((frames.last(), status), (Some(&site(START, 1)), StackStatus::Complete));
}

#[test]
fn a_stack_that_was_cut_short_is_not_the_end() {
    let mut scene = through_saved_rbp();
    let whole = learned(&mut scene);
    scene.room = 6;
    assert_eq!(scene.capture(), (whole[..6].to_vec(), StackStatus::DepthLimit));
    scene.room = 64;
    assert_eq!(scene.capture(), (whole, StackStatus::Complete));
}

#[test]
fn what_has_no_room_is_cut_short() {
    let mut scene = through_saved_rbp();
    let whole = learned(&mut scene);
    for room in 1..8 {
        scene.room = room;
        assert_eq!(scene.capture(), (whole[..room].to_vec(), StackStatus::DepthLimit));
        scene.room = 64;
        learned(&mut scene);
    }
    scene.room = 8;
    assert_eq!(scene.capture(), (whole, StackStatus::Complete));
}

#[test]
fn learned_walks_and_splices_stay_in_bounds() {
    let mut scene = through_saved_rbp();
    let whole = learned(&mut scene);
    let (base, regs) = (scene.stack.base(), scene.regs);
    // The words to which each frame's return address belongs.
    for (frames, words) in [(1, 1), (2, 3), (5, 9), (6, 11), (7, 15)] {
        // SAFETY: no more than the words, which are there.
        let bounds = unsafe { StackBounds::new(base, base + 8 * words) };
        let mut out = [0; 64];
        let o = scene.capturer.capture(&scene.set, &bounds, &regs, false, Policy::Table, &mut out);
        assert_eq!((&out[..o.len], o.status), (&whole[..frames], StackStatus::OutOfBounds), "{words}");
        learned(&mut scene);
    }
}
