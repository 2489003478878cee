//! What is loaded: enumerated by findshlibs at the start and after each
//! `dlopen` and `dlclose`, never during a capture.
//!
//! Threads take stacks over an immutable set of modules, found through one
//! pointer. A set that was replaced is freed when no thread can still be using
//! it, so that a program which opens and closes plugins for days doesn't grow.
#![allow(unsafe_code)]

use crate::elf::Dynamic;
use findshlibs::{Segment as _, SharedLibrary as _, SharedLibraryId, TargetSharedLibrary};
use parking_lot::{Mutex, MutexGuard};
use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
pub(crate) use traceshim_ring::choice::Side as Kind;
use traceshim_ring::choice::{INTERPRETER, file_name};
use traceshim_ring::env::Config;
use traceshim_ring::layout::Ref;
use traceshim_ring::stamp::FileStamp;
use traceshim_unwind::{FramePointers, ModuleDesc, ModuleSet, sections_of};

/// A module, as long as it is loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) bias: u64,
    pub(crate) path: Vec<u8>,
    pub(crate) build_id: Vec<u8>,
    /// Of its file, where it has no build id.
    pub(crate) file: FileStamp,
    pub(crate) dynamic: Option<Dynamic>,
    /// Where addresses of other modules' functions seem to be.
    pub(crate) stand_ins: Vec<u64>,
    /// Where its code is.
    pub(crate) code: Vec<Range<u64>>,
    /// Pages that the loader made read-only after relocation.
    pub(crate) relro: (u64, u64),
    pub(crate) kind: Kind,
    /// Where the ring has it.
    pub(crate) entry: Ref,
    /// Whether its slots have been looked through.
    pub(crate) hooked: bool,
    desc: ModuleDesc,
}

/// Every module, in the loader's order, which is the order of symbol lookup.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) modules: Vec<Loaded>,
    enumerated: u64,
    loads: u64,
    generation: u64,
    retired: Vec<Retired>,
}

#[derive(Debug)]
struct Retired(*mut ModuleSet);
// SAFETY: the set is owned by the list; `ModuleSet` is shared by threads anyway.
unsafe impl Send for Retired {}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { modules: Vec::new(), enumerated: 0, loads: 0, generation: 0, retired: Vec::new() });
static SET: AtomicPtr<ModuleSet> = AtomicPtr::new(null_mut());
/// The current set's generation.
static GENERATION: AtomicU64 = AtomicU64::new(0);
/// Threads that use a set at this moment, spread so that they don't meet.
static READERS: [Line; 16] = [const { Line(AtomicU32::new(0)) }; 16];
#[repr(align(64))]
struct Line(AtomicU32);

/// The registry, for what is rare.
pub(crate) fn registry() -> MutexGuard<'static, Registry> {
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

/// Which side an address is on; C's, where it is in no module.
pub(crate) fn kind_of(address: u64) -> Kind {
    // No lock: the set knows the range, and its description tells the rest.
    let index = with_set(0, |set| set.find(address).map(|module| module.desc().load_id)).flatten();
    let Some(load_id) = index else { return Kind::CSide };
    match KINDS.get(load_id as usize).map(|kind| kind.load(Ordering::Relaxed)) {
        Some(1) => Kind::Host,
        Some(2) => Kind::Forwarder,
        Some(3) => Kind::Untouchable,
        _ => Kind::CSide,
    }
}

/// Kinds by load id; later loads than these are taken for C, which all but the
/// host and a few libraries are.
static KINDS: [AtomicU32; 4096] = [const { AtomicU32::new(0) }; 4096];

/// Whether `address` is a function of libc's own.
pub(crate) fn is_libc(address: u64) -> bool {
    let registry = registry();
    registry.find(address).is_some_and(Loaded::is_libc)
}

/// What changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Ring entries of modules that are gone.
    pub(crate) unloaded: Vec<Ref>,
    /// How many modules at the end of the list are new.
    pub(crate) loaded: usize,
}

