//! Threads: birth, start, name and end.
#![allow(unsafe_code)]

use crate::arch::{self, Context, around_entry};
use crate::callbacks;
use crate::errno::KeepErrno;
use crate::modules::{self, Kind};
use crate::recording::{Recording, inside};
use crate::sandbox::{self, Call};
use crate::state::ThreadState;
use crate::tracer;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use traceshim_ring::layout::Ref;
use traceshim_ring::record::{Origin, StackRef, kind, pair};
use traceshim_ring::ring::Ring;
use traceshim_ring::stack::FRAME_ADDRESS;

/// What a new thread is handed. The assembly of the start stub reads the first
/// two fields.
#[repr(C)]
struct StartInfo {
    start_routine: u64,
    argument: u64,
    uid: u32,
    creator: u32,
    /// The creator's name, which the kernel gives the new thread too.
    name: Ref,
    origin: Origin,
    /// The lowest usable address, where the program supplied the stack.
    stack_lo: u64,
    /// Else how many bytes the stack has below its thread control block.
    stack_bytes: u64,
}

/// libc calls thread-specific destructors in rounds, at most this many. Ours
/// asks to be called again until the last, so that the end that we record
/// comes after what other destructors do.
const LAST_ROUND: u8 = 4;
/// Keys below this have their values in the thread's own control block; a
/// value for any other may allocate.
const KEYS_IN_PLACE: u32 = 32;
/// Bytes of a thread's name in the kernel, the closing zero included.
const COMM_BYTES: usize = 16;
/// What libc keeps at the top of a stack, beside what is asked for.
const STACK_SLACK: u64 = 4096;
/// With less than this left on the current stack a handler runs on ours.
const ROOM_BYTES: u64 = 64 << 10;

static KEY: AtomicU32 = AtomicU32::new(u32::MAX);
static DEFAULT_STACK: AtomicU64 = AtomicU64::new(0);
static MAIN_STACK_TOP: AtomicU64 = AtomicU64::new(0);

/// Before the first event.
pub(crate) fn prepare() {
    if let Some(key) = make_key() {
        KEY.store(key, Ordering::Release);
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) };
    // libc's own rule for threads of which nobody said how large they are.
    let bytes = if limit.rlim_cur == libc::RLIM_INFINITY { 2 << 20 } else { limit.rlim_cur };
    DEFAULT_STACK.store(bytes, Ordering::Relaxed);
    let top = crate::environment::stack_end();
    if top != 0 {
        // The first frame's words are before the arguments.
        MAIN_STACK_TOP.store((top + 64).next_multiple_of(64), Ordering::Relaxed);
    }
}

/// The last of the keys whose values are in place, if it is free: so that the
/// program gets the same keys as without us, from 0 on. Some hold a variable that
/// was never set, or the first key's number, for a key without a value.
fn make_key() -> Option<libc::pthread_key_t> {
    let mut chosen = None;
    let mut others = [None; KEYS_IN_PLACE as usize];
    for other in &mut others {
        let mut key = 0;
        // SAFETY: `key` is a valid place; the destructor has the right type.
        if unsafe { libc::pthread_key_create(&raw mut key, Some(on_key_destructor)) } != 0 {
            break;
        }
        if key < KEYS_IN_PLACE || chosen.is_none() {
            *other = chosen.replace(key);
        } else {
            *other = Some(key);
        }
        if key + 1 >= KEYS_IN_PLACE {
            break;
        }
    }
    for key in others.into_iter().flatten() {
        // SAFETY: ours, and nobody has set a value for it.
        unsafe { libc::pthread_key_delete(key) };
    }
    chosen
}

around_entry! {
    /// `pthread_create`: notes who makes a thread, from which stack.
    pthread_create, crate::real::PTHREAD_CREATE, before_create, after_create
}
around_entry! {
    /// C11's `thrd_create` reaches `pthread_create` inside libc, past us.
    thrd_create, crate::real::THRD_CREATE, before_create_c11, after_create
}
around_entry! {
    /// `pthread_setname_np`: notes a thread's name.
    pthread_setname_np, crate::real::PTHREAD_SETNAME_NP, before_always, after_set_name
}

