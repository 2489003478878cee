//! From a stack reference to named frames.

use std::collections::HashMap;
use std::rc::Rc;

use traceshim_ring::record::StackRef;
use traceshim_ring::stack::{FRAME_ADDRESS, FRAME_EXACT, StackStatus};

use crate::model::Process;
use crate::show::say;
use crate::symbols::{Identity, PerfMap, Site, SymbolOptions, Symbolizer};

/// A frame; one address has several where functions were inlined.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The address as it was captured: a return address, but for a callback's
    /// entry and for what a signal interrupted.
    pub(crate) address: u64,
    /// The place of its module in the process's tables.
    pub(crate) module: Option<u32>,
    /// The address as the module's file numbers it.
    pub(crate) offset: u64,
    /// The function, file and line, as far as they are known.
    pub(crate) site: Site,
}

/// A stack with names.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    /// Innermost first.
    pub(crate) frames: Vec<Frame>,
    /// `complete`, or `truncated: <why>`.
    pub(crate) status: &'static str,
}

impl Stack {
    /// Whether all of the stack is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.status == StackStatus::Complete.text()
    }

    /// How many frames have no function's name.
    pub(crate) fn unnamed(&self) -> usize {
        self.frames.iter().filter(|frame| frame.site.function.is_none()).count()
    }
}

/// Names frames, each distinct address once.
pub(crate) struct Resolver {
    symbolizer: Symbolizer,
    sites: HashMap<(u32, u64, Option<u32>), Rc<[Site]>>,
    perf_maps: HashMap<u32, PerfMap>,
}

impl Resolver {
    /// One that knows nothing yet.
    pub(crate) fn new(options: SymbolOptions) -> Resolver {
        Resolver { symbolizer: Symbolizer::new(options), sites: HashMap::new(), perf_maps: HashMap::new() }
    }

    /// Whether names are demangled.
    pub(crate) fn demangles(&self) -> bool {
        self.symbolizer.options().demangle
    }

    /// The stack of an event of `process` at
    /// the time `ticks`.
    pub(crate) fn stack(&mut self, process: &Process, stack: StackRef, ticks: u64) -> Stack {
        let Some((words, status)) = process.tables.stack(stack) else {
            return Stack { frames: Vec::new(), status: "truncated: the ring's stack table is damaged" };
        };
        let mut frames = Vec::with_capacity(words.len());
        for word in words {
            self.push_frames(process, word, ticks, &mut frames);
        }
        Stack { frames, status: status.text() }
    }

    /// The function at exactly this address.
    pub(crate) fn function(&mut self, process: &Process, address: u64, ticks: u64) -> Option<Frame> {
        let mut frames = Vec::new();
        self.push_frames(process, address & FRAME_ADDRESS | FRAME_EXACT, ticks, &mut frames);
        frames.pop()
    }

    fn push_frames(&mut self, process: &Process, word: u64, ticks: u64, to: &mut Vec<Frame>) {
        let address = word & FRAME_ADDRESS;
        // A return address may be the first byte behind its function, or even
        // behind its module: what is looked up is inside the call.
        let probe = if word & FRAME_EXACT != 0 { address } else { address.saturating_sub(1) };
        let module = process.module_at(probe, ticks);
        let number_of_module = module.map(|(number, _)| number);
        let bias = module.map_or(0, |(_, module)| module.bias);
        let sites = match self.sites.get(&(process.id, word, number_of_module)) {
            Some(sites) => Rc::clone(sites),
            None => {
                let mut sites = self.look_up(process, number_of_module, probe);
                // A callback has just been called: it isn't in what its first
                // instruction was inlined from.
                if word & FRAME_EXACT != 0 && process.tables.is_hooked(address) {
                    sites.drain(..sites.len().saturating_sub(1));
                }
                let sites: Rc<[Site]> = sites.into();
                self.sites.insert((process.id, word, number_of_module), Rc::clone(&sites));
                sites
            }
        };
        let frame = |site: &Site| Frame {
            address,
            module: number_of_module,
            offset: address.wrapping_sub(bias),
            site: site.clone(),
        };
        to.extend(sites.iter().map(frame));
    }

    /// At least one site, which may be empty.
    fn look_up(&mut self, process: &Process, module: Option<u32>, probe: u64) -> Vec<Site> {
        let module = module.and_then(|m| process.tables.modules().get(m as usize));
        let mut sites = match module {
            Some(m) => {
                let traced = Identity { build_id: &m.build_id, file: m.file };
                self.symbolizer.find(&m.path, traced, probe.wrapping_sub(m.bias))
            }
            None if self.symbolizer.options().enabled => {
                let (pid, uid, start_ns) = (process.info.pid, process.owner_uid, process.info.start_real_ns);
                let map = || PerfMap::of_process(pid, uid, start_ns);
                let map = self.perf_maps.entry(process.id).or_insert_with(map);
                let function = map.find(probe).map(str::to_owned);
                vec![Site { function, ..Site::default() }]
            }
            None => Vec::new(),
        };
        if sites.is_empty() {
            sites.push(Site::default());
        }
        for warning in self.symbolizer.take_warnings() {
            say(format_args!("{warning}"));
        }
        sites
    }
}
