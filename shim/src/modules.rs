//! What is loaded: enumerated by findshlibs at the start and whenever the
//! loader's counters have changed, never during a capture.
//!
//! Threads take stacks over an immutable set of modules, found through one
//! pointer. A set that was replaced is freed when no thread can still be using
//! it, so that a program which opens and closes plugins for days doesn't grow.
#![allow(unsafe_code)]

mod loaded;

pub(crate) use loaded::{Kind, Loaded};

use crate::arguments::forget_callers;
use crate::loader::{self, Counts};
use crate::lock::{self, Lock, RawLock};
use findshlibs::{SharedLibrary as _, TargetSharedLibrary};
use loaded::Identity;
use parking_lot::lock_api::MutexGuard;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use traceshim_ring::env::Config;
use traceshim_ring::layout::Ref;
use traceshim_unwind::{ModuleDesc, ModuleSet};

/// Every module, in the loader's order, which is the order of symbol lookup.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) modules: Vec<Loaded>,
    /// The loader's counters as they were when the list was made.
    counts: Counts,
    described: u64,
    generation: u64,
    retired: Vec<Retired>,
}

#[derive(Debug)]
struct Retired(*mut ModuleSet);
// SAFETY: the set is owned by the list; `ModuleSet` is shared by threads anyway.
unsafe impl Send for Retired {}

static REGISTRY: Lock<Registry> = Lock::new(Registry {
    modules: Vec::new(),
    counts: Counts { loads: 0, unloads: 0 },
    described: 0,
    generation: 0,
    retired: Vec::new(),
});
static SET: AtomicPtr<ModuleSet> = AtomicPtr::new(null_mut());
/// The current set's generation.
static GENERATION: AtomicU64 = AtomicU64::new(0);
/// Threads that use a set at this moment, spread so that they don't meet.
static READERS: [Line; 16] = [const { Line(AtomicU32::new(0)) }; 16];
#[repr(align(64))]
struct Line(AtomicU32);

/// The registry, for what is rare.
pub(crate) fn registry() -> MutexGuard<'static, RawLock, Registry> {
    REGISTRY.lock()
}

/// The generation of the current set.
#[inline(always)]
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// Runs `f` over the current set; `None` before there is one.
#[inline]
pub(crate) fn with_set<T>(uid: u32, f: impl FnOnce(&ModuleSet) -> T) -> Option<T> {
    let line = READERS.get(uid as usize % READERS.len())?;
    // Sequentially consistent with the exchange in `publish`: either this
    // count is seen there, or the new set is seen here.
    line.0.fetch_add(1, Ordering::SeqCst);
    let set = SET.load(Ordering::SeqCst);
    // SAFETY: a published set is not freed while a reader that may have seen
    // it is counted.
    let result = unsafe { set.as_ref() }.map(f);
    line.0.fetch_sub(1, Ordering::SeqCst);
    result
}

/// Which module an address is in, by the number under which it was described:
/// without a lock, from the current set.
fn number_of(address: u64) -> Option<u64> {
    with_set(0, |set| set.find(address).map(|module| module.desc().load_id)).flatten()
}

/// Which side an address is on; C's, where it is in no module.
pub(crate) fn kind_of(address: u64) -> Kind {
    let Some(number) = number_of(address) else { return Kind::CSide };
    match KINDS.get(number as usize).map(|kind| kind.load(Ordering::Relaxed) & !MAKES_THREADS) {
        Some(1) => Kind::Host,
        Some(2) => Kind::Forwarder,
        Some(3) => Kind::Untouchable,
        _ => Kind::CSide,
    }
}

/// Whether the module that `address` is in has a `pthread_create` of its own, as
/// sanitizers and other preloaded libraries do, which passes calls on.
pub(crate) fn makes_threads(address: u64) -> bool {
    let kind = number_of(address).and_then(|number| KINDS.get(number as usize));
    kind.is_some_and(|kind| kind.load(Ordering::Relaxed) & MAKES_THREADS != 0)
}

/// Whether the program began with the module that `address` is in.
pub(crate) fn is_from_start(address: u64) -> bool {
    number_of(address).is_some_and(|number| number < FROM_START.load(Ordering::Relaxed))
}

/// Kinds by number; later loads than these are taken for C, which all but the
/// host and a few libraries are.
static KINDS: [AtomicU32; 4096] = [const { AtomicU32::new(0) }; 4096];
/// In a kind's code: see [`makes_threads`].
const MAKES_THREADS: u32 = 8;
/// How many modules the program began with.
static FROM_START: AtomicU64 = AtomicU64::new(0);

/// Whether `address` is a function of libc's own.
pub(crate) fn is_libc(address: u64) -> bool {
    registry().find(address).is_some_and(Loaded::is_libc)
}

/// What changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Ring entries of modules that are gone.
    pub(crate) unloaded: Vec<Ref>,
    /// How many modules are new.
    pub(crate) loaded: usize,
}

impl Registry {
    /// Whether the list is what the loader has by now.
    pub(crate) fn is_current(&self, counts: Counts) -> bool {
        self.counts == counts
    }