/// For entries whose event is recorded when the real function is back.
pub(super) unsafe extern "C-unwind" fn before_always(context: *mut Context, _: *mut ThreadState) {
    if tracer::current().is_some() {
        // SAFETY: the entry's own context.
        unsafe { (*context).live = arch::AROUND };
    }
}

around_entry! {
    /// `prctl`: programs that name their threads without libc's help.
    prctl, crate::real::PRCTL, before_prctl, after_prctl
}

unsafe extern "C-unwind" fn before_create(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    // SAFETY: called by the gate.
    unsafe { inside(thread, |recording| begin_birth(recording, context, 2)) }
}

unsafe extern "C-unwind" fn before_create_c11(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    // SAFETY: called by the gate.
    unsafe { inside(thread, |recording| begin_birth(recording, context, 1)) }
}

/// `at`: which argument the start routine is; the next one is its argument.
fn begin_birth(recording: &mut Recording<'_>, context: &mut Context, at: usize) {
    let caller = context.caller();
    recording.repair(caller.sp);
    let side = modules::kind_of(caller.ip.wrapping_sub(1));
    let stack = recording.stack(&caller, None, side != Kind::Host);
    let origin = origin(recording, caller.ip, stack);
    let attributes = if at == 2 { context.args[1] } else { 0 };
    let (stack_lo, stack_bytes) = stack_of(attributes);
    let uid = recording.tracer.ring.next_uid();
    let info = Box::new(StartInfo {
        start_routine: context.args[at],
        argument: context.args[at + 1],
        uid,
        creator: recording.thread.uid,
        name: recording.thread.name,
        origin,
        stack_lo,
        stack_bytes,
    });
    // The time before the thread exists: its birth comes before its start.
    context.note = [pair(stack.0, uid), info.start_routine | (origin as u64) << 60, recording.ticks];
    context.args[at + 1] = Box::into_raw(info) as u64;
    context.args[at] = arch::start_stub as *const () as u64;
    context.id = at as u64;
    context.live = arch::AROUND;
}

/// Whose thread it is that the code at `caller` makes. C++ runtimes make threads
/// in their callers' name, and so does who stands before `pthread_create`.
fn origin(recording: &Recording<'_>, caller: u64, stack: StackRef) -> Origin {
    let code = caller.wrapping_sub(1);
    let mut side = modules::kind_of(code);
    if side == Kind::Forwarder || modules::makes_threads(code) {
        // The first frame is the caller's own.
        let others = recording.tracer.ring.frames(stack).take(16).skip(1);
        let mut sides = others.map(|frame| modules::kind_of((frame & FRAME_ADDRESS).wrapping_sub(1)));
        side = sides.find(|side| *side != Kind::Forwarder).unwrap_or(side);
    }
    if side == Kind::Host { Origin::Host } else { Origin::C }
}

/// The lowest address of a stack that the program supplied, or 0; and its size.
fn stack_of(attributes: u64) -> (u64, u64) {
    // SAFETY: zeros are attributes of which none is set.
    let unset: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    let given = attributes as *const libc::pthread_attr_t;
    let attributes = if given.is_null() { &raw const unset } else { given };
    let (mut lo, mut bytes, mut guard) = (std::ptr::null_mut(), 0, 0);
    // SAFETY: the program passes these attributes to `pthread_create`, or they are ours.
    unsafe { libc::pthread_attr_getstack(attributes, &raw mut lo, &raw mut bytes) };
    // Without an address libc answers with the size's negative.
    if (lo as u64).wrapping_add(bytes as u64) != 0 {
        return (lo as u64, bytes as u64);
    }
    // SAFETY: as above. Where no size is set either this is the default one.
    unsafe { libc::pthread_attr_getstacksize(attributes, &raw mut bytes) };
    // SAFETY: as above.
    unsafe { libc::pthread_attr_getguardsize(attributes, &raw mut guard) };
    (0, (bytes as u64).saturating_sub(guard as u64))
}

