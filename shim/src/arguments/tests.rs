//! The calling convention's own words on what functions do, and libc's code
//! with its call frame information as the oracle.

use super::flow::{self, Program};
use super::{Reach, reach_of};
use crate::modules::{self, Registry};
use crate::{patch, tracer};
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, IcedError, InstructionInfoFactory, OpAccess, Register};
use std::ops::Range;
use traceshim_unwind::{Frame, ModuleSet};

const START: u64 = 0x10_0000;

/// A function by itself, with or without call frame information that says the
/// same frame for all of it.
struct Alone {
    code: Vec<u8>,
    frame: Option<Frame>,
}

impl Program for Alone {
    fn code(&self, address: u64) -> Option<&[u8]> {
        self.code.get(usize::try_from(address.checked_sub(START)?).ok()?..)
    }
    fn extent(&self, _: u64) -> Option<Range<u64>> {
        self.frame.map(|_| START..START + self.code.len() as u64)
    }
    fn frame(&self, _: u64) -> Option<Frame> {
        self.frame
    }
    fn behind(&self, _: u64, _: u64) -> Option<u64> {
        None
    }
}

type Written = Result<(), IcedError>;

fn reach(frame: Option<Frame>, write: impl Fn(&mut CodeAssembler) -> Written) -> Reach {
    let mut code = CodeAssembler::new(64).unwrap();
    write(&mut code).unwrap();
    flow::reach(&Alone { code: code.assemble(START).unwrap(), frame }, START)
}

#[test]
fn counts_what_is_read_at_any_depth_of_the_stack() {
    // The last word of 32, and the first behind them.
    for (offset, takes) in [(0x100, Reach::Copied), (0x108, Reach::Words(33))] {
        assert_eq!(
            reach(None, |c| {
                c.mov(rax, ptr(rsp + offset))?;
                c.ret()
            }),
            takes
        );
        let pushed = reach(None, |c| {
            c.push(rbx)?;
            c.sub(rsp, 0x40)?;
            c.mov(rax, ptr(rsp + 0x48 + offset))?;
            c.add(rsp, 0x40)?;
            c.pop(rbx)?;
            c.ret()
        });
        assert_eq!(pushed, takes);
        let framed = reach(None, |c| {
            c.push(rbp)?;
            c.mov(rbp, rsp)?;
            c.and(rsp, -64)?;
            c.sub(rsp, rax)?;
            c.movups(xmm0, ptr(rbp + offset))?;
            c.leave()?;
            c.ret()
        });
        assert_eq!(framed, takes);
    }
    assert_eq!(reach(None, |c| c.ret()), Reach::Copied);
    assert_eq!(
        reach(None, |c| {
            c.movaps(xmm0, ptr(rsp + 0x1008))?;
            c.ret()
        }),
        Reach::Words(514)
    );
}

#[test]
fn knows_when_the_address_is_out_of_sight() {
    // Passed on, stored, counted with, walked over, copied from.
    let ways: [fn(&mut CodeAssembler) -> Written; 8] = [
        |c| {
            c.lea(rdi, ptr(rsp + 8))?;
            c.call(START + 0x1000)?;
            c.ret()
        },
        |c| {
            c.lea(rax, ptr(rsp + 8))?;
            c.mov(ptr(rdi), rax)?;
            c.ret()
        },
        |c| {
            c.mov(rax, rsp)?;
            c.push(rax)?;
            c.pop(rax)?;
            c.ret()
        },
        |c| {
            c.mov(rax, qword_ptr(rsp + rdi * 8 - 0x40))?;
            c.ret()
        },
        |c| {
            c.lea(rsi, ptr(rsp + 8))?;
            c.mov(ecx, 70)?;
            c.rep().movsq()?;
            c.ret()
        },
        |c| {
            c.lea(rdx, ptr(rsp + 8))?;
            c.add(rdx, rdi)?;
            c.mov(rax, ptr(rdx))?;
            c.ret()
        },
        // A table of places, in a function that has no frame: or is it a tail call?
        |c| c.jmp(rax),
        |c| {
            c.int3()?;
            c.ret()
        },
    ];
    for (n, way) in ways.into_iter().enumerate() {
        assert_eq!(reach(None, way), Reach::Unknown, "{n}");
    }
}