    /// Takes in what is loaded. The caller holds the loader: see [`loader::hold`].
    pub(crate) fn refresh(&mut self, counts: Counts, config: &Config) -> Changes {
        let from_start = self.modules.is_empty();
        let mut old = std::mem::take(&mut self.modules);
        let mut new = 0;
        TargetSharedLibrary::each(|library| {
            let known = Identity::of(library).is_some_and(|found| old.iter().any(|m| m.identity == found));
            new += u64::from(!known);
        });
        let mut changes = Changes::default();
        // More was loaded than is new: something went and came back, perhaps
        // another build of it at the same place, and certainly with slots as
        // the loader fills them.
        if counts.loads.wrapping_sub(self.counts.loads) > new && !from_start {
            for module in old.iter_mut().filter(|module| !module.from_start) {
                module.hooked = false;
            }
            let is_certain = |module: &Loaded| module.from_start || !module.identity.build_id.is_empty();
            let (certain, doubtful) = old.into_iter().partition(is_certain);
            old = certain;
            changes.unloaded.extend(doubtful.iter().map(|module: &Loaded| module.entry));
        }
        self.counts = counts;
        let mut modules: Vec<Loaded> = Vec::new();
        TargetSharedLibrary::each(|library| {
            let Some(identity) = Identity::of(library) else { return };
            let same = old.iter().position(|module| module.identity == identity);
            modules.push(match same {
                Some(at) => old.swap_remove(at),
                None => {
                    changes.loaded += 1;
                    let first = modules.is_empty();
                    self.number(Loaded::describe(library, identity, config, first, from_start))
                }
            });
        });
        self.modules = modules;
        if !from_start && self.modules.iter().any(|module| module.entry == 0 && module.kind == Kind::Host) {
            self.modules.iter_mut().for_each(|module| module.outdated = true);
        }
        if from_start {
            FROM_START.store(self.described, Ordering::Relaxed);
        }
        changes.unloaded.extend(old.iter().map(|module| module.entry));
        if changes.loaded > 0 || !changes.unloaded.is_empty() {
            self.publish();
        }
        changes
    }

    fn number(&mut self, mut module: Loaded) -> Loaded {
        module.desc.load_id = self.described;
        if let Some(kind) = KINDS.get(self.described as usize) {
            let code = match module.kind {
                Kind::CSide => 0,
                Kind::Host => 1,
                Kind::Forwarder => 2,
                Kind::Untouchable => 3,
            };
            let makes = module.dynamic.is_some_and(|dynamic| dynamic.exports(c"pthread_create"));
            kind.store(code | if makes { MAKES_THREADS } else { 0 }, Ordering::Relaxed);
        }
        self.described += 1;
        module
    }

    /// Makes a new set of what is loaded, of a new generation.
    pub(crate) fn publish(&mut self) {
        self.generation += 1;
        let descs: Vec<ModuleDesc> = self.modules.iter().map(|module| module.desc.clone()).collect();
        let previous = SET.load(Ordering::Acquire);
        // SAFETY: only this function frees sets, and the registry is locked.
        let previous_set = unsafe { previous.as_ref() };
        let moved = self.modules.iter().flat_map(|module| module.moved.iter().copied()).collect();
        let set = ModuleSet::replacing(descs, self.generation, previous_set).with_moved(moved);
        let set = Box::into_raw(Box::new(set));
        SET.store(set, Ordering::SeqCst);
        GENERATION.store(self.generation, Ordering::SeqCst);
        forget_callers();
        crate::tracer::change_pulse();
        if !previous.is_null() {
            self.retired.push(Retired(previous));
        }
        // Whoever began before the exchange is counted; a line that was seen
        // at zero since then has nobody left who could use an old set.
        let quiet = READERS.iter().all(|line| (0..1000).any(|_| line.0.load(Ordering::SeqCst) == 0));
        if quiet {
            for Retired(set) in self.retired.drain(..) {
                // SAFETY: it came from a box, and nobody uses it any more.
                drop(unsafe { Box::from_raw(set) });
            }
        }
    }

    /// The modules whose functions are callbacks.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Loaded> {
        self.modules.iter().filter(|module| module.kind == Kind::Host)
    }

    /// The module that `address` lies in.
    pub(crate) fn find(&self, address: u64) -> Option<&Loaded> {
        self.modules.iter().find(|module| module.contains(address))
    }
}

/// Before a fork: nobody else is half-way through a change.
pub(crate) fn lock_for_fork(tries: usize) {
    loader::keep_free_for_fork(tries);
    lock::lock_for_fork(&REGISTRY, tries);
}

/// After a fork, in both processes.
pub(crate) fn unlock_after_fork() {
    lock::unlock_after_fork(&REGISTRY);
    loader::after_fork();
}

/// In a forked child: there are no other threads.
///
/// # Safety
/// The calling thread is the only one.
pub(crate) unsafe fn forget_others() {
    loader::forget_others();
    // SAFETY: the caller's promise.
    unsafe { lock::free_in_child(&REGISTRY) };
    for line in &READERS {
        line.0.store(0, Ordering::SeqCst);
    }
}
