//! What a seccomp filter does with a system call of which only the number is
//! known: the program is followed along every path that is left open.

use libc::sock_filter;

/// `AUDIT_ARCH_X86_64`, which a filter may compare.
const ARCH: u32 = 0xc000_003e;
/// Bytes of `struct seccomp_data`: number, architecture, address, arguments.
const DATA_BYTES: u32 = 64;
/// A filter that needs more for one call is taken for one that kills.
const MAX_STEPS: usize = 50_000;

/// What a path through the program has computed; `None`: it depends on more
/// than the call's number.
#[derive(Clone, Debug)]
struct Path {
    at: usize,
    a: Option<u32>,
    x: Option<u32>,
    memory: [Option<u32>; 16],
}

/// Whether the filter may do anything else with system call `number` than to let
/// it through or, where it `may_fail`, to fail it.
pub(super) fn may_harm(program: &[sock_filter], number: u32, may_fail: bool) -> bool {
    let mut paths = vec![Path { at: 0, a: Some(0), x: Some(0), memory: [Some(0); 16] }];
    for _ in 0..MAX_STEPS {
        let Some(path) = paths.pop() else { return false };
        match step(program, number, path) {
            Some(Next::Goes(path)) => paths.push(path),
            Some(Next::Either(one, other)) => paths.extend([one, other]),
            Some(Next::Returns(value)) if is_harmless(value, may_fail) => {}
            _ => return true,
        }
    }
    true
}

enum Next {
    Goes(Path),
    Either(Path, Path),
    Returns(u32),
}

/// `None`: nothing that the kernel would take, or a result that isn't known.
fn step(program: &[sock_filter], number: u32, mut path: Path) -> Option<Next> {
    let &sock_filter { code, jt, jf, k } = program.get(path.at)?;
    path.at += 1;
    let code = u32::from(code);
    let operand = if code & libc::BPF_X == 0 { Some(k) } else { path.x };
    match code & 0x07 {
        libc::BPF_LD | libc::BPF_LDX => {
            let value = match code & 0xe0 {
                libc::BPF_IMM => Some(k),
                libc::BPF_MEM => *path.memory.get(k as usize)?,
                libc::BPF_LEN => Some(DATA_BYTES),
                libc::BPF_ABS => match k {
                    0 => Some(number),
                    4 => Some(ARCH),
                    _ => None,
                },
                _ => return None,
            };
            *(if code & 0x07 == libc::BPF_LD { &mut path.a } else { &mut path.x }) = value;
        }
        libc::BPF_ST => *path.memory.get_mut(k as usize)? = path.a,
        libc::BPF_STX => *path.memory.get_mut(k as usize)? = path.x,
        libc::BPF_ALU => path.a = compute(code & 0xf0, path.a, operand),
        libc::BPF_JMP if code & 0xf0 == libc::BPF_JA => path.at = path.at.checked_add(k as usize)?,
        libc::BPF_JMP => {
            let (mut yes, mut no) = (path.clone(), path);
            let holds = holds(code & 0xf0, yes.a, operand)?;
            (yes.at, no.at) = (yes.at + usize::from(jt), no.at + usize::from(jf));
            return Some(match holds {
                Some(true) => Next::Goes(yes),
                Some(false) => Next::Goes(no),
                None => Next::Either(yes, no),
            });
        }
        libc::BPF_RET => {
            return Some(Next::Returns(if code & 0x18 == 0x10 { path.a? } else { k }));
        }
        // Between the registers: 0x80 is txa.
        libc::BPF_MISC if code & 0xf8 == 0x80 => path.a = path.x,
        _ => path.x = path.a,
    }
    Some(Next::Goes(path))
}

fn compute(operation: u32, a: Option<u32>, operand: Option<u32>) -> Option<u32> {
    let a = a?;
    if operation == libc::BPF_NEG {
        return Some(a.wrapping_neg());
    }
    let operand = operand?;
    match operation {
        libc::BPF_ADD => Some(a.wrapping_add(operand)),
        libc::BPF_SUB => Some(a.wrapping_sub(operand)),
        libc::BPF_MUL => Some(a.wrapping_mul(operand)),
        libc::BPF_DIV => a.checked_div(operand),
        libc::BPF_AND => Some(a & operand),
        libc::BPF_OR => Some(a | operand),
        libc::BPF_XOR => Some(a ^ operand),
        libc::BPF_LSH => a.checked_shl(operand),
        libc::BPF_RSH => a.checked_shr(operand),
        _ => None,
    }
}

/// Whether a jump is taken; the inner `None`: it depends.
fn holds(condition: u32, a: Option<u32>, operand: Option<u32>) -> Option<Option<bool>> {
    let known = a.zip(operand);
    Some(match condition {
        libc::BPF_JEQ => known.map(|(a, b)| a == b),
        libc::BPF_JGT => known.map(|(a, b)| a > b),
        libc::BPF_JGE => known.map(|(a, b)| a >= b),
        libc::BPF_JSET => known.map(|(a, b)| a & b != 0),
        _ => return None,
    })
}