/// A loop may begin before the first word that it reads.
#[test]
fn notices_loops_that_lead_there() {
    let from = |before: i32| {
        reach(None, |c| {
            let mut again = c.create_label();
            c.lea(rdx, ptr(rsp + 8 - before))?;
            c.set_label(&mut again)?;
            c.add(rdx, 8)?;
            c.add(rax, ptr(rdx + before - 8))?;
            c.dec(ecx)?;
            c.jne(again)?;
            c.ret()
        })
    };
    assert_eq!([8, 72, 4096].map(from), [Reach::Unknown; 3]);
}

#[test]
fn what_is_below_is_no_argument() {
    // Its own memory, passed on and walked over, and a flag that is compared.
    let own = |c: &mut CodeAssembler| {
        let mut again = c.create_label();
        c.sub(rsp, 0x118)?;
        c.lea(rdi, ptr(rsp + 0x10))?;
        c.call(START + 0x1000)?;
        c.lea(rdx, ptr(rsp + 0x10))?;
        c.set_label(&mut again)?;
        c.add(rax, ptr(rdx))?;
        c.add(rdx, 8)?;
        c.cmp(rdx, rcx)?;
        c.jne(again)?;
        c.add(rsp, 0x118)?;
        c.ret()
    };
    assert_eq!(reach(None, own), Reach::Copied);
}

/// Cases of a switch, and what exceptions lead to: no jump shows the way.
#[test]
fn looks_where_no_jump_leads() {
    let table = |c: &mut CodeAssembler| {
        c.sub(rsp, 0x18)?;
        c.jmp(rax)?;
        c.mov(rax, ptr(rsp + 0x18 + 0x210))?;
        c.add(rsp, 0x18)?;
        c.ret()
    };
    assert_eq!(reach(Some(Frame::FromSp(0x20)), table), Reach::Words(66));
    assert_eq!(reach(None, table), Reach::Unknown);
    let landing = |c: &mut CodeAssembler| {
        c.push(rbp)?;
        c.mov(rbp, rsp)?;
        c.call(START + 0x1000)?;
        c.pop(rbp)?;
        c.ret()?;
        c.mov(rax, ptr(rbp + 0x108))?;
        c.jmp(START + 0x4)
    };
    assert_eq!(reach(Some(Frame::FromBp(16)), landing), Reach::Copied);
}

/// What libc's functions reach by rsp or rbp, as their call frame information
/// has it, is no more than was found.
#[test]
fn libc_reaches_no_further() {
    tracer::initialise();
    let registry = modules::registry();
    let libc = registry.modules.iter().find(|module| module.is_libc()).unwrap();
    let file = std::fs::read(std::str::from_utf8(&libc.path).unwrap()).unwrap();
    let (mut functions, mut wide, mut unknown) = (0, 0, 0);
    for avma in patch::functions_of(&file).into_iter().map(|svma| svma.wrapping_add(libc.identity.bias)) {
        let Some(least) = modules::with_set(0, |set| least(&registry, set, avma)).flatten() else { continue };
        functions += 1;
        match reach_of(&registry, avma) {
            Reach::Copied => assert!(least <= 256, "{avma:#x}: {least}"),
            Reach::Words(words) => {
                wide += 1;
                assert!(least <= i64::from(words) * 8, "{avma:#x}: {least}");
            }
            Reach::Unknown => unknown += 1,
        }
    }
    println!("{functions} functions, {wide} take more than is copied, {unknown} not known");
    assert!(functions > 1000 && unknown < functions / 2);
}

fn least(registry: &Registry, set: &ModuleSet, avma: u64) -> Option<i64> {
    let extent = set.extent(avma)?;
    let code = patch::code_from(registry.find(avma)?, extent.start)?;
    let mut factory = InstructionInfoFactory::new();
    let mut least = 0;
    for i in &mut Decoder::with_ip(64, code, extent.start, DecoderOptions::NONE) {
        if i.is_invalid() || i.ip() >= extent.end {
            break;
        }
        let (register, above) = match set.frame(i.ip()) {
            Some(Frame::FromSp(above)) => (Register::RSP, above),
            Some(Frame::FromBp(above)) => (Register::RBP, above),
            _ => continue,
        };
        for memory in factory.info(&i).used_memory() {
            if memory.base() == register
                && memory.index() == Register::None
                && memory.access() != OpAccess::NoMemAccess
            {
                let end =
                    memory.displacement() as i64 - i64::from(above) + memory.memory_size().size() as i64;
                least = least.max(end);
            }
        }
    }
    Some(least)
}
