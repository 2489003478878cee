#![allow(unsafe_code)]
//! The memo's first tier: one entry, compared with the stack.
//!
//! In assembly, so that a trampoline's fast path calls it with no register
//! saved that a function's arguments may be in but those that it names; Rust
//! calls the same. It touches nothing wider than 16 bytes.

use crate::machine::Regs;
use crate::memo::{ARENA, Entry, Kind, LEAVES, Memo, NODES, Tagged};
use crate::memory::{StackBounds, StackMemory};
use std::arch::{asm, naked_asm};
use std::mem::offset_of;

/// Mixes the bits of a hash upwards (2^32 divided by the golden ratio).
const MULTIPLIER: u32 = 0x9e37_79b1;
const SHIFT: u32 = u32::BITS - NODES.trailing_zeros();
/// Most marks on the way to an entry.
pub(crate) const MOST_MARKS: usize = 24;
/// Leaves the tag's bits of a kind (see [`Kind::word`]), above the last few.
const TAG_SHIFT: u32 = 22;
/// By how much the hash turns at each mark.
const TURN: u32 = 11;

/// Compares two pairs, word by word.
macro_rules! two_pairs {
    ($offset:literal $value:literal) => {
        concat!(
            "movzx r8d, word ptr [rsi + ",
            $offset,
            "]\n",
            "movzx r10d, word ptr [rsi + 2 + ",
            $offset,
            "]\n",
            "mov r11, [r9 + r8 * 8]\n",
            "mov r8, [r9 + r8 * 8 + 8]\n",
            "cmp r11, [rdx + ",
            $value,
            "]\n",
            "jne 9f\n",
            "cmp r8, [rdx + 8 + ",
            $value,
            "]\n",
            "jne 9f\n",
            "mov r11, [r9 + r10 * 8]\n",
            "mov r10, [r9 + r10 * 8 + 8]\n",
            "cmp r11, [rdx + 16 + ",
            $value,
            "]\n",
            "jne 9f\n",
            "cmp r10, [rdx + 24 + ",
            $value,
            "]\n",
            "jne 9f\n",
        )
    };
}

/// Compares a group of pairs, word by word.
macro_rules! pairs {
    () => {
        concat!(two_pairs!(0 0), two_pairs!(4 32), "add rsi, 8\n", "add rdx, 64\n")
    };
}

/// Compares one more pair, at once; xmm8 says whether all were the same.
macro_rules! more {
    ($offset:literal $value:literal) => {
        concat!(
            "movzx r8d, word ptr [rsi + ",
            $offset,
            "]\n",
            "movdqu xmm9, [r9 + r8 * 8]\n",
            "pcmpeqd xmm9, [rdx + ",
            $value,
            "]\n",
            "pand xmm8, xmm9\n",
        )
    };
}

/// Compares a group of pairs, each pair at once.
macro_rules! group {
    () => {
        concat!(
            "movzx r8d, word ptr [rsi]\n",
            "movdqu xmm8, [r9 + r8 * 8]\n",
            "pcmpeqd xmm8, [rdx]\n",
            more!(2 16), more!(4 32), more!(6 48),
        )
    };
}