unsafe extern "C-unwind" fn after_create(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    if context.result as u32 != 0 {
        let at = context.id as usize;
        if let Some(&info) = context.args.get(at + 1) {
            // SAFETY: made by `begin_birth`, and no thread was.
            drop(unsafe { Box::from_raw(info as *mut StartInfo) });
        }
        return;
    }
    let [who, what, ticks] = context.note;
    // SAFETY: called by the gate.
    unsafe {
        inside(thread, |recording| {
            recording.ticks = ticks;
            let start_routine = what & ((1 << 60) - 1);
            recording.event(kind::THREAD_BIRTH, (what >> 60) as u16, &[who, start_routine]);
        });
    }
}

/// The new thread's first step.
pub(crate) unsafe extern "C-unwind" fn on_begin(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the start stub's own context.
    let context = unsafe { &mut *context };
    // SAFETY: made by `begin_birth` for this thread alone.
    let info = unsafe { Box::from_raw(context.args[0] as *mut StartInfo) };
    {
        // SAFETY: called by the gate.
        let state = unsafe { &mut *thread };
        // A signal handler may have called back before: that was a thread that
        // nobody had announced.
        if let Some(tracer) = tracer::current()
            && state.epoch == tracer.epoch
        {
            tracer.ring.release(&mut state.cursor);
            state.epoch = 0;
        }
        state.uid = info.uid;
        state.creator = info.creator;
        state.name = info.name;
        state.origin = info.origin as u8;
        state.start_routine = info.start_routine;
        // A thread's control block stands at the top of its stack.
        state.stack_hi = thread_pointer();
        state.stack_lo = match info.stack_lo {
            0 => state.stack_hi.saturating_sub(info.stack_bytes) + STACK_SLACK,
            lo => lo,
        };
        state.roomy_from = state.stack_lo + ROOM_BYTES;
    }
    drop(info);
    // SAFETY: called by the gate.
    unsafe { inside(thread, |recording| recording.tracer.note_recorded()) }
}

/// The start routine returned.
pub(crate) unsafe extern "C-unwind" fn on_return(_: *mut Context, thread: *mut ThreadState) {
    // SAFETY: called by the gate.
    unsafe { (*thread).returned = true };
}

pub(crate) fn thread_pointer() -> u64 {
    // SAFETY: always succeeds; a `pthread_t` is the thread pointer in glibc.
    unsafe { libc::pthread_self() }
}

/// The first event of a thread in this process.
#[cold]
pub(crate) fn first_seen(recording: &mut Recording<'_>) {
    let _errno = KeepErrno::new();
    let (tracer, ring) = (recording.tracer, &recording.tracer.ring);
    let thread = &mut *recording.thread;
    // Of a thread that begins in our stub everything is known without the
    // kernel, two of whose calls would double what its creation costs us.
    let announced = thread.epoch == 0 && thread.uid != 0;
    let tid = if announced { tid_of_clock() } else { None };
    let tid = tid.or_else(ask_tid).or_else(tid_of_clock).unwrap_or(0);
    let inherited = Some(thread.name).filter(|&name| announced && name != 0);
    let name = inherited.or_else(|| ask_name(ring)).unwrap_or(thread.name);
    if thread.epoch != 0 {
        // Forked: the only thread of the child, with its creator's stack.
        thread.uid = 0;
        thread.creator = 0;
        thread.cursor = Default::default();
    }
    if thread.uid == 0 {
        thread.uid = ring.next_uid();
        if thread.epoch == 0 {
            let is_main = tid == tracer.pid;
            thread.origin = if is_main { Origin::Main } else { Origin::Unknown } as u8;
            find_stack(thread, is_main);
        }
    }
    // What the block remembers of stacks are places in another ring.
    // SAFETY: the block is this thread's, which is inside.
    if let Some(block) = unsafe { thread.block.as_mut() } {
        block.nodes_len = 0;
    }
    thread.tid = tid;
    thread.name = name;
    thread.epoch = tracer.epoch;
    watch_for_end(thread);
    let (origin, creator, start_routine) = (thread.origin, thread.creator, thread.start_routine);
    recording.put(kind::THREAD_START, u16::from(origin), &[pair(name, creator), start_routine]);
}

