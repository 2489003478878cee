//! The gate: the only way from an entry into Rust code.
//!
//! It refuses a thread that is already inside, finds (or makes) the thread's
//! block, saves every vector register that may carry an argument or a result,
//! puts off the thread's cancellation, moves to a stack of ours where the
//! current one is short, and undoes it all.
//! A handler is handed the thread's state, and that is its proof of being
//! inside: nothing else of this thread can be.
#![allow(unsafe_code)]

use super::Context;
use crate::block::{BLOCK_BYTES, Block, FREE_BLOCKS};
use crate::real::{SET_CANCEL_STATE, SET_CANCEL_TYPE};
use crate::sandbox::{Call, FORBIDDEN};
use crate::signals::PUT_OFF;
use crate::state::{STRANGERS, ThreadState};
use crate::tracer::PULSE;
use std::arch::naked_asm;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

/// The state components that `xsave` saves: SSE, AVX and AVX-512, as far as
/// the system has switched them on. 0: there is no `xsave`; then xmm0 to xmm7.
static VECTOR_STATE: AtomicU64 = AtomicU64::new(0);

/// What is in the frame of whoever is inside, where [`ThreadState::inside`] says.
pub(super) const IS_INSIDE: i32 = 0x1051_de0f;

/// libc's, for `pthread_setcancelstate`.
const PTHREAD_CANCEL_DISABLE: i32 = 1;

/// One of valgrind's client requests, of which there is a stable list.
const VALGRIND_STACK_REGISTER: i32 = 0x1501;

/// A handler: what an entry calls through the gate.
pub(super) type Handler = unsafe extern "C-unwind" fn(*mut Context, *mut ThreadState);

/// Finds out what vector registers there are.
pub(crate) fn prepare_vector_state() {
    const OSXSAVE: u32 = 1 << 27;
    // SSE, AVX, and the three parts of AVX-512.
    const COMPONENTS: u64 = 1 << 1 | 1 << 2 | 7 << 5;
    if core::arch::x86_64::__cpuid(1).ecx & OSXSAVE == 0 {
        return;
    }
    let (low, _high): (u32, u32);
    // SAFETY: the processor and the system support XGETBV, by the bit above.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _high, options(nomem, nostack));
    }
    let mut mask = u64::from(low) & COMPONENTS;
    // Where the system has switched on more (AMX: 8 KiB), the components that we
    // save still stand where they always do. One that doesn't fit isn't saved.
    for component in 2..32 {
        let place = core::arch::x86_64::__cpuid_count(0xd, component);
        if mask & 1 << component != 0 && (place.eax + place.ebx) as usize > crate::block::VECTOR_BYTES {
            mask &= !(1 << component);
        }
    }
    VECTOR_STATE.store(mask, Ordering::Relaxed);
}

