//! What is loaded: modules and where their unwind information is.

use crate::cfi::{self, Context, Frame};
use crate::frame_pointers::{self, FramePointers};
use crate::stepper::Stepper;
use gimli::{BaseAddresses, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, ParsedEhFrameHdr};
use std::ops::{Deref, Range};
use std::sync::Arc;

pub(crate) type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// The bytes of a section.
#[derive(Clone, Debug, Default)]
pub enum Section {
    /// Where the loader mapped them, in a module that stays for the life of the process.
    InPlace(&'static [u8]),
    /// A private copy, for a module that may be unloaded during a walk.
    Owned(Arc<[u8]>),
    /// There is no such section.
    #[default]
    Empty,
}

impl Deref for Section {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Section::InPlace(bytes) => bytes,
            Section::Owned(bytes) => bytes,
            Section::Empty => &[],
        }
    }
}

/// One loaded module, as its finder describes it. `avma` is an address in the
/// process, `svma` the same address as the file states it; `avma = svma + bias`.
#[derive(Clone, Debug, Default)]
pub struct ModuleDesc {
    /// The lowest address of the module's segments.
    pub avma_start: u64,
    /// The address just beyond the module's highest segment.
    pub avma_end: u64,
    /// What is added to a stated address.
    pub bias: u64,
    /// The stated address of `.eh_frame_hdr`.
    pub eh_frame_hdr_svma: u64,
    /// The bytes of `.eh_frame_hdr`; empty where the module has no unwind information.
    pub eh_frame_hdr: Section,
    /// The stated address of `.eh_frame`.
    pub eh_frame_svma: u64,
    /// The bytes of `.eh_frame`.
    pub eh_frame: Section,
    /// The tracer's own module: its frames are walked but not reported.
    pub hidden: bool,
    /// A number that no other load of any module has, so that a module which
    /// was unloaded and another at the same address are told apart.
    pub load_id: u64,
    /// Whether the module's code keeps frame pointers.
    pub frame_pointers: FramePointers,
}

/// An instruction that was moved, or code that stands at another's place: where
/// a signal interrupts it, the stack is as at that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Where it was.
    pub from: u64,
    /// Where it is.
    pub to: u64,
    /// How many bytes it has there.
    pub bytes: u64,
}

/// A module of a [`ModuleSet`].
#[derive(Debug)]
pub struct Module {
    pub(crate) desc: ModuleDesc,
    /// The first generation that has this load; rules learned since then hold.
    pub(crate) since: u64,
}

impl Module {
    /// The description that the module was made from.
    pub fn desc(&self) -> &ModuleDesc {
        &self.desc
    }

    pub(crate) fn bases(&self) -> BaseAddresses {
        bases(&self.desc)
    }

    pub(crate) fn eh_frame(&self) -> EhFrame<Bytes<'_>> {
        eh_frame(&self.desc)
    }

    /// The parsed `.eh_frame_hdr`; `None` where there is none or it is damaged.
    pub(crate) fn eh_frame_hdr(&self) -> Option<ParsedEhFrameHdr<Bytes<'_>>> {
        if self.desc.eh_frame_hdr.is_empty() || self.desc.eh_frame.is_empty() {
            return None;
        }
        EhFrameHdr::new(&self.desc.eh_frame_hdr, LittleEndian).parse(&self.bases(), 8).ok()
    }
}

pub(crate) fn bases(desc: &ModuleDesc) -> BaseAddresses {
    BaseAddresses::default().set_eh_frame_hdr(desc.eh_frame_hdr_svma).set_eh_frame(desc.eh_frame_svma)
}

pub(crate) fn eh_frame(desc: &ModuleDesc) -> EhFrame<Bytes<'_>> {
    let mut section = EhFrame::new(&desc.eh_frame, LittleEndian);
    section.set_address_size(8);
    section
}

/// An immutable set of modules, shared by all threads. Building it allocates;
/// using it doesn't.
#[derive(Debug)]
pub struct ModuleSet {
    /// Sorted by `avma_start`.
    modules: Vec<Module>,
    hidden: Vec<(u64, u64)>,
    /// Sorted; see [`ModuleSet::with_moved`].
    moved: Vec<Moved>,
    generation: u64,
    pub(crate) stepper: Stepper,
}

impl ModuleSet {
    /// A set of what is loaded. `generation` is greater than that of every set
    /// before it in this process.
    pub fn new(modules: Vec<ModuleDesc>, generation: u64) -> Self {
        Self::replacing(modules, generation, None)
    }