fn ask_tid() -> Option<u32> {
    // SAFETY: always succeeds.
    sandbox::allows(&[Call::Gettid]).then(|| unsafe { libc::gettid() as u32 })
}

/// The thread's id as libc knows it, out of the number of its CPU clock: the
/// kernel's encoding is the id's complement, shifted by three. Right wherever
/// libc made the thread.
fn tid_of_clock() -> Option<u32> {
    let mut clock = 0;
    // SAFETY: the calling thread exists, and `clock` is a valid place.
    let error = unsafe { libc::pthread_getcpuclockid(thread_pointer(), &raw mut clock) };
    let tid = !(clock >> 3);
    (error == 0 && tid > 0).then_some(tid as u32)
}

fn ask_name(ring: &Ring<'_>) -> Option<Ref> {
    if !sandbox::allows(&[Call::Prctl]) {
        return None;
    }
    let mut comm = [0u8; COMM_BYTES];
    let arguments = [libc::PR_GET_NAME as u64, comm.as_mut_ptr() as u64, 0, 0, 0, 0];
    // Past our own entries.
    // SAFETY: the buffer has the 16 bytes that the call fills.
    unsafe { arch::system_call(libc::SYS_prctl, arguments) };
    CStr::from_bytes_until_nul(&comm).ok().map(|name| ring.string(name.to_bytes()))
}

/// The stack of a thread that nobody announced.
fn find_stack(thread: &mut ThreadState, is_main: bool) {
    const LARGEST: u64 = 1 << 30;
    let size = DEFAULT_STACK.load(Ordering::Relaxed).min(LARGEST);
    let top = if is_main { MAIN_STACK_TOP.load(Ordering::Relaxed) } else { thread_pointer() };
    thread.stack_hi = top;
    thread.stack_lo = top.saturating_sub(size);
    // How far down another thread's stack goes isn't known, only that reads go
    // upwards from its stack pointer: handlers run on a stack of ours.
    thread.roomy_from = if is_main { thread.stack_lo + ROOM_BYTES } else { u64::MAX };
}

fn watch_for_end(thread: &mut ThreadState) {
    let key = KEY.load(Ordering::Acquire);
    if key == u32::MAX || (thread.origin() == Origin::Unknown && key >= KEYS_IN_PLACE) {
        return;
    }
    // SAFETY: our key; the value is the thread's own state.
    unsafe { libc::pthread_setspecific(key, std::ptr::from_mut(thread).cast()) };
}

unsafe extern "C" fn on_key_destructor(state: *mut libc::c_void) {
    let state: *mut ThreadState = state.cast();
    // SAFETY: the value that `watch_for_end` set, in the thread that it is of.
    let rounds = unsafe { &mut (*state).end_rounds };
    *rounds = rounds.saturating_add(1);
    if *rounds < LAST_ROUND {
        // SAFETY: our key.
        unsafe { libc::pthread_setspecific(KEY.load(Ordering::Acquire), state.cast()) };
        return;
    }
    if arch::on_this_thread(on_end, 0) {
        // SAFETY: outside again, and the thread runs no more of our code but
        // what late destructors cause, which finds another block.
        arch::give_back(unsafe { &mut *state });
    }
}

