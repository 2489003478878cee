//! The tracer of this process: made once, at the first use, and made anew in a
//! forked child.
#![allow(unsafe_code)]

mod making;

use crate::callbacks::Ready;
use crate::clock::TickClock;
use crate::errno::KeepErrno;
use crate::recording::inside;
use crate::sandbox::{self, Call};
use crate::state::{STRANGERS, ThreadState};
use crate::{arch, callbacks, decoder, environment, hooks, modules, real, registration, say};
use making::{LITTLE_MEMORY, make, memory_limit};
use std::ffi::{CStr, CString, OsString};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use traceshim_ring::env::{Config, UnwinderChoice};
use traceshim_ring::layout::header;
use traceshim_ring::mapping::RingMap;
use traceshim_ring::ring::{Clock, Ring};

/// What a process's tracing stands on. Never freed: threads may use it for as
/// long as the process lives.
#[derive(Debug)]
pub(crate) struct Tracer {
    pub(crate) ring: Ring<'static>,
    pub(crate) config: &'static Config,
    pub(crate) clock: TickClock,
    /// Tells this tracer from that of the process we were forked from: what a
    /// thread's state says of an earlier epoch is void.
    pub(crate) epoch: u32,
    pub(crate) pid: u32,
    /// From the configuration, at hand.
    pub(crate) stack_depth: u32,
    pub(crate) unwinder: UnwinderChoice,
    map: RingMap,
    /// Whether anything was recorded beyond the fact that the process ran.
    recorded: AtomicBool,
    ended: AtomicBool,
}

static CURRENT: AtomicPtr<Tracer> = AtomicPtr::new(null_mut());
static CONFIG: AtomicPtr<Config> = AtomicPtr::new(null_mut());
static EPOCH: AtomicU32 = AtomicU32::new(0);
/// Points to the pulse: a number that changes whenever something changes that
/// trampolines rely on, and is never the same again. It is in a page that the
/// kernel wipes in a forked child, however it was forked, so that it is 0 there.
pub(crate) static PULSE: AtomicPtr<AtomicU64> = AtomicPtr::new((&raw const NO_PULSE).cast_mut());
/// The pulse where there is no such page: nobody relies on anything.
static NO_PULSE: AtomicU64 = AtomicU64::new(0);
static PULSES: AtomicU64 = AtomicU64::new(1);

const NEW: u32 = 0;
const STARTING: u32 = 1;
const DONE: u32 = 2;
/// How far the start has come; what entries look at first.
pub(crate) static STARTED: AtomicU32 = AtomicU32::new(NEW);

/// The tracer, where this process is traced.
#[inline(always)]
pub(crate) fn current() -> Option<&'static Tracer> {
    // SAFETY: tracers are never freed.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// The configuration, once it was read.
pub(crate) fn config() -> Option<&'static Config> {
    // SAFETY: configurations are never freed.
    unsafe { CONFIG.load(Ordering::Acquire).as_ref() }
}

/// The pulse, and whether it is in a page of its own.
#[inline(always)]
fn pulse_word() -> (&'static AtomicU64, bool) {
    let word = PULSE.load(Ordering::Acquire);
    // SAFETY: the static, or the page, which is never unmapped.
    let pulse = unsafe { &*word };
    (pulse, !std::ptr::eq(word, &raw const NO_PULSE))
}

/// The current pulse.
#[inline(always)]
pub(crate) fn pulse() -> u64 {
    pulse_word().0.load(Ordering::Acquire)
}

/// What trampolines rely on has changed. A forked child's pulse stays 0 until
/// it has a tracer.
pub(crate) fn change_pulse() {
    let (pulse, is_real) = pulse_word();
    let next = PULSES.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
    if is_real {
        let _ = pulse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now != 0).then_some(next));
    }
}

/// Whether this process was forked from the one that the tracer was made in.
#[inline(always)]
pub(crate) fn forked() -> bool {
    let (pulse, is_real) = pulse_word();
    if is_real { pulse.load(Ordering::Relaxed) == 0 } else { is_another_process() }
}

/// The same, asked of the kernel: not so where an `exec` only was about to end
/// the process.
#[cold]
pub(crate) fn is_another_process() -> bool {
    sandbox::allows(&[Call::Getpid]) && current().is_some_and(|tracer| tracer.pid != std::process::id())
}

/// Stops tracing for good.
pub(crate) fn disable(why: std::fmt::Arguments<'_>) {
    if !CURRENT.swap(null_mut(), Ordering::AcqRel).is_null() {
        change_pulse();
        say::error(format_args!("{why}; tracing stops, the program goes on"));
    }
}

