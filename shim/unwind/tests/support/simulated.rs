#![allow(dead_code)] // Each test uses its part.
//! A program's stack, simulated: functions that call each other, with the
//! frames that their call frame information describes.

use crate::cfi::*;
use traceshim_unwind::{ModuleDesc, Regs, StackBounds};

/// How a function keeps its frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Locals of this many words, rbp as the caller had it.
    Plain(u8),
    /// The same, with rbp saved and used for anything.
    UsesRbp(u8),
    /// rbp is the frame pointer; locals of this many words.
    FramePointer(u8),
    /// No caller.
    Start,
}

pub(crate) const BIAS: u64 = 0x5500_0000_0000;
const CODE_BYTES: u32 = 64;

/// Where functions are whose frames aren't reported.
pub(crate) const HIDDEN_BIAS: u64 = 0x6600_0000_0000;

/// The module whose function `i` has the shape `shapes[i]`, loaded at `BIAS`.
pub(crate) fn module(shapes: &[Shape], load_id: u64) -> ModuleDesc {
    let mut builder = Builder::default();
    for (i, shape) in shapes.iter().enumerate() {
        let instructions = match *shape {
            Shape::Plain(n) => vec![cfa(RSP, 8 * (n + 1))],
            Shape::UsesRbp(n) => vec![cfa(RSP, 8 * (n + 2)), saved(RBP, 2)],
            Shape::FramePointer(_) => vec![keeps_frame_pointer()],
            Shape::Start => vec![undefined(RA)],
        };
        let svma = CODE_SVMA + u64::from(CODE_BYTES) * i as u64;
        builder = builder.function(svma, CODE_BYTES, &instructions);
    }
    builder.module(BIAS, load_id)
}

/// A return address in function `i`; `site` tells calls apart.
pub(crate) fn site(i: usize, site: u64) -> u64 {
    BIAS + CODE_SVMA + u64::from(CODE_BYTES) * i as u64 + 8 + site
}

#[derive(Clone, Copy)]
struct Frame {
    /// Where it continues after its call.
    ip: u64,
    cfa: u64,
    sp: u64,
    bp: u64,
}

/// A small random number generator (Marsaglia's xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}

/// A stack with frames on it. The last shape is `Start`.
pub(crate) struct Program {
    words: Vec<u64>,
    base: u64,
    shapes: Vec<Shape>,
    /// Bit `i`: function `i` is in the module at `HIDDEN_BIAS`.
    hidden: u64,
    frames: Vec<Frame>,
    pub(crate) random: Random,
}

impl Program {
    pub(crate) fn new(shapes: Vec<Shape>, seed: u64) -> Program {
        let mut words = vec![0u64; 1024];
        let base = words.as_mut_ptr().expose_provenance() as u64;
        let mut program =
            Program { words, base, shapes, hidden: 0, frames: Vec::new(), random: Random(seed) };
        program.restart();
        program
    }

    /// Other code at the same addresses; everything starts again.
    pub(crate) fn replace(&mut self, shapes: Vec<Shape>, hidden: u64) {
        self.shapes = shapes;
        self.hidden = hidden;
        self.restart();
    }

    /// A return address in function `i`.
    fn site(&self, i: usize) -> u64 {
        if self.hidden >> i & 1 == 0 { site(i, 0) } else { site(i, 0) - BIAS + HIDDEN_BIAS }
    }

    fn restart(&mut self) {
        let top = self.base + 8 * (self.words.len() as u64 - 8);
        let start = self.shapes.len() - 1;
        self.frames = vec![Frame { ip: self.site(start), cfa: top, sp: top, bp: 1 }];
    }

    pub(crate) fn bounds(&self) -> StackBounds {
        let hi = self.base + 8 * self.words.len() as u64;
        support_bounds(self.base, hi)
    }

    fn write(&mut self, addr: u64, value: u64) {
        self.words[((addr - self.base) / 8) as usize] = value;
    }

    /// Calls function `i` from the innermost frame, which is to continue at `ip`.
    pub(crate) fn call(&mut self, i: usize) {
        let caller_site = self.random.below(2);
        let caller = self.frames.last_mut().expect("a start");
        caller.ip = caller.ip / 64 * 64 + 8 + caller_site;
        let caller = *caller;
        let cfa = caller.sp;
        self.write(cfa - 8, caller.ip);
        let (words, bp) = match self.shapes[i] {
            Shape::Plain(n) => (n, caller.bp),
            Shape::UsesRbp(n) => {
                self.write(cfa - 16, caller.bp);
                (n + 1, self.any())
            }
            Shape::FramePointer(n) => {
                self.write(cfa - 16, caller.bp);
                (n + 1, cfa - 16)
            }
            Shape::Start => unreachable!("nothing calls the start"),
        };
        let sp = cfa - 8 - 8 * u64::from(words);
        // Some locals are written, others keep what was there.
        for word in 0..u64::from(words) {
            let saved = self.shapes[i] != Shape::Plain(words) && word + 1 == u64::from(words);
            if !saved && self.random.below(2) == 0 {
                let value = self.any();
                self.write(sp + 8 * word, value);
            }
        }
        self.frames.push(Frame { ip: self.site(i), cfa, sp, bp });
    }

    /// What a register or a local may hold: a small number, an address of the
    /// stack, or one of the code.
    fn any(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.below(4),
            1 => self.base + 8 * (900 + self.random.below(100)),
            2 => site(self.random.below(4) as usize, 1),
            _ => self.random.next(),
        }
    }

    /// Returns from the innermost function, unless it is the outermost.
    pub(crate) fn ret(&mut self) {
        if self.frames.len() > 1 {
            self.frames.pop();
        }
        // What ran may have changed the caller's use of rbp.
        let i = self.frames.len() - 1;
        let function = ((self.frames[i].ip & 0xffff_ffff) - CODE_SVMA) / 64;
        if matches!(self.shapes[function as usize], Shape::UsesRbp(_)) {
            self.frames[i].bp = self.any();
        }
    }

    /// Some returns and some calls.
    pub(crate) fn run(&mut self) {
        for _ in 0..self.random.below(3) {
            self.ret();
        }
        for _ in 0..self.random.below(3) {
            if self.frames.len() < 10 {
                let i = self.random.below(self.shapes.len() as u64 - 1);
                self.call(i as usize);
            }
        }
    }

    /// The registers that a capture starts with, at a call of the innermost frame.
    pub(crate) fn regs(&mut self) -> Regs {
        let at = u64::from(self.random.below(8) == 0);
        let frame = self.frames.last_mut().expect("a start");
        frame.ip = frame.ip / 64 * 64 + 8 + at;
        Regs { ip: frame.ip, sp: frame.sp, bp: frame.bp, ..Regs::default() }
    }

    /// The right answer, innermost first.
    pub(crate) fn frames(&self) -> Vec<u64> {
        self.frames.iter().rev().map(|f| f.ip).filter(|ip| *ip < HIDDEN_BIAS).collect()
    }
}

#[allow(unsafe_code)]
fn support_bounds(lo: u64, hi: u64) -> StackBounds {
    // SAFETY: the program's words live and stay where they are as long as it does.
    unsafe { StackBounds::new(lo, hi) }
}