unsafe extern "C-unwind" fn on_end(_: *mut Context, thread: *mut ThreadState) {
    // SAFETY: called by the gate.
    unsafe {
        inside(thread, |recording| {
            callbacks::close_all(recording);
            let unwound = !recording.thread.returned;
            recording.event(kind::THREAD_EXIT, u16::from(unwound), &[]);
            recording.tracer.ring.release(&mut recording.thread.cursor);
        });
    }
}

unsafe extern "C-unwind" fn after_set_name(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    if context.result as u32 != 0 {
        return;
    }
    // SAFETY: libc accepted the name, so it is a string.
    let name = unsafe { CStr::from_ptr(context.args[1] as *const libc::c_char) };
    let target = arch::state_of_thread(context.args[0]).cast_mut();
    // SAFETY: libc accepted the thread, so it exists.
    let uid = unsafe { &raw mut (*target).uid };
    // SAFETY: as above; at worst the thread is about to set the word.
    let uid = unsafe { AtomicU32::from_ptr(uid) }.load(Ordering::Relaxed);
    // SAFETY: as above.
    let its_name = unsafe { &raw mut (*target).name };
    // SAFETY: as above.
    let its_name = unsafe { AtomicU32::from_ptr(its_name) };
    let set = |recording: &mut Recording<'_>| {
        // Threads that it makes inherit the name.
        its_name.store(note_name(recording, uid, name.to_bytes()), Ordering::Relaxed);
    };
    // SAFETY: called by the gate.
    unsafe { inside(thread, set) }
}

/// Not in every libc's headers.
const SET_SYSCALL_USER_DISPATCH: i32 = 59;

/// Of all that `prctl` does, only a new name and a sandbox are looked at.
unsafe extern "C-unwind" fn before_prctl(context: *mut Context, _: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    if tracer::current().is_none() {
        return;
    }
    match context.args[0] as i32 {
        libc::PR_SET_NAME => context.live = arch::AROUND,
        libc::PR_SET_SECCOMP => {
            if let Some(set) = sandbox::enter(context.args[1], context.args[2]) {
                (context.note[0], context.live) = (set, arch::AROUND);
            }
        }
        SET_SYSCALL_USER_DISPATCH if context.args[1] != 0 => sandbox::all_dispatched(),
        libc::PR_SET_TSC if context.args[1] as i32 == libc::PR_TSC_SIGSEGV => sandbox::no_clock(),
        _ => {}
    }
}

unsafe extern "C-unwind" fn after_prctl(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    let failed = context.result as u32 != 0;
    if context.args[0] as i32 == libc::PR_SET_SECCOMP {
        sandbox::entered(context.note[0], !failed);
        return;
    }
    if failed {
        return;
    }
    // The kernel reads as far as the first zero, and cuts what is too long.
    let bytes = context.args[1] as *const u8;
    let mut name = [0u8; COMM_BYTES];
    for (i, byte) in name.iter_mut().take(COMM_BYTES - 1).enumerate() {
        // SAFETY: the kernel has read it; all bytes before it are not zero.
        *byte = unsafe { bytes.wrapping_add(i).read() };
        if *byte == 0 {
            break;
        }
    }
    let name = CStr::from_bytes_until_nul(&name).map_or(&[][..], CStr::to_bytes);
    // SAFETY: called by the gate, with the thread's own state.
    unsafe {
        inside(thread, |recording| {
            // Not so in a `vfork` child, which runs with its parent's state.
            if ask_tid().is_none_or(|tid| tid == recording.thread.tid) {
                note_name(recording, recording.thread.uid, name);
            }
        });
    }
}

/// The event; the name's reference.
fn note_name(recording: &mut Recording<'_>, uid: u32, name: &[u8]) -> Ref {
    let name = recording.tracer.ring.string(name);
    if recording.thread.uid == uid {
        recording.thread.name = name;
    }
    recording.event(kind::THREAD_NAME, 0, &[pair(name, uid)]);
    name
}
