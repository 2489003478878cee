//! The tracer of this process: made once, at the first use, and made anew in a
//! forked child.
#![allow(unsafe_code)]

use crate::callbacks::Ready;
use crate::clock::{TickClock, nanoseconds};
use crate::errno::KeepErrno;
use crate::hooks::sandbox;
use crate::recording::inside;
use crate::state::ThreadState;
use crate::{arch, callbacks, environment, hooks, modules, real, registration, say};
use std::ffi::{CStr, CString, OsString};
use std::fs::{DirBuilder, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use traceshim_ring::env::{Config, Overflow, UnwinderChoice};
use traceshim_ring::layout::header;
use traceshim_ring::mapping::{NewRing, RingMap};
use traceshim_ring::ring::{Clock, Ring};
use traceshim_ring::session::{check_dir, default_dir, is_of_record};

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

/// The same, asked of the kernel.
#[cold]
fn is_another_process() -> bool {
    !sandbox::is_on() && current().is_some_and(|tracer| tracer.pid != std::process::id())
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
        let config = match Config::read(|name| std::env::var_os(name)) {
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
        let config: &'static Config = Box::leak(Box::new(config));
        CONFIG.store(std::ptr::from_ref(config).cast_mut(), Ordering::Release);
        let Some(tracer) = make(config, "the program runs untraced") else { return Ok(()) };
        hooks::process::install();
        make_pulse_page();
        CURRENT.store(std::ptr::from_ref(tracer).cast_mut(), Ordering::Release);
        // SAFETY: called by the gate.
        unsafe { inside(thread, |recording| callbacks::refresh(tracer, Some(recording), Ready::All)) };
        tracer.sync(1);
        say::info(format_args!("recording to {}", tracer.map.path().display()));
        Ok(())
    }));
    match started {
        Ok(Ok(())) => {}
        Ok(Err(why)) => say::error(format_args!("{why}")),
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

/// Makes the ring, and the tracer around it; or says why not, and what follows.
fn make(config: &'static Config, what_follows: &str) -> Option<&'static Tracer> {
    let (path, error) = match try_make(config) {
        Ok(tracer) => return Some(tracer),
        Err(refused) => refused,
    };
    // Children that are out of reach of a recording (another user, another root)
    // or outlive it come by the dozen, and whoever started them may read what
    // they say on standard error.
    let out_of_reach = matches!(error.raw_os_error(), Some(libc::EACCES | libc::ENOENT));
    let line = format_args!("{}: {error}; {what_follows}", path.display());
    if out_of_reach && is_of_record(&path) {
        say::info(line)
    } else {
        say::error(line)
    }
    None
}

fn try_make(config: &'static Config) -> Result<&'static Tracer, (PathBuf, std::io::Error)> {
    let dir = session_dir(config)?;
    let clock = TickClock::choose();
    let exe = std::env::current_exe().unwrap_or_default();
    let name = exe.file_name().unwrap_or_else(|| "unknown".as_ref());
    let new = NewRing {
        bytes: config.ring_bytes,
        overwrite: config.overflow == Overflow::Overwrite,
        tsc: clock == TickClock::Tsc,
        pid: std::process::id(),
        ppid: std::os::unix::process::parent_id(),
        uuid: random(),
        start_mono_ns: nanoseconds(libc::CLOCK_MONOTONIC),
        start_real_ns: nanoseconds(libc::CLOCK_REALTIME),
        stack_depth: config.stack_depth,
    };
    let map = RingMap::create(&dir, name.as_bytes(), &new).map_err(|error| (dir.clone(), error))?;
    let ring = map.ring_static().ok_or_else(|| (dir, std::io::ErrorKind::InvalidData.into()))?;
    let epoch = EPOCH.fetch_add(1, Ordering::AcqRel) + 1;
    let tracer = Box::leak(Box::new(Tracer {
        ring,
        config,
        clock,
        epoch,
        pid: new.pid,
        stack_depth: config.stack_depth,
        unwinder: config.unwinder,
        map,
        recorded: AtomicBool::new(false),
        ended: AtomicBool::new(false),
    }));
    tracer.sync(0);
    let exe = ring.string(exe.as_os_str().as_bytes());
    tracer.set(header::EXE, u64::from(exe));
    Ok(tracer)
}

fn random() -> [u64; 2] {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer is valid for its length. What is not filled in stays
    // zero, and the time and the process id tell rings apart all the same.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    let value = u128::from_le_bytes(bytes);
    [value as u64, (value >> 64) as u64]
}

/// The session directory, made where it isn't there yet.
fn session_dir(config: &Config) -> Result<PathBuf, (PathBuf, std::io::Error)> {
    // SAFETY: always succeeds.
    let uid = unsafe { libc::geteuid() };
    let (dir, is_named) = match &config.dir {
        Some(dir) => (dir.clone(), true),
        None => (default_dir(std::env::var_os("XDG_RUNTIME_DIR"), uid), false),
    };
    let make = || {
        if is_of_record(&dir) {
            // It was there before us, or the recording is over.
            return Ok(());
        }
        if is_named && let Some(parent) = dir.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&dir) {
            // Whatever the umask took away.
            Ok(()) => std::fs::set_permissions(&dir, Permissions::from_mode(0o700)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    };
    match make().and_then(|()| check_dir(&dir, is_named, uid)) {
        Ok(()) => Ok(dir),
        Err(error) => Err((dir, error)),
    }
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
    let parent = CURRENT.swap(null_mut(), Ordering::AcqRel);
    let (pulse, is_real) = pulse_word();
    if is_real {
        pulse.store(PULSES.fetch_add(1, Ordering::AcqRel).wrapping_add(1), Ordering::Release);
    }
    // SAFETY: tracers are never freed. The parent's ring is not mapped here;
    // only its configuration is looked at.
    let parent = unsafe { parent.as_ref() }?;
    if parent.pid != std::process::id() {
        if !parent.config.follow || sandbox::is_on() {
            return None;
        }
        // SAFETY: this is the child's only thread.
        unsafe { modules::forget_others() };
        // SAFETY: as above.
        unsafe { callbacks::forget_others() };
        // SAFETY: as above.
        unsafe { registration::forget_others() };
        crate::alloc::PAGES.forget_others();
    }
    let tracer = make(parent.config, "the forked child runs untraced")?;
    CURRENT.store(std::ptr::from_ref(tracer).cast_mut(), Ordering::Release);
    callbacks::describe_all(tracer);
    Some(tracer)
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

    fn set(&self, at: usize, value: u64) {
        self.ring.set_header(at, value);
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
        if sandbox::is_on() {
            return;
        }
        let is_ours = !forked() && self.pid == std::process::id();
        if !is_ours || self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        let _errno = KeepErrno::new();
        self.sync(2);
        self.set(header::END_TICKS, self.clock.now());
        self.set(header::ENDED, 1);
        if let Err(error) = self.map.trim(self.recorded.load(Ordering::Relaxed)) {
            say::info(format_args!("{}: {error}", self.map.path().display()));
        }
    }
}