/// The call is made, or it fails, and the program goes on by itself. A call that
/// isn't made and seems to succeed is worse than one that fails.
fn is_harmless(verdict: u32, may_fail: bool) -> bool {
    match verdict & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG => true,
        libc::SECCOMP_RET_ERRNO => may_fail && verdict & libc::SECCOMP_RET_DATA != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn op(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
        sock_filter { code: code as u16, jt, jf, k }
    }
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JEQ: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const KILL: sock_filter = op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_KILL_PROCESS);
    const ALLOW: sock_filter = op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW);

    fn killed(program: &[sock_filter]) -> Vec<u32> {
        (0..10).filter(|&number| may_harm(program, number, true)).collect()
    }

    #[test]
    fn lists_of_numbers() {
        // All but 3 and 5.
        let allows = [op(LOAD, 0, 0, 0), op(JEQ, 2, 0, 3), op(JEQ, 1, 0, 5), KILL, ALLOW];
        assert_eq!(killed(&allows), [0, 1, 2, 4, 6, 7, 8, 9]);
        let denies = [op(LOAD, 0, 0, 0), op(JEQ, 1, 0, 3), op(JEQ, 0, 1, 5), KILL, ALLOW];
        assert_eq!(killed(&denies), [3, 5]);
        // By halves, as libseccomp does.
        let jgt = op(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, 4);
        assert_eq!(killed(&[op(LOAD, 0, 0, 0), jgt, KILL, ALLOW]), [5, 6, 7, 8, 9]);
    }

    #[test]
    fn each_verdict_is_harmless_or_not() {
        let returns = |verdict| may_harm(&[op(libc::BPF_RET, 0, 0, verdict)], 1, true);
        for harmless in [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_ERRNO | 38] {
            assert!(!returns(harmless), "{harmless:#x}");
        }
        for other in [
            libc::SECCOMP_RET_KILL_PROCESS,
            libc::SECCOMP_RET_KILL_THREAD,
            libc::SECCOMP_RET_TRAP,
            libc::SECCOMP_RET_TRACE,
            libc::SECCOMP_RET_USER_NOTIF,
            // Seems to succeed.
            libc::SECCOMP_RET_ERRNO,
        ] {
            assert!(returns(other), "{other:#x}");
        }
        let refuses = [op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | 1)];
        assert!(may_harm(&refuses, 1, false) && !may_harm(&refuses, 1, true));
    }

    #[test]
    fn what_depends_on_more_than_the_number_may_go_either_way() {
        // An argument decides.
        let argument = [op(LOAD, 0, 0, 16), op(JEQ, 0, 1, 1), ALLOW, KILL];
        assert!(may_harm(&argument, 1, true));
        let either = [op(LOAD, 0, 0, 16), op(JEQ, 0, 1, 1), ALLOW, ALLOW];
        assert!(!may_harm(&either, 1, true));
        // The architecture is known.
        let arch = [op(LOAD, 0, 0, 4), op(JEQ, 0, 1, ARCH), ALLOW, KILL];
        assert!(!may_harm(&arch, 1, true));
        // What is returned is computed: unknown, and known.
        let by_a = op(libc::BPF_RET | 0x10, 0, 0, 0);
        assert!(may_harm(&[op(LOAD, 0, 0, 16), by_a], 1, true));
        assert!(!may_harm(&[op(libc::BPF_LD, 0, 0, libc::SECCOMP_RET_ALLOW), by_a], 1, true));
    }

    #[test]
    fn registers_memory_and_arithmetic() {
        // The number, less one, by way of memory and of the other register: 4.
        let program = [
            op(LOAD, 0, 0, 0),
            op(libc::BPF_ALU | libc::BPF_SUB, 0, 0, 1),
            op(libc::BPF_ST, 0, 0, 7),
            op(libc::BPF_LD, 0, 0, 0),
            op(libc::BPF_LDX | libc::BPF_MEM, 0, 0, 7),
            op(libc::BPF_MISC | 0x80, 0, 0, 0),
            op(libc::BPF_MISC, 0, 0, 0),
            op(libc::BPF_LD, 0, 0, 4),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_X, 1, 0, 0),
            ALLOW,
            op(libc::BPF_JMP, 0, 0, 1),
            ALLOW,
            KILL,
        ];
        assert_eq!(killed(&program), [5]);
    }

    #[test]
    fn nonsense_and_endless_programs_kill() {
        assert!(may_harm(&[], 1, true));
        assert!(may_harm(&[op(libc::BPF_LD | 0xa0, 0, 0, 0), ALLOW], 1, true));
        assert!(may_harm(&[op(libc::BPF_JMP, 0, 0, 9), ALLOW], 1, true));
        // Each of these doubles the paths.
        let mut doubles = vec![op(LOAD, 0, 0, 16)];
        doubles.extend([op(JEQ, 1, 0, 1), op(libc::BPF_ST, 0, 0, 0)].repeat(40));
        doubles.push(ALLOW);
        assert!(may_harm(&doubles, 1, true));
    }
}