/// Starts the tracer, once. Called by our constructor and by every entry that
/// may run before it.
pub(crate) extern "C" fn initialise() {
    if STARTED.load(Ordering::Acquire) != NEW
        || STARTED.compare_exchange(NEW, STARTING, Ordering::AcqRel, Ordering::Acquire).is_err()
    {
        return;
    }
    let _errno = KeepErrno::new();
    real::resolve_all();
    environment::provide();
    say::find_stderr();
    std::panic::set_hook(Box::new(|info| {
        say::error(format_args!("internal error: {info}"));
    }));
    arch::on_this_thread(start, 0);
    STARTED.store(DONE, Ordering::Release);
}

/// Runs inside, so that nothing that happens here is traced.
unsafe extern "C-unwind" fn start(_: *mut arch::Context, thread: *mut ThreadState) {
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // Before anything of the environment is believed.
        // SAFETY: asks the kernel's table for a number.
        if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
            return Err("the program runs with raised privileges; it runs untraced".to_owned());
        }
        arch::prepare_vector_state();
        let config = Config::read(|name| std::env::var_os(name));
        // From here on there may be others than the loader's own system calls.
        if !sandbox::begin(config.as_ref().ok()) {
            return Err(
                "a seccomp filter may forbid what tracing takes; the program runs untraced".to_owned()
            );
        }
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                if let Ok(Some(level)) = std::env::var_os("TRACESHIM_LOG").map(|v| level(&v)).transpose() {
                    say::set_level(level);
                }
                return Err(format!("{error}; the program runs untraced"));
            }
        };
        say::set_level(config.log);
        if !config.follow && !is_first_of_its_kind() {
            return Ok(());
        }
        if memory_limit() < LITTLE_MEMORY {
            crate::alloc::shrink_reserve(1 << 20);
        }
        let config: &'static Config = Box::leak(Box::new(config));
        CONFIG.store(std::ptr::from_ref(config).cast_mut(), Ordering::Release);
        let Some(tracer) = make(config, "the program runs untraced", || true) else { return Ok(()) };
        hooks::process::install();
        make_pulse_page();
        make_shared_word();
        CURRENT.store(std::ptr::from_ref(tracer).cast_mut(), Ordering::Release);
        // SAFETY: called by the gate.
        unsafe { inside(thread, |recording| callbacks::refresh(tracer, Some(recording), Ready::All)) };
        tracer.sync(1);
        say::info(format_args!("recording to {}", tracer.map.path().display()));
        Ok(())
    }));
    match started {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            say::error(format_args!("{why}"));
            sandbox::withdraw();
        }
        Err(_) => disable(format_args!("the start failed")),
    }
}

/// Where children aren't followed, a program that a traced one has executed
/// must know that it is one: the first leaves its process id in the environment.
fn is_first_of_its_kind() -> bool {
    const ROOT: &CStr = c"TRACESHIM_ROOT";
    let own = std::process::id().to_string();
    match std::env::var_os("TRACESHIM_ROOT") {
        Some(root) => root == *own,
        None => {
            if let Ok(own) = CString::new(own) {
                // SAFETY: two C strings, which libc copies; the program has not
                // begun, so nobody else reads the environment.
                unsafe { libc::setenv(ROOT.as_ptr(), own.as_ptr(), 1) };
            }
            true
        }
    }
}

fn level(value: &std::ffi::OsStr) -> Result<traceshim_ring::env::LogLevel, ()> {
    let read = Config::read(|name| (name == "TRACESHIM_LOG").then(|| OsString::from(value)));
    read.map(|config| config.log).map_err(|_| ())
}

/// Maps the pulse's page, which tells a forked child from its parent.
fn make_pulse_page() {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: asks for a fresh page.
    let page = unsafe { libc::mmap(null_mut(), 4096, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return;
    }
    // SAFETY: the page was just mapped.
    if unsafe { libc::madvise(page, 4096, libc::MADV_WIPEONFORK) } != 0 {
        return;
    }
    let pulse: *mut AtomicU64 = page.cast();
    // SAFETY: the page is mapped, aligned, and zero, which is a valid value.
    unsafe { &*pulse }.store(1, Ordering::Relaxed);
    PULSE.store(pulse, Ordering::Release);
}

/// A word that all forked children share, where there is one: whether one of
/// them has said why it isn't traced. A server that has become another user would
/// else say so for each of its workers.
static FAILED: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());

fn make_shared_word() {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: asks for a fresh page.
    let page = unsafe { libc::mmap(null_mut(), 4096, access, kind, -1, 0) };
    if page != libc::MAP_FAILED {
        FAILED.store(page.cast(), Ordering::Release);
    }
}