/// What was loaded at one moment.
#[derive(Debug)]
pub(crate) struct Enumeration {
    /// Counts enumerations from their beginning.
    nth: u64,
    modules: Vec<Loaded>,
}

/// Enumerates what is loaded now. Allocates, and takes the loader's lock: so
/// the caller must not hold the registry's, which a callback of the program's
/// under the loader's lock may wait for.
pub(crate) fn enumerate(config: &Config) -> Enumeration {
    static NTH: AtomicU64 = AtomicU64::new(0);
    let nth = NTH.fetch_add(1, Ordering::AcqRel) + 1;
    let mut modules: Vec<Loaded> = Vec::new();
    TargetSharedLibrary::each(|library| {
        // What is there at the start is never unloaded.
        if let Some(found) = describe(library, config, modules.is_empty(), nth > 1) {
            modules.push(found);
        }
    });
    Enumeration { nth, modules }
}

impl Registry {
    /// Takes over an enumeration, unless one that began later is in already:
    /// that one has seen all that this one saw.
    pub(crate) fn refresh(&mut self, enumeration: Enumeration) -> Changes {
        let mut changes = Changes::default();
        if enumeration.nth <= self.enumerated {
            return changes;
        }
        self.enumerated = enumeration.nth;
        let mut seen = enumeration.modules;
        let mut old = std::mem::take(&mut self.modules);
        for found in &mut seen {
            let same = old.iter().position(|module| module.is(found));
            if let Some(at) = same {
                *found = old.swap_remove(at);
            } else {
                found.desc.load_id = self.loads;
                found.file = stamp(found);
                if let Some(kind) = KINDS.get(self.loads as usize) {
                    let code = match found.kind {
                        Kind::CSide => 0,
                        Kind::Host => 1,
                        Kind::Forwarder => 2,
                        Kind::Untouchable => 3,
                    };
                    kind.store(code, Ordering::Relaxed);
                }
                self.loads += 1;
                changes.loaded += 1;
            }
        }
        changes.unloaded = old.iter().map(|module| module.entry).collect();
        self.modules = seen;
        if changes.loaded > 0 || !old.is_empty() {
            self.publish();
        }
        changes
    }

    /// Makes a new set of what is loaded, of a new generation.
    pub(crate) fn publish(&mut self) {
        self.generation += 1;
        let descs = self.modules.iter().map(|module| module.desc.clone()).collect();
        let previous = SET.load(Ordering::Acquire);
        // SAFETY: only this function frees sets, and the registry is locked.
        let previous_set = unsafe { previous.as_ref() };
        let set = Box::into_raw(Box::new(ModuleSet::replacing(descs, self.generation, previous_set)));
        SET.store(set, Ordering::SeqCst);
        GENERATION.store(self.generation, Ordering::SeqCst);
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

    /// The module that `address` lies in.
    pub(crate) fn find(&self, address: u64) -> Option<&Loaded> {
        self.modules.iter().find(|module| (module.start..module.end).contains(&address))
    }
}

impl Loaded {
    /// Whether it is the C library.
    pub(crate) fn is_libc(&self) -> bool {
        file_name(&self.path).starts_with(b"libc.so")
    }