    /// The same, where `previous` was there before: rules that threads learned
    /// for modules that are still there (the same `load_id`) stay.
    pub fn replacing(mut modules: Vec<ModuleDesc>, generation: u64, previous: Option<&ModuleSet>) -> Self {
        modules.retain(|m| m.avma_start < m.avma_end);
        modules.sort_by_key(|m| m.avma_start);
        for desc in &mut modules {
            if !is_searchable(desc) {
                desc.eh_frame_hdr = Section::Empty;
            }
        }
        let stepper = Stepper::new(&modules);
        let hidden = modules.iter().filter(|m| m.hidden).map(|m| (m.avma_start, m.avma_end)).collect();
        let modules = modules
            .into_iter()
            .map(|desc| {
                let old =
                    previous.and_then(|p| p.find(desc.avma_start)).filter(|old| same_load(&old.desc, &desc));
                Module { since: old.map_or(generation, |old| old.since), desc }
            })
            .collect();
        ModuleSet { modules, hidden, moved: Vec::new(), generation, stepper }
    }

    /// With instructions that were moved out of their modules.
    pub fn with_moved(mut self, mut moved: Vec<Moved>) -> Self {
        moved.sort_unstable_by_key(|moved| moved.to);
        self.moved = moved;
        self
    }

    /// Where the instruction at `ip` was before it was moved: its frame is what
    /// is described there. Else `ip`.
    pub(crate) fn origin(&self, ip: u64) -> u64 {
        let after = self.moved.partition_point(|moved| moved.to <= ip);
        let moved = after.checked_sub(1).and_then(|n| self.moved.get(n));
        moved.filter(|moved| ip - moved.to < moved.bytes).map_or(ip, |moved| moved.from)
    }

    /// The number given when the set was made.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The modules, by address.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module that has `avma` in its range.
    #[inline]
    pub fn find(&self, avma: u64) -> Option<&Module> {
        let after = self.modules.partition_point(|m| m.desc.avma_start <= avma);
        let module = self.modules.get(after.checked_sub(1)?)?;
        (avma < module.desc.avma_end).then_some(module)
    }

    /// Whether the function around `avma` is known to keep frame pointers, so
    /// that a capture under `Policy::Auto` that starts there may follow them.
    /// Allocates; for tools, not for the hot path.
    pub fn keeps_frame_pointers(&self, avma: u64) -> bool {
        self.find(avma).is_some_and(|module| {
            module.desc.frame_pointers != FramePointers::Ignore
                && frame_pointers::keeps(&mut Box::new(Context::new()), module, avma)
        })
    }

    /// Where the code of the function around `avma` is, as its call frame
    /// information says.
    pub fn extent(&self, avma: u64) -> Option<Range<u64>> {
        cfi::extent(self.find(avma)?, avma)
    }

    /// Where the frame of the function around `avma` ends while it is there.
    /// Allocates.
    pub fn frame(&self, avma: u64) -> Option<Frame> {
        cfi::find(&mut Box::new(Context::new()), self.find(avma)?, avma).ok()?.frame()
    }

    /// Whether a frame at `avma` is the tracer's own.
    #[inline(always)]
    pub(crate) fn is_hidden(&self, avma: u64) -> bool {
        self.hidden.iter().any(|&(lo, hi)| avma >= lo && avma < hi)
    }
}

/// Whether the header is that of the section, and has a table of a size that it
/// has room for: gimli's arithmetic trusts both.
fn is_searchable(desc: &ModuleDesc) -> bool {
    let bases = bases(desc);
    let Ok(hdr) = EhFrameHdr::new(&desc.eh_frame_hdr, LittleEndian).parse(&bases, 8) else {
        return false;
    };
    if hdr.eh_frame_ptr().direct() != Ok(desc.eh_frame_svma) {
        return false;
    }
    // The smallest row has two pointers of two bytes.
    hdr.table().is_some_and(|t| t.iter(&bases).size_hint().0 <= desc.eh_frame_hdr.len() / 4)
}

fn same_load(old: &ModuleDesc, new: &ModuleDesc) -> bool {
    old.load_id == new.load_id
        && old.avma_start == new.avma_start
        && old.avma_end == new.avma_end
        && old.bias == new.bias
        && old.eh_frame_hdr_svma == new.eh_frame_hdr_svma
        && old.eh_frame_svma == new.eh_frame_svma
}
