//! One module: what the loader's list says of it.
#![allow(unsafe_code)]

use crate::elf::Dynamic;
use findshlibs::{Segment as _, SharedLibrary as _, SharedLibraryId, TargetSharedLibrary};
use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
pub(crate) use traceshim_ring::choice::Side as Kind;
use traceshim_ring::choice::{INTERPRETER, file_name};
use traceshim_ring::env::Config;
use traceshim_ring::layout::Ref;
use traceshim_ring::stamp::FileStamp;
use traceshim_unwind::{FramePointers, ModuleDesc, Moved, sections_of};

const PAGE: u64 = 4096;

/// A module, as long as it is loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) identity: Identity,
    pub(crate) path: Vec<u8>,
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
    /// Whether the program began with it: then it stays, and it is in the scope
    /// that everybody searches first.
    pub(crate) from_start: bool,
    /// Where the ring has it.
    pub(crate) entry: Ref,
    /// Whether its slots have been looked through.
    pub(crate) hooked: bool,
    /// Whether a host came afterwards, whose functions they may hold.
    pub(crate) outdated: bool,
    /// The first instructions of its functions whose entries are patched.
    pub(crate) moved: Vec<Moved>,
    pub(super) desc: ModuleDesc,
}

/// What tells one module from another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) bias: u64,
    pub(crate) build_id: Vec<u8>,
    /// The loader's name for it.
    name: Vec<u8>,
}

impl Identity {
    /// `None` for what takes no room.
    pub(super) fn of(library: &TargetSharedLibrary<'_>) -> Option<Identity> {
        let bias = library.virtual_memory_bias().0 as u64;
        let (mut start, mut end) = (u64::MAX, 0);
        for segment in library.segments().filter(|segment| segment.is_load()) {
            let svma = segment.stated_virtual_memory_address().0 as u64;
            start = start.min(svma);
            end = end.max(svma.checked_add(segment.len() as u64)?);
        }
        let build_id = match library.id() {
            Some(SharedLibraryId::GnuBuildId(id)) => id,
            _ => Vec::new(),
        };
        (start < end).then(|| Identity {
            start: start.wrapping_add(bias),
            end: end.wrapping_add(bias),
            bias,
            build_id,
            name: library.name().as_bytes().to_vec(),
        })
    }
}

impl Loaded {
    /// `first`: it is the executable.
    pub(super) fn describe(
        library: &TargetSharedLibrary<'_>,
        identity: Identity,
        config: &Config,
        first: bool,
        from_start: bool,
    ) -> Loaded {
        let Identity { start, end, bias, .. } = identity;
        let (mut loads, mut frames, mut dynamic_at, mut relro) = (Vec::new(), None, None, (0, 0));
        let mut code = Vec::new();
        for segment in library.segments() {
            let svma = segment.stated_virtual_memory_address().0 as u64;
            let range = svma..svma.saturating_add(segment.len() as u64);
            let moved = range.start.wrapping_add(bias)..range.end.wrapping_add(bias);
            match segment.name() {
                "LOAD" => {
                    if segment.is_code() {
                        code.push(moved);
                    }
                    loads.push(range);
                }
                "GNU_EH_FRAME" => frames = Some(range),
                "DYNAMIC" => dynamic_at = Some(moved.start),
                // Whole pages only: what else is in the last one stays writable.
                "GNU_RELRO" => relro = (moved.start & !(PAGE - 1), moved.end & !(PAGE - 1)),
                _ => {}
            }
        }
        let path = absolute(&identity.name, first);
        // SAFETY: the module is loaded; what is kept of it is dropped with it.
        let dynamic = dynamic_at.map(|at| unsafe { Dynamic::at(at, bias) });
        let ours = (start..end).contains(&(crate::tracer::initialise as *const () as u64));
        let is_interpreter = || dynamic.is_some_and(|dynamic| dynamic.exports(INTERPRETER));
        let kind = if ours { Kind::Untouchable } else { Kind::of(config, &path, first, is_interpreter) };
        // SAFETY: the segments are mapped for as long as the module is loaded, and
        // copied where it may go before the set that names it.
        let sections = frames.and_then(|range| unsafe { sections_of(bias, range, &loads, !from_start) });
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
        Loaded {
            file: stamp(&identity, &path),
            stand_ins: dynamic.map(|dynamic| dynamic.stand_ins()).unwrap_or_default(),
            identity,
            path,
            dynamic,
            code,
            relro,
            kind,
            from_start,
            entry: 0,
            hooked: false,
            outdated: false,
            moved: Vec::new(),
            desc,
        }
    }

    /// Whether `address` lies in it.
    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.identity.start..self.identity.end).contains(&address)
    }

    /// Whether the loader looks for names in it: everywhere but in the kernel's.
    pub(crate) fn is_searched(&self) -> bool {
        let name = file_name(&self.path);
        !name.is_empty() && !name.starts_with(b"linux-vdso")
    }

    /// Whether it is libc.
    pub(crate) fn is_libc(&self) -> bool {
        file_name(&self.path).starts_with(b"libc.so")
    }
}

/// What will tell whether the file is still the one that was loaded, where no
/// build id does.
fn stamp(identity: &Identity, path: &[u8]) -> FileStamp {
    let path = Path::new(OsStr::from_bytes(path));
    if !identity.build_id.is_empty() || !path.is_absolute() {
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