/// rdi: the context; rsi: the handler; edx: whether vector registers matter.
/// Returns 1 in eax where the handler ran, and else 0, and in rdx the address of the
/// counter that counts it.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn gate() {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push rbx",
        ".cfi_offset rbx, -24",
        "push r12",
        ".cfi_offset r12, -32",
        "push r13",
        ".cfi_offset r13, -40",
        "push r14",
        ".cfi_offset r14, -48",
        "push rdi",
        "push rsi",
        "sub rsp, 32",
        "mov qword ptr [rbp - 80], 0",
        "mov r12, [rip + traceshim_thread@GOTTPOFF]",
        "add r12, fs:[0]",
        "js 91f",
        "mov r13d, edx",
        "mov rbx, [r12 + {block}]",
        // Somebody else, who has no state of his own? On the thread's own stack
        // it is the thread; elsewhere the kernel must be asked.
        "cmp byte ptr [r12 + {shared}], 0",
        "jne 7f",
        "cmp rsp, [r12 + {lo}]",
        "jb 7f",
        "cmp rsp, [r12 + {hi}]",
        "jb 8f",
        "7:",
        "mov rax, rsp",
        "sub rax, rbx",
        "cmp rax, {block_bytes}",
        "jb 8f",
        // Unknown yet; or in a forked child, whose first event this is.
        "cmp dword ptr [r12 + {tid}], 0",
        "je 8f",
        "mov rax, [rip + {pulse}]",
        "cmp qword ptr [rax], 0",
        "je 8f",
        "cmp dword ptr [rip + {forbidden} + {gettid} * 4], 0",
        "jne 8f",
        "mov eax, 186",
        "syscall",
        "cmp eax, [r12 + {tid}]",
        "je 8f",
        "91:",
        "lea rdx, [rip + {strangers}]",
        "lock inc qword ptr [rdx]",
        "xor eax, eax",
        "jmp 90f",
        "8:",
        // Already inside? The flag is the address of a word in the frame of whoever
        // is, which says so as long as nothing else has come there. It may be stale: a
        // signal handler was left by longjmp.
        "mov rax, [r12 + {inside}]",
        "test rax, rax",
        "jz 5f",
        // On our own stack we are always inside.
        "mov rcx, rsp",
        "sub rcx, rbx",
        "cmp rcx, {block_bytes}",
        "jb 4f",
        // A handler on an alternate stack may be anywhere.
        "mov r14d, {on_alternate}",
        "cmp dword ptr [rip + {forbidden} + {sigaltstack} * 4], 0",
        "jne 6f",
        "sub rsp, 32",
        "xor edi, edi",
        "mov rsi, rsp",
        "mov eax, 131", // sigaltstack
        "syscall",
        "mov r14d, [rsp + {ss_flags}]",
        "add rsp, 32",
        "mov rax, [r12 + {inside}]",
        "6:",
        "and r14d, {on_alternate}",
        "mov rcx, [r12 + {lo}]",
        "mov rdx, [r12 + {hi}]",
        "mov r8, [rbp - 40]",
        "add r8, {above_context}",
        "cmp rax, rcx",
        "jb 3f",
        "cmp rax, rdx",
        "jae 3f",
        // It was on the thread's own stack. So are we: then whoever is interrupted
        // is above the entry's frame.
        "test r14d, r14d",
        "jnz 2f",
        "cmp rsp, rcx",
        "jb 2f",
        "cmp rsp, rdx",
        "jae 2f",
        "cmp rax, r8",
        "jb 5f",
        "2:",
        "cmp qword ptr [rax], {is_inside}",
        "jne 5f",
        "jmp 4f",
        // On another one, such as a coroutine's, which may be gone.
        "3:",
        "test r14d, r14d",
        "jnz 9f",
        "cmp rsp, rcx",
        "jb 7f",
        "cmp rsp, rdx",
        "jb 5f",
        "7:",
        "cmp rax, r8",
        "jb 5f",
        "jmp 4f",
        "9:",
        "cmp dword ptr [rip + {forbidden} + {asking} * 4], 0",
        "jne 4f",
        "mov rsi, rax",
        super::readable::ask!(),
        "cmp eax, {is_readable}",
        "jne 5f",
        "cmp qword ptr [rsi], {is_inside}",
        "jne 5f",
        "4:",
        "lea rdx, [r12 + {reentered}]",
        "inc qword ptr [rdx]",
        // The next event takes the long way, where this is counted.
        "mov qword ptr [r12 + {armed}], 0",
        "xor eax, eax",
        "jmp 90f",
        "5:",
        // What isn't a roomy stack of the thread's own will be left for one of ours.
        // There no handler of the program's runs: it may need more than is left, take
        // its stack pointer for the thread's (collectors of garbage do), or go on with
        // another coroutine, of whom it isn't known that it comes back. At a thread's
        // first event nothing is known, a sandbox perhaps neither.
        "cmp qword ptr [r12 + {hi}], 0",
        "je 37f",
        "cmp rsp, [r12 + {roomy_from}]",
        "jb 36f",
        "cmp rsp, [r12 + {hi}]",
        "jb 37f",
        "36:",
        "cmp dword ptr [rip + {forbidden} + {asking} * 4], 0",
        "jne 37f",
        "mov edi, {block_signals}",
        "lea rsi, [rip + {put_off}]",
        "lea rdx, [rbp - 72]",
        "mov r10d, 8",
        "mov eax, 14", // rt_sigprocmask
        "syscall",
        "mov qword ptr [rbp - 80], 1",
        "37:",
        "mov qword ptr [rbp - 56], {is_inside}",
        "lea rax, [rbp - 56]",
        "mov [r12 + {inside}], rax",
        "test rbx, rbx",
        "jnz 20f",
        // A block that an ended thread left, else fresh pages. The upper 16
        // bits of the list's head count its changes.
        "lea r14, [rip + {free}]",
        "10:",
        "mov rax, [r14]",
        "mov rbx, rax",
        "shl rbx, 16",
        "shr rbx, 16",
        "jz 11f",
        "mov rcx, [rbx]",
        "mov rdx, rax",
        "shr rdx, 48",
        "inc rdx",
        "shl rdx, 48",
        "or rcx, rdx",
        "lock cmpxchg [r14], rcx",
        "jne 10b",
        "jmp 12f",
        "11:",
        "cmp dword ptr [rip + {forbidden} + {mmap} * 4], 0",
        "jne 13f",
        "mov eax, 9", // mmap
        "xor edi, edi",
        "mov esi, {block_bytes}",
        "mov edx, 3",       // PROT_READ | PROT_WRITE
        "mov r10d, 0x4022", // MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        "mov r8, -1",
        "xor r9d, r9d",
        "syscall",
        "mov rbx, rax",
        "cmp rax, -4096",
        "jbe 14f",
        // No memory: the event isn't recorded, and counted as such.
        "13:",
        "lea rdx, [r12 + {reentered}]",
        "inc qword ptr [rdx]",
        "mov qword ptr [r12 + {inside}], 0",
        "xor eax, eax",
        "jmp 90f",
        // valgrind must know that it is another stack: it would take the move to
        // one that is near for a frame on this one, and what lies between, such
        // as a thread's control block, for given up. Elsewhere this does nothing.
        "14:",
        "push 0",
        "push 0",
        "push 0",
        "lea rax, [rbx + {stack_top}]",
        "push rax",
        "push rbx",
        "push {valgrind_stack_register}",
        "mov rax, rsp",
        "xor edx, edx",
        "rol rdi, 3",
        "rol rdi, 13",
        "rol rdi, 61",
        "rol rdi, 51",
        "xchg rbx, rbx",
        "add rsp, 48",
        "12:",
        "mov [r12 + {block}], rbx",
        "20:",
        "test r13d, r13d",
        "jz 30f",
        "mov rax, [rip + {vector_state}]",
        "test rax, rax",
        "jz 21f",
        "xor edx, edx",
        "xsave [rbx + {vectors}]",
        "jmp 30f",
        "21:",
        "movups [rbx + {vectors}], xmm0",
        "movups [rbx + {vectors} + 16], xmm1",
        "movups [rbx + {vectors} + 32], xmm2",
        "movups [rbx + {vectors} + 48], xmm3",
        "movups [rbx + {vectors} + 64], xmm4",
        "movups [rbx + {vectors} + 80], xmm5",
        "movups [rbx + {vectors} + 96], xmm6",
        "movups [rbx + {vectors} + 112], xmm7",
        "30:",
        // Cancellation unwinds by force, which no Rust frame survives, and may
        // come at any instruction or where a handler opens a file.
        "cmp qword ptr [rip + {set_cancel_type}], 0",
        "jz 35f",
        "mov edi, {cancel_disable}",
        "lea rsi, [rbp - 64]",
        "call qword ptr [rip + {set_cancel_state}]",
        // libc's handler of a cancellation that is on its way looks only here.
        "xor edi, edi",
        "lea rsi, [rbp - 60]",
        "call qword ptr [rip + {set_cancel_type}]",
        "35:",
        "mov r14, rsp",
        "cmp rsp, [r12 + {roomy_from}]",
        "jb 31f",
        "cmp rsp, [r12 + {hi}]",
        "jb 32f",
        "31:",
        "lea rsp, [rbx + {stack_top}]",
        "32:",
        "mov rdi, [rbp - 40]",
        "mov rax, [rbp - 48]",
        "mov rsi, r12",
        "and rsp, -16",
        "call rax",
        "mov rsp, r14",
        // A thread that was cancelled meanwhile may end right here. Its flag is
        // stale then.
        "cmp qword ptr [rip + {set_cancel_type}], 0",
        "jz 34f",
        "mov edi, [rbp - 64]",
        "xor esi, esi",
        "call qword ptr [rip + {set_cancel_state}]",
        "mov edi, [rbp - 60]",
        "test edi, edi",
        "jz 34f",
        "xor esi, esi",
        "call qword ptr [rip + {set_cancel_type}]",
        "34:",
        "test r13d, r13d",
        "jz 40f",
        "mov rax, [rip + {vector_state}]",
        "test rax, rax",
        "jz 33f",
        "xor edx, edx",
        "xrstor [rbx + {vectors}]",
        "jmp 40f",
        "33:",
        "movups xmm0, [rbx + {vectors}]",
        "movups xmm1, [rbx + {vectors} + 16]",
        "movups xmm2, [rbx + {vectors} + 32]",
        "movups xmm3, [rbx + {vectors} + 48]",
        "movups xmm4, [rbx + {vectors} + 64]",
        "movups xmm5, [rbx + {vectors} + 80]",
        "movups xmm6, [rbx + {vectors} + 96]",
        "movups xmm7, [rbx + {vectors} + 112]",
        "40:",
        "mov qword ptr [r12 + {inside}], 0",
        "mov eax, 1",
        "90:",
        "cmp qword ptr [rbp - 80], 0",
        "je 92f",
        "mov r13d, eax",
        "mov r14, rdx",
        "mov edi, {set_signals}",
        "lea rsi, [rbp - 72]",
        "xor edx, edx",
        "mov r10d, 8",
        "mov eax, 14",
        "syscall",
        "mov eax, r13d",
        "mov rdx, r14",
        "92:",
        "add rsp, 48",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        ".cfi_restore rbp",
        "ret",
        ".cfi_endproc",
        block = const offset_of!(ThreadState, block),
        inside = const offset_of!(ThreadState, inside),
        lo = const offset_of!(ThreadState, stack_lo),
        hi = const offset_of!(ThreadState, stack_hi),
        reentered = const offset_of!(ThreadState, reentered),
        armed = const offset_of!(ThreadState, armed),
        block_bytes = const BLOCK_BYTES,
        set_cancel_state = sym SET_CANCEL_STATE,
        set_cancel_type = sym SET_CANCEL_TYPE,
        cancel_disable = const PTHREAD_CANCEL_DISABLE,
        free = sym FREE_BLOCKS,
        forbidden = sym FORBIDDEN,
        mmap = const Call::Mmap as usize,
        gettid = const Call::Gettid as usize,
        pulse = sym PULSE,
        strangers = sym STRANGERS,
        shared = const offset_of!(ThreadState, shared),
        tid = const offset_of!(ThreadState, tid),
        vector_state = sym VECTOR_STATE,
        vectors = const offset_of!(Block, vectors),
        stack_top = const BLOCK_BYTES,
        valgrind_stack_register = const VALGRIND_STACK_REGISTER,
        block_signals = const libc::SIG_BLOCK,
        set_signals = const libc::SIG_SETMASK,
        put_off = sym PUT_OFF,
        roomy_from = const offset_of!(ThreadState, roomy_from),
        is_inside = const IS_INSIDE,
        above_context = const size_of::<Context>(),
        sigaltstack = const Call::Sigaltstack as usize,
        on_alternate = const libc::SS_ONSTACK,
        ss_flags = const offset_of!(libc::stack_t, ss_flags),
        asking = const Call::RtSigprocmask as usize,
        is_readable = const super::readable::IS,
    )
}