    fn is(&self, other: &Loaded) -> bool {
        (self.start, self.end, self.bias) == (other.start, other.end, other.bias)
            && self.path == other.path
            && self.build_id == other.build_id
    }
}

fn describe(library: &TargetSharedLibrary<'_>, config: &Config, first: bool, copy: bool) -> Option<Loaded> {
    let bias = library.virtual_memory_bias().0 as u64;
    let (mut start, mut end) = (u64::MAX, 0);
    let (mut loads, mut frames, mut dynamic_at, mut relro) = (Vec::new(), None, None, (0, 0));
    let mut code = Vec::new();
    for segment in library.segments() {
        let svma = segment.stated_virtual_memory_address().0 as u64;
        let range = svma..svma.checked_add(segment.len() as u64)?;
        match segment.name() {
            "LOAD" => {
                start = start.min(range.start);
                end = end.max(range.end);
                if segment.is_code() {
                    code.push(range.start.wrapping_add(bias)..range.end.wrapping_add(bias));
                }
                loads.push(range);
            }
            "GNU_EH_FRAME" => frames = Some(range),
            "DYNAMIC" => dynamic_at = Some(svma.wrapping_add(bias)),
            "GNU_RELRO" => relro = (range.start.wrapping_add(bias), range.end.wrapping_add(bias)),
            _ => {}
        }
    }
    let (start, end) = (start.wrapping_add(bias), end.wrapping_add(bias));
    if start >= end {
        return None;
    }
    let path = absolute(library.name().as_bytes(), first);
    let build_id = match library.id() {
        Some(SharedLibraryId::GnuBuildId(id)) => id,
        _ => Vec::new(),
    };
    // SAFETY: the module is loaded; what is kept of it is dropped with it.
    let dynamic = dynamic_at.map(|at| unsafe { Dynamic::at(at, bias) });
    let ours = (start..end).contains(&(crate::tracer::initialise as *const () as u64));
    let is_interpreter = || dynamic.is_some_and(|d| d.export(INTERPRETER).is_some());
    let kind = if ours { Kind::Untouchable } else { Kind::of(config, &path, first, is_interpreter) };
    // SAFETY: the segments are mapped for as long as the module is loaded, and
    // copied where it may go before the set that names it.
    let sections = frames.and_then(|range| unsafe { sections_of(bias, range, &loads, copy) });
    let sections = sections.unwrap_or_default();
    let desc = ModuleDesc {
        avma_start: start,
        avma_end: end,
        bias,
        eh_frame_hdr_svma: sections.eh_frame_hdr_svma,
        eh_frame_hdr: sections.eh_frame_hdr,
        eh_frame_svma: sections.eh_frame_svma,
        eh_frame: sections.eh_frame,
        hidden: ours,
        load_id: 0,
        frame_pointers: if kind == Kind::Host { FramePointers::Detect } else { FramePointers::Ignore },
    };
    Some(Loaded {
        start,
        end,
        bias,
        path,
        build_id,
        stand_ins: dynamic.map(|d| d.stand_ins()).unwrap_or_default(),
        dynamic,
        code,
        relro,
        kind,
        file: FileStamp::default(),
        entry: 0,
        hooked: false,
        desc,
    })
}

/// What will tell whether the file is still the one that was loaded, where no
/// build id does.
fn stamp(module: &Loaded) -> FileStamp {
    let path = Path::new(OsStr::from_bytes(&module.path));
    if !module.build_id.is_empty() || !path.is_absolute() {
        return FileStamp::default();
    }
    path.metadata().map_or_else(|_| FileStamp::default(), |meta| FileStamp::from(&meta))
}

/// A path that still means the same when the program has changed its directory.
fn absolute(path: &[u8], is_executable: bool) -> Vec<u8> {
    // Without /proc the executable has no name here.
    if path.is_empty() && is_executable {
        // SAFETY: asks the kernel's table for the path that was executed.
        let executed = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
        if !executed.is_null() {
            // SAFETY: a string on the initial stack, which stays.
            return absolute(unsafe { CStr::from_ptr(executed) }.to_bytes(), false);
        }
    }
    match std::env::current_dir() {
        Ok(dir) if path.contains(&b'/') && !path.starts_with(b"/") => {
            [dir.as_os_str().as_bytes(), b"/", path].concat()
        }
        _ => path.to_vec(),
    }
}

/// Before a fork: nobody else is half-way through a change.
pub(crate) fn lock_for_fork() {
    std::mem::forget(REGISTRY.lock());
}

/// After a fork, in both processes.
///
/// # Safety
/// Called where [`lock_for_fork`] was, or in the only thread of a child.
pub(crate) unsafe fn unlock_after_fork() {
    if REGISTRY.is_locked() {
        // SAFETY: the caller's promise.
        unsafe { REGISTRY.force_unlock() };
    }
}

/// In a forked child: there are no other readers.
pub(crate) fn forget_readers() {
    for line in &READERS {
        line.0.store(0, Ordering::SeqCst);
    }
}