/// Finds a remembered stack. Not to be called from Rust.
///
/// - in: rdi: the address that [`Capturer::memo`](crate::Capturer::memo) gives;
///   r8: rip; r9: rsp; r10: rbp; r11: the word of a [`Kind`]; rsi: the stack's end.
/// - out: rax: the stack's number, or all ones where it isn't known.
/// - changed: rcx, rdx, rsi, rdi, r8, r10, r11, xmm8, xmm9, the flags.
///
/// # Safety
/// It has its own way of taking arguments. The capturer is no one else's, and
/// what it remembers is of the generation that is in force; the memory from r9
/// to rsi is readable.
#[unsafe(naked)]
pub unsafe extern "C" fn find_remembered() {
    naked_asm!(
        ".cfi_startproc",
        // The hash of the start.
        "mov rax, r9",
        "mov rdx, r11",
        "shr rax, 4",
        "shr rdx, {tag_shift}",
        "add eax, r8d",
        "add eax, edx",
        // And of what tells its stacks apart.
        "imul edx, eax, {multiplier}",
        "shr edx, {shift}",
        "mov rcx, [rdi + rdx * 8 + {nodes}]",
        "cmp cx, ax",
        "je 10f",
        "ror rcx, 32",
        "cmp cx, ax",
        "je 10f",
        "2:",
        "shr edx, {leaves_shift}",
        "mov rcx, [rdi + rdx * 8 + {leaves}]",
        "cmp cx, ax",
        "je 7f",
        "ror rcx, 32",
        "cmp cx, ax",
        "jne 9f",
        "7:",
        "mov eax, ecx",
        "shr eax, 16",
        "shl eax, 6",
        "lea rax, [rdi + rax + {entries}]",
        "cmp [rax + {ip}], r8",
        "jne 9f",
        "cmp [rax + {sp}], r9",
        "jne 9f",
        "cmp [rax + {kind}], r11",
        "jne 9f",
        "xor r10, [rax + {bp}]",
        "test r10, [rax + {bp_mask}]",
        "jnz 9f",
        "movzx edx, word ptr [rax + {extent}]",
        "lea rdx, [r9 + rdx * 8 + 8]",
        "cmp rdx, rsi",
        "ja 9f",
        "mov rdx, [rdi + {head}]",
        "sub rdx, [rax + {at}]",
        "cmp rdx, {arena_bytes}",
        "ja 9f",
        // rdx: the values; rsi: the offsets.
        "mov edx, [rax + {values}]",
        "add rdx, rdi",
        "mov esi, [rax + {offsets}]",
        "add rsi, rdi",
        "movzx ecx, byte ptr [rax + {pairs}]",
        "movzx edi, byte ptr [rax + {singles}]",
        "mov eax, [rax + {id}]",
        "test ecx, ecx",
        "jz 4f",
        // The innermost pairs may have been pushed a moment ago, word by word;
        // loading both words at once would wait until they are in the cache.
        pairs!(),
        "dec ecx",
        "jz 4f",
        pairs!(),
        "dec ecx",
        "jz 4f",
        // The rest by groups, an odd one first, then two at a time.
        "test ecx, 1",
        "jz 3f",
        group!(),
        "pmovmskb r8d, xmm8",
        "cmp r8d, 0xffff",
        "jne 9f",
        "add rsi, 8",
        "add rdx, 64",
        "dec ecx",
        "jz 4f",
        "3:",
        group!(),
        more!(8 64),
        more!(10 80),
        more!(12 96),
        more!(14 112),
        "pmovmskb r8d, xmm8",
        "cmp r8d, 0xffff",
        "jne 9f",
        "add rsi, 16",
        "add rdx, 128",
        "sub ecx, 2",
        "jnz 3b",
        "4:",
        "test edi, edi",
        "jz 6f",
        "5:",
        "movzx r8d, word ptr [rsi]",
        "movzx r10d, word ptr [rsi + 2]",
        "mov r8, [r9 + r8 * 8]",
        "mov r10, [r9 + r10 * 8]",
        "cmp r8, [rdx]",
        "jne 9f",
        "cmp r10, [rdx + 8]",
        "jne 9f",
        "movzx r8d, word ptr [rsi + 4]",
        "movzx r10d, word ptr [rsi + 6]",
        "mov r8, [r9 + r8 * 8]",
        "mov r10, [r9 + r10 * 8]",
        "cmp r8, [rdx + 16]",
        "jne 9f",
        "cmp r10, [rdx + 24]",
        "jne 9f",
        "add rsi, 8",
        "add rdx, 32",
        "dec edi",
        "jnz 5b",
        "6:",
        "ret",
        "9:",
        "mov rax, -1",
        "ret",
        "10:",
        "movq xmm8, r11",
        "mov r11d, {most_marks}",
        "11:",
        "shr ecx, 16",
        "jz 12f",
        "lea rcx, [r9 + rcx * 8]",
        "cmp rcx, rsi",
        "ja 12f",
        "rol eax, {turn}",
        "xor eax, [rcx - 8]",
        "imul edx, eax, {multiplier}",
        "shr edx, {shift}",
        "mov rcx, [rdi + rdx * 8 + {nodes}]",
        "cmp cx, ax",
        "je 13f",
        "ror rcx, 32",
        "cmp cx, ax",
        "jne 12f",
        "13:",
        "sub r11d, 1",
        "jnz 11b",
        "12:",
        "movq r11, xmm8",
        "jmp 2b",
        ".cfi_endproc",
        nodes = const offset_of!(Memo, nodes),
        most_marks = const MOST_MARKS,
        tag_shift = const TAG_SHIFT,
        leaves_shift = const (NODES / LEAVES).trailing_zeros(),
        turn = const TURN,
        multiplier = const MULTIPLIER as i32,
        shift = const SHIFT,
        leaves = const offset_of!(Memo, leaves),
        entries = const offset_of!(Memo, entries),
        ip = const offset_of!(Entry, ip),
        sp = const offset_of!(Entry, sp),
        kind = const offset_of!(Entry, kind),
        bp = const offset_of!(Entry, bp),
        bp_mask = const offset_of!(Entry, bp_mask),
        extent = const offset_of!(Entry, extent),
        head = const offset_of!(Memo, head),
        at = const offset_of!(Entry, at),
        arena_bytes = const ARENA,
        values = const offset_of!(Entry, values),
        offsets = const offset_of!(Entry, offsets),
        pairs = const offset_of!(Entry, pairs),
        singles = const offset_of!(Entry, singles),
        id = const offset_of!(Entry, id),
    )
}