/// Gives a thread's block to the next thread. The thread must not be inside a
/// handler of the gate, which still uses the block.
pub(crate) fn give_back(state: &mut ThreadState) {
    let block = std::mem::replace(&mut state.block, std::ptr::null_mut());
    state.armed = 0;
    if !block.is_null() {
        free(block);
    }
}

/// Makes blocks for threads that will come when no memory can be mapped.
pub(crate) fn make_spare_blocks(count: usize) {
    for _ in 0..count {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let kind = kind | libc::MAP_NORESERVE;
        // SAFETY: asks for fresh pages.
        let pages = unsafe { libc::mmap(std::ptr::null_mut(), BLOCK_BYTES, access, kind, -1, 0) };
        if pages != libc::MAP_FAILED {
            free(pages.cast());
        }
    }
}

/// Puts a block on the list of free ones.
fn free(block: *mut Block) {
    let mut head = FREE_BLOCKS.load(Ordering::Acquire);
    loop {
        // SAFETY: the block is the caller's alone until the exchange below.
        unsafe { (*block).next = head & 0xffff_ffff_ffff };
        let new = block as u64 | ((head >> 48).wrapping_add(1) << 48);
        match FREE_BLOCKS.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(seen) => head = seen,
        }
    }
}

/// Runs `handler` as an entry would, from code that libc calls (destructors of
/// thread-specific data, constructors). False: the thread is inside already.
pub(crate) fn on_this_thread(handler: Handler, argument: u64) -> bool {
    let mut context = Context::empty();
    context.args[0] = argument;
    let gate: unsafe extern "C" fn() = gate;
    // SAFETY: the gate has this signature; it is declared without one because
    // it is written in assembly.
    let gate: unsafe extern "C-unwind" fn(*mut Context, Handler, u32) -> u32 =
        unsafe { std::mem::transmute(gate) };
    // SAFETY: the context lives through the call, and the handler is ours. No
    // vector register of a caller's matters at a call that the compiler made.
    unsafe { gate(&raw mut context, handler, 0) != 0 }
}
