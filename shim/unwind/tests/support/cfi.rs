#![allow(dead_code)] // Each test uses its part.
//! Call frame information made by hand, for stacks in arrays.

use std::sync::Arc;
use traceshim_unwind::{ModuleDesc, Section};

/// `DW_CFA_def_cfa register, offset`.
pub(crate) fn cfa(register: u8, offset: u8) -> Vec<u8> {
    vec![0x0c, register, offset]
}

/// `DW_CFA_offset register, words` below the CFA.
pub(crate) fn saved(register: u8, words: u8) -> Vec<u8> {
    vec![0x80 | register, words]
}

/// `DW_CFA_undefined`.
pub(crate) fn undefined(register: u8) -> Vec<u8> {
    vec![0x07, register]
}

/// `DW_CFA_advance_loc`.
pub(crate) fn advance(bytes: u8) -> Vec<u8> {
    vec![0x40 | bytes]
}

/// `DW_CFA_def_cfa_expression`.
pub(crate) fn cfa_expression(expression: &[u8]) -> Vec<u8> {
    [&[0x0f, expression.len() as u8], expression].concat()
}

/// `DW_CFA_expression`: where the register is.
pub(crate) fn at_expression(register: u8, expression: &[u8]) -> Vec<u8> {
    [&[0x10, register, expression.len() as u8], expression].concat()
}

/// `DW_OP_breg register, offset` (the offset below 64).
pub(crate) fn breg(register: u8, offset: u8) -> Vec<u8> {
    vec![0x70 + register, offset]
}

pub(crate) const DEREF: u8 = 0x06;
pub(crate) const RBX: u8 = 3;
pub(crate) const RBP: u8 = 6;
pub(crate) const RSP: u8 = 7;
pub(crate) const RA: u8 = 16;

/// A function that keeps a frame pointer: `push %rbp` (1 byte), `mov` (3), body.
pub(crate) fn keeps_frame_pointer() -> Vec<u8> {
    [advance(1), cfa(RSP, 16), saved(RBP, 2), advance(3), cfa(RBP, 16)].concat()
}

struct Function {
    svma: u64,
    len: u32,
    instructions: Vec<u8>,
    signal: bool,
}

/// A module under construction.
#[derive(Default)]
pub(crate) struct Builder(Vec<Function>);

/// Where the modules of tests state their sections.
const HDR_SVMA: u64 = 0x10_0000;
const FRAME_SVMA: u64 = 0x20_0000;
/// The stated addresses that functions may have.
pub(crate) const CODE_SVMA: u64 = 0x1000;

impl Builder {
    /// Adds a function; at its entry the CFA is `rsp + 8`, and the return
    /// address below it.
    pub(crate) fn function(mut self, svma: u64, len: u32, instructions: &[Vec<u8>]) -> Self {
        let instructions = instructions.concat();
        self.0.push(Function { svma, len, instructions, signal: false });
        self
    }

    /// Adds a signal trampoline.
    pub(crate) fn signal(mut self, svma: u64, len: u32, instructions: &[Vec<u8>]) -> Self {
        let instructions = instructions.concat();
        self.0.push(Function { svma, len, instructions, signal: true });
        self
    }

    /// The module, loaded with `bias`.
    pub(crate) fn module(mut self, bias: u64, load_id: u64) -> ModuleDesc {
        self.0.sort_by_key(|f| f.svma);
        let mut frame = Vec::new();
        let plain = cie(&mut frame, b"zR\0");
        let signal = cie(&mut frame, b"zRS\0");
        let mut table = Vec::new();
        for f in &self.0 {
            let at = frame.len();
            table.push((f.svma, FRAME_SVMA + at as u64));
            let mut body = Vec::new();
            let cie = if f.signal { signal } else { plain };
            body.extend(((at + 4 - cie) as u32).to_le_bytes());
            let pc = f.svma.wrapping_sub(FRAME_SVMA + at as u64 + 8);
            body.extend((pc as u32).to_le_bytes());
            body.extend(f.len.to_le_bytes());
            body.push(0);
            body.extend(&f.instructions);
            entry(&mut frame, body);
        }
        frame.extend([0; 4]);
        let mut hdr = vec![1, 0x1b, 0x03, 0x3b];
        hdr.extend((FRAME_SVMA.wrapping_sub(HDR_SVMA + 4) as u32).to_le_bytes());
        hdr.extend((table.len() as u32).to_le_bytes());
        for (pc, fde) in table {
            hdr.extend((pc.wrapping_sub(HDR_SVMA) as u32).to_le_bytes());
            hdr.extend((fde.wrapping_sub(HDR_SVMA) as u32).to_le_bytes());
        }
        ModuleDesc {
            avma_start: CODE_SVMA + bias,
            avma_end: HDR_SVMA + bias,
            bias,
            eh_frame_hdr_svma: HDR_SVMA,
            eh_frame_hdr: Section::Owned(Arc::from(hdr)),
            eh_frame_svma: FRAME_SVMA,
            eh_frame: Section::Owned(Arc::from(frame)),
            load_id,
            ..ModuleDesc::default()
        }
    }
}

fn entry(frame: &mut Vec<u8>, mut body: Vec<u8>) {
    while !(body.len() + 4).is_multiple_of(8) {
        body.push(0);
    }
    frame.extend((body.len() as u32).to_le_bytes());
    frame.extend(body);
}

fn cie(frame: &mut Vec<u8>, augmentation: &[u8]) -> usize {
    let at = frame.len();
    let mut body = vec![0, 0, 0, 0, 1];
    body.extend(augmentation);
    // Code and data alignment, the return address's column, pcrel sdata4.
    body.extend([1, 0x78, RA, 1, 0x1b]);
    body.extend([cfa(RSP, 8), saved(RA, 1)].concat());
    entry(frame, body);
    at
}
