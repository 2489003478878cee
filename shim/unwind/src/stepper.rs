//! framehop, which takes the first step from each new address.
//!
//! It isn't believed by itself: it answers every failure with a guess along the
//! frame pointer and calls a null return address the end. So it is asked only
//! where the call frame information is of the kind that it follows faithfully,
//! and its answer has to be the one that this crate finds. (The idea of the
//! guard, and the cases where framehop is wrong, are in `docs/pitfalls.md`.)

use crate::machine::{BP, Machine};
use crate::memory::StackMemory;
use crate::module::{ModuleDesc, Section};
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, MustNotAllocateDuringUnwind, Unwinder};
use parking_lot::Mutex;

type Cache = CacheX86_64<MustNotAllocateDuringUnwind>;

/// How many threads may take a first step at once.
const CACHES: usize = 2;

/// framehop over a set of modules, with caches that are shared by trying: they
/// are 33 KB each, and rules of our own make a second visit rare, so a thread
/// needs none for itself. They belong to one set of modules, whose 16-bit
/// generation in framehop therefore can't wrap around.
pub(crate) struct Stepper {
    unwinder: UnwinderX86_64<Section, MustNotAllocateDuringUnwind>,
    caches: Box<[Mutex<Cache>]>,
}

/// What framehop says about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same caller.
    Agrees,
    /// Another caller, or none.
    Differs,
    /// Every cache is in use by another thread (or by a signal handler's victim).
    Busy,
}

impl Stepper {
    pub(crate) fn new(modules: &[ModuleDesc]) -> Self {
        let mut unwinder = UnwinderX86_64::new();
        for m in modules {
            if m.eh_frame_hdr.is_empty() || m.eh_frame.is_empty() {
                continue;
            }
            let range = |svma: u64, bytes: &Section| Some(svma..svma.wrapping_add(bytes.len() as u64));
            let sections = ExplicitModuleSectionInfo {
                base_svma: m.avma_start.wrapping_sub(m.bias),
                eh_frame_hdr_svma: range(m.eh_frame_hdr_svma, &m.eh_frame_hdr),
                eh_frame_hdr: Some(m.eh_frame_hdr.clone()),
                eh_frame_svma: range(m.eh_frame_svma, &m.eh_frame),
                eh_frame: Some(m.eh_frame.clone()),
                ..Default::default()
            };
            let range = m.avma_start..m.avma_end;
            unwinder.add_module(Module::new(String::new(), range, m.avma_start, sections));
        }
        let caches = (0..CACHES).map(|_| Mutex::new(Cache::new_in())).collect();
        Stepper { unwinder, caches }
    }

    /// Takes the step from `before` and compares it with `after`.
    #[inline(never)]
    pub(crate) fn check(&self, mem: &dyn StackMemory, before: &Machine, after: &Machine) -> Verdict {
        let Some(mut cache) = self.caches.iter().find_map(|c| c.try_lock()) else {
            return Verdict::Busy;
        };
        let address = if before.exact {
            FrameAddress::from_instruction_pointer(before.ip)
        } else {
            match FrameAddress::from_return_address(before.ip) {
                Some(address) => address,
                None => return Verdict::Differs,
            }
        };
        let bp = before.saved(BP).unwrap_or(0);
        let mut regs = UnwindRegsX86_64::new(before.ip, before.sp, bp);
        let mut read = |addr| mem.read(addr).ok_or(());
        let caller = self.unwinder.unwind_frame(address, &mut regs, &mut cache, &mut read);
        let same_bp = after.saved(BP).is_none_or(|bp| bp == regs.bp());
        if caller == Ok(Some(after.ip)) && regs.sp() == after.sp && same_bp {
            Verdict::Agrees
        } else {
            Verdict::Differs
        }
    }
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepper").field("caches", &self.caches.len()).finish_non_exhaustive()
    }
}