fn is_first_to_fail() -> bool {
    // SAFETY: the page is never unmapped, and zero at first.
    let word = unsafe { FAILED.load(Ordering::Acquire).as_ref() };
    word.is_none_or(|word| word.swap(1, Ordering::Relaxed) == 0)
}

/// From the next event on there is another ring.
pub(crate) fn begin_anew() {
    let (pulse, is_real) = pulse_word();
    if is_real {
        pulse.store(0, Ordering::Release);
    }
}

/// In a forked child (or where an exec failed), at the first event: a tracer of
/// its own, or none. Runs inside.
#[cold]
pub(crate) fn after_fork() -> Option<&'static Tracer> {
    let _errno = KeepErrno::new();
    let is_child = is_another_process();
    let parent = CURRENT.swap(null_mut(), Ordering::AcqRel);
    let (pulse, is_real) = pulse_word();
    if is_real {
        pulse.store(PULSES.fetch_add(1, Ordering::AcqRel).wrapping_add(1), Ordering::Release);
    }
    // SAFETY: tracers are never freed. The parent's ring is not mapped here;
    // only its configuration is looked at.
    let parent = unsafe { parent.as_ref() }?;
    if is_child {
        // SAFETY: this is the child's only thread.
        unsafe { forget_others() };
    }
    if !sandbox::allows(sandbox::RING) || is_child && !parent.config.follow {
        return None;
    }
    let tracer = make(parent.config, "the forked child runs untraced, as may others", is_first_to_fail)?;
    CURRENT.store(std::ptr::from_ref(tracer).cast_mut(), Ordering::Release);
    callbacks::describe_all(tracer);
    Some(tracer)
}

/// In a forked child: locks that other threads hold are free.
///
/// # Safety
/// The calling thread is the only one.
pub(crate) unsafe fn forget_others() {
    // SAFETY: the caller's promise.
    unsafe { modules::forget_others() };
    // SAFETY: as above.
    unsafe { callbacks::forget_others() };
    // SAFETY: as above.
    unsafe { registration::forget_others() };
    // SAFETY: as above.
    unsafe { decoder::forget_others() };
}

impl Tracer {
    /// See [`RingMap::stand_in`].
    pub(crate) fn stand_in(&self) {
        self.map.stand_in();
    }

    /// Takes all of the ring's space now: there will be no asking for it.
    pub(crate) fn reserve_all(&self) {
        self.map.reserve_all();
    }

    /// See [`RingMap::unlock`].
    pub(crate) fn unlock_ring(&self) {
        let _errno = KeepErrno::new();
        self.map.unlock();
    }

    /// Ends tracing, and the ring, whose memory is needed.
    ///
    /// # Safety
    /// Nobody but the caller uses the tracer, and nor does that from now on.
    pub(crate) unsafe fn give_up(&self, why: std::fmt::Arguments<'_>) {
        self.finish();
        disable(why);
        // SAFETY: the caller's promise.
        unsafe { self.map.unmap() };
    }

    fn set(&self, at: usize, value: u64) {
        self.ring.set_header(at, value);
    }

    /// Takes in what [`STRANGERS`] counts.
    pub(crate) fn count_strangers(&self) {
        match STRANGERS.swap(0, Ordering::Relaxed) {
            0 => {}
            count => self.ring.count_reentered(count),
        }
    }

    /// Writes pair number `n` of ticks and nanoseconds.
    fn sync(&self, n: usize) {
        let (ticks, ns) = self.clock.sync();
        self.set(header::SYNCS + 2 * n, ticks);
        self.set(header::SYNCS + 2 * n + 1, ns);
    }

    /// Whether there is something to keep.
    #[inline(always)]
    pub(crate) fn has_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Notes that there is something to keep.
    #[inline]
    pub(crate) fn note_recorded(&self) {
        if !self.recorded.load(Ordering::Relaxed) {
            self.recorded.store(true, Ordering::Relaxed);
        }
    }

    /// The clean end of the process: the ring is cut to what it holds, or
    /// removed where it holds nothing. Threads may still run.
    pub(crate) fn finish(&self) {
        if !sandbox::allows(sandbox::END) {
            return;
        }
        let is_ours = !forked() && self.pid == std::process::id();
        if !is_ours && forked() {
            // A child without a ring: it's too late to begin one.
            CURRENT.store(null_mut(), Ordering::Release);
        }
        if !is_ours || self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        let _errno = KeepErrno::new();
        self.count_strangers();
        self.sync(2);
        self.set(header::END_TICKS, self.clock.now());
        self.set(header::ENDED, 1);
        if let Err(error) = self.map.trim(self.recorded.load(Ordering::Relaxed)) {
            say::info(format_args!("{}: {error}", self.map.path().display()));
        }
    }
}