// What the assembly has as shifts and halves.
const _: () = assert!(size_of::<Entry>() == 64 && size_of::<Tagged>() == 4);
const _: () = assert!(offset_of!(Tagged, tag) == 0 && offset_of!(Tagged, value) == 2);
const _: () = assert!(offset_of!(Memo, arena).is_multiple_of(16) && ARENA.is_multiple_of(16));

/// The same for Rust.
#[inline(always)]
pub(crate) fn remembered(memo: &Memo, kind: Kind, stack: &StackBounds, regs: &Regs) -> Option<u32> {
    let found: u64;
    // SAFETY: what is read of the memo is inside it, by its own bounds; of the
    // stack, the words from rsp to the end, which the bounds' maker promised to
    // be readable (the caller has looked that rsp isn't below them). The
    // routine keeps to its registers and pushes nothing but the return address.
    unsafe {
        asm!(
            "call {find}",
            find = sym find_remembered,
            inout("rdi") std::ptr::from_ref(memo) => _,
            inout("rsi") stack.hi() => _,
            inout("r8") regs.ip => _,
            in("r9") regs.sp,
            inout("r10") regs.bp => _,
            inout("r11") kind.word() => _,
            out("rax") found,
            out("rcx") _,
            out("rdx") _,
            out("xmm8") _,
            out("xmm9") _,
            options(readonly),
        );
    }
    u32::try_from(found).ok()
}

/// How the first tier comes to the entries that it tries.
pub(crate) struct Way {
    /// The hash at each mark, and at the end, where there is none.
    pub(crate) hashes: [u32; MOST_MARKS + 1],
    /// The marks: offsets in words.
    pub(crate) marks: [u16; MOST_MARKS],
    pub(crate) len: usize,
}

impl Way {
    /// The way of a stack.
    pub(crate) fn of(memo: &Memo, kind: Kind, stack: &StackBounds, regs: &Regs) -> Way {
        let mut way = Way { hashes: [0; MOST_MARKS + 1], marks: [0; MOST_MARKS], len: 0 };
        let kind = (kind.word() >> TAG_SHIFT) as u32;
        let mut hash = ((regs.sp >> 4) as u32).wrapping_add(regs.ip as u32).wrapping_add(kind);
        for (place, at) in way.marks.iter_mut().zip(&mut way.hashes) {
            *at = hash;
            let node = memo.nodes.get(node_of(hash)).and_then(|pair| Tagged::find(pair, hash));
            let Some(offset) = node.and_then(|(_, value)| value.checked_sub(1)) else { return way };
            let Some(word) = stack.read(regs.sp.wrapping_add(u64::from(offset) * 8)) else { return way };
            *place = offset;
            way.len = way.len.wrapping_add(1);
            hash = hash.rotate_left(TURN) ^ word as u32;
        }
        if let Some(last) = way.hashes.last_mut() {
            *last = hash;
        }
        way
    }

    /// The hash at the end.
    pub(crate) fn end(&self) -> u32 {
        self.hashes.get(self.len).copied().unwrap_or_default()
    }
}

/// Where the node of a hash is.
pub(crate) fn node_of(hash: u32) -> usize {
    (hash.wrapping_mul(MULTIPLIER) >> SHIFT) as usize
}

/// Where the leaf of a hash is.
pub(crate) fn leaf_of(hash: u32) -> usize {
    node_of(hash) / (NODES / LEAVES)
}
