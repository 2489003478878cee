#![allow(unsafe_code)]
//! The two tiers, without walks: the first one finds alone what the second one
//! has found before.

use super::*;

/// Words of a stack.
const WORDS: usize = 200;
/// Frames of each.
const FRAMES: usize = 16;
const KIND: Kind = Kind(5);

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// A stack's slots: offset and return address, innermost first. How large a
/// frame is depends on the return address inside it, as it does in programs.
fn stack(random: &mut Random, variety: u64) -> Vec<(u16, u64)> {
    let mut offset = 1;
    (0..FRAMES)
        .map(|_| {
            let address = 0x40_0000 + random.below(variety) * 16;
            let slot = (offset, address);
            offset += 1 + (address / 16 % 5) as u16;
            slot
        })
        .collect()
}

fn slots(stack: &[(u16, u64)]) -> Box<Slots> {
    // SAFETY: numbers and flags, of which zero is a value.
    let mut slots: Box<Slots> = unsafe { Box::new_zeroed().assume_init() };
    for (n, (offset, address)) in stack.iter().rev().enumerate() {
        (slots.single_offsets[n], slots.single_values[n]) = (*offset, *address);
    }
    slots.singles = stack.len();
    slots.extent = stack.iter().map(|slot| slot.0).max().unwrap();
    slots
}

struct Scene {
    memo: Box<Memo>,
    words: Vec<u64>,
    random: Random,
    stacks: Vec<Vec<(u16, u64)>>,
}

impl Scene {
    fn new(stacks: usize, variety: u64) -> Scene {
        let mut random = Random(88_172_645_463_325_252);
        let mut all: Vec<_> = (0..stacks * 2).map(|_| stack(&mut random, variety)).collect();
        all.sort();
        all.dedup();
        all.truncate(stacks);
        assert_eq!(all.len(), stacks);
        // SAFETY: the memo is valid when zeroed.
        let memo = unsafe { Box::<Memo>::new_zeroed().assume_init() };
        Scene { memo, words: vec![0; WORDS], random, stacks: all }
    }

    /// Stack `n` in memory, with anything in between.
    fn write(&mut self, n: usize) -> (StackBounds, Regs) {
        for word in &mut self.words {
            *word = 0x40_0000 + self.random.below(1 << 40) * 16;
        }
        for (offset, address) in &self.stacks[n] {
            self.words[usize::from(*offset)] = *address;
        }
        let lo = self.words.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the words stay where they are.
        let bounds = unsafe { StackBounds::new(lo, lo + 8 * WORDS as u64) };
        (bounds, Regs { ip: 0x40_1234, sp: lo, ..Regs::default() })
    }

    /// Comes by stack `n`; whether the first tier found it.
    fn visit(&mut self, n: usize) -> bool {
        let (bounds, regs) = self.write(n);
        // What callers hash to, for the second tier.
        let caller = self.stacks[n][..4].iter().fold(0, |h: u64, slot| h.rotate_left(9) ^ slot.1);
        if let Some(id) = self.memo.lookup(1, KIND, &bounds, &regs) {
            assert_eq!(id, n as u32);
            return true;
        }
        match self.memo.search(1, KIND, &bounds, &regs, caller) {
            Some(id) => assert_eq!(id, n as u32),
            None => {
                let place = Place::of(&regs, KIND, caller);
                assert!(self.memo.remember(1, KIND, &regs, place, &slots(&self.stacks[n]), n as u32));
            }
        }
        false
    }

    /// Visits at random; how many of a hundred the first tier found at last.
    fn percent(&mut self) -> u64 {
        let stacks = self.stacks.len() as u64;
        for _ in 0..stacks * 40 {
            let n = self.random.below(stacks) as usize;
            self.visit(n);
        }
        let last = 10_000;
        let found = (0..last).filter(|_| {
            let n = self.random.below(stacks) as usize;
            self.visit(n)
        });
        found.count() as u64 * 100 / last
    }
}

#[test]
fn one_stack_is_found_by_the_first_tier() {
    let mut scene = Scene::new(1, 4);
    // To remember it, and to teach it.
    let found: Vec<bool> = (0..4).map(|_| scene.visit(0)).collect();
    assert_eq!(found, [false, false, true, true]);
}

#[test]
fn many_stacks_of_one_start_are_told_apart() {
    // Where three nodes or leaves have the place of two, hashes of addresses that
    // are others in each run, some are found by the second tier for good.
    for (stacks, variety) in [(2, 2), (8, 2), (64, 4), (64, 1000), (100, 3)] {
        let percent = Scene::new(stacks, variety).percent();
        assert!(percent >= 75, "{stacks} stacks of {variety} addresses: {percent} % by the first tier");
    }
}

#[test]
fn another_generation_forgets() {
    let mut scene = Scene::new(1, 4);
    while !scene.visit(0) {}
    let (bounds, regs) = scene.write(0);
    assert_eq!(scene.memo.lookup(2, KIND, &bounds, &regs), None);
    scene.memo.follow(2);
    assert_eq!(scene.memo.lookup(2, KIND, &bounds, &regs), None);
}

#[test]
fn what_never_comes_again_is_remembered_at_its_second_visit() {
    let mut scene = Scene::new(2, 4);
    let mixed = |caller: u64| caller.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    let place = |caller| Place::of(&Regs { ip: 1, ..Regs::default() }, KIND, mixed(caller));
    for caller in 1..u64::from(PATIENCE) {
        assert!(scene.memo.admits(place(caller)));
    }
    assert!(!scene.memo.admits(place(500)));
    assert!(!scene.memo.admits(place(501)));
    assert!(scene.memo.admits(place(500)), "the second visit");
    // One that does come again: others are worth it, too.
    scene.visit(0);
    scene.visit(0);
    assert!(scene.memo.admits(place(502)));
}
