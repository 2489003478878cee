//! Processes: fork, exec and the end.
#![allow(unsafe_code)]

use super::threads::{before_always, thread_pointer};
use crate::arch::{self, Context, around_entry};
use crate::recording::inside;
use crate::state::ThreadState;
use crate::{callbacks, decoder, modules, registration, sandbox, tracer};
use traceshim_ring::record::kind;

/// Once, at the start.
pub(crate) fn install() {
    super::threads::prepare();
    // SAFETY: the functions have the right types and stay loaded.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork_in_child)) };
    // SAFETY: as above.
    unsafe { libc::atexit(at_exit) };
}

extern "C" fn at_exit() {
    if let Some(tracer) = tracer::current() {
        tracer.finish();
        sandbox::withdraw();
    }
}

/// How often a fork tries to get a lock that another thread has.
const TRIES: usize = 10_000;

/// Whether a signal handler is running that has interrupted us.
fn is_inside() -> bool {
    let thread = thread_pointer();
    if thread == 0 {
        return false;
    }
    let state = arch::state_of_thread(thread);
    // SAFETY: the calling thread's own state.
    unsafe { (*state).inside != 0 }
}

/// Nothing of ours is locked by another thread while the process forks. Where
/// a signal handler forks in the middle of us, this thread may be the one: it
/// goes on without, and what it holds it gives back when the handler is over.
unsafe extern "C" fn before_fork() {
    let tries = if is_inside() { 1 } else { TRIES };
    modules::lock_for_fork(tries);
    registration::lock_for_fork(tries);
    callbacks::lock_for_fork(tries);
    decoder::lock_for_fork(tries);
}

unsafe extern "C" fn after_fork() {
    decoder::unlock_after_fork();
    callbacks::unlock_after_fork();
    registration::unlock_after_fork();
    modules::unlock_after_fork();
}

unsafe extern "C" fn after_fork_in_child() {
    if is_inside()
        && let Some(tracer) = tracer::current()
    {
        tracer.stand_in();
    }
    // SAFETY: libc calls this where it would call the other.
    unsafe { after_fork() };
}

/// `_Fork` is `fork` without its handlers: the child is told here.
#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_snake_case)] // The name is C's.
pub(crate) unsafe extern "C" fn _Fork() {
    arch::fork_like!(crate::real::FORK_ONLY)
}

/// In a child that was forked without handlers. One that a signal handler forked
/// in the middle of us goes on there: with memory in the ring's place, and with
/// no lock that another thread holds, which isn't here.
pub(crate) unsafe extern "C" fn after_plain_fork() {
    if !tracer::forked() || !is_inside() {
        return;
    }
    if let Some(tracer) = tracer::current() {
        tracer.stand_in();
    }
    // SAFETY: this is the child's only thread.
    unsafe { tracer::forget_others() };
}

around_entry! {
    /// `clone`: who shares its thread-local storage, and goes on by itself, is
    /// told from its clone by asking the kernel each time.
    clone, crate::real::CLONE, before_clone, never
}

unsafe extern "C-unwind" fn before_clone(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let flags = unsafe { (*context).args[2] } as i32;
    if flags & (libc::CLONE_VM | libc::CLONE_SETTLS | libc::CLONE_VFORK) == libc::CLONE_VM {
        // SAFETY: called by the gate.
        let thread = unsafe { &mut *thread };
        (thread.shared, thread.armed) = (true, 0);
    }
}

around_entry! {
    /// `fork`: the parent notes its child, which gets a ring at its first event.
    fork, crate::real::FORK, before_always, after_fork_call
}

unsafe extern "C-unwind" fn after_fork_call(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let child = unsafe { (*context).result } as i32;
    if child > 0 {
        // SAFETY: called by the gate.
        unsafe { inside(thread, |recording| recording.event(kind::FORK, 0, &[child as u64])) }
    }
}

macro_rules! exec_entries {
    ($($name:ident, $real:path;)*) => {
        $(around_entry! {
            /// Notes the path and passes on. The ring of the old image stays.
            $name, $real, before_exec, never
        })*
    };
}
exec_entries! {
    execve, crate::real::EXECVE;
    execv, crate::real::EXECV;
    execvp, crate::real::EXECVP;
    execvpe, crate::real::EXECVPE;
    execl, crate::real::EXECL;
    execlp, crate::real::EXECLP;
    execle, crate::real::EXECLE;
}

/// For entries that never call the real function from their frame.
pub(super) unsafe extern "C-unwind" fn never(_: *mut Context, _: *mut ThreadState) {}

unsafe extern "C-unwind" fn before_exec(context: *mut Context, thread: *mut ThreadState) {
    if !sandbox::allows(sandbox::END) {
        return;
    }
    // A child of vfork shares our memory but not our process; one of fork that
    // recorded nothing needs no ring for saying that it's about to go.
    let is_ours = tracer::current().is_some_and(|tracer| tracer.pid == std::process::id());
    if !is_ours || tracer::forked() {
        return;
    }
    // Nothing is executed where the kernel can't read the path either.
    // SAFETY: the entry's own context.
    let path = unsafe { (*context).args[0] };
    // SAFETY: what the program passes to `exec`.
    let Some(path) = (unsafe { sandbox::path_at(path) }) else { return };
    // SAFETY: called by the gate.
    unsafe {
        inside(thread, |recording| {
            let path = recording.tracer.ring.string(&path);
            recording.put(kind::EXEC, 0, &[u64::from(path)]);
        });
    }
    // The image ends here, unless there is nothing to execute: then the next
    // event begins a ring of its own.
    if let Some(tracer) = tracer::current() {
        tracer.finish();
        tracer::begin_anew();
    }
}

macro_rules! exit_entries {
    ($($name:ident, $real:path;)*) => {
        $(around_entry! {
            #[allow(non_snake_case)] // The name is C's.
            /// An end without exit handlers.
            $name, $real, before_end, never
        })*
    };
}
exit_entries! {
    _exit, crate::real::EXIT_NOW;
    _Exit, crate::real::EXIT_NOW_C99;
    quick_exit, crate::real::QUICK_EXIT;
}

unsafe extern "C-unwind" fn before_end(_: *mut Context, _: *mut ThreadState) {
    at_exit();
}
