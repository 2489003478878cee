//! What a trace adds up to.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use traceshim_ring::record::{Origin, StackRef};

use crate::histogram::Histogram;
use crate::model::{Body, Cursor, Event, Kind, Process};
use crate::show::names::Names;
use crate::show::stacks::{KeyHasher, StackSummary};

/// Threads of one origin.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Threads {
    /// How many there were.
    pub(crate) count: u64,
    /// Those that weren't seen to end.
    pub(crate) alive_at_end: u64,
}

/// Births that have creator and start routine in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Birth {
    /// The creator's place in the process's threads.
    pub(crate) creator: u32,
    /// Who made them, by code.
    pub(crate) origin: &'static str,
    /// The address of what they run.
    pub(crate) start_routine: u64,
}

/// One process's figures.
#[derive(Debug, Default)]
pub(crate) struct ProcessStats {
    /// Events by kind.
    pub(crate) kinds: [u64; Kind::ALL.len()],
    /// By the origin's name.
    pub(crate) threads: BTreeMap<&'static str, Threads>,
    /// By hook: those that were left, with their durations.
    pub(crate) callbacks: Vec<Option<CallbackStats>>,
    /// How often, and when last.
    pub(crate) births: BTreeMap<Birth, (u64, u64)>,
    /// How good the stacks are.
    pub(crate) stacks: StackSummary,
    /// Truncated stacks by reason.
    pub(crate) truncated: BTreeMap<&'static str, u64>,
    /// First and last event.
    pub(crate) span_ns: Option<(u64, u64)>,
    /// Whether the last event was that the process executes another program.
    pub(crate) last_was_exec: bool,
}

/// One function's figures.
#[derive(Debug, Default)]
pub(crate) struct CallbackStats {
    /// How often it was entered.
    pub(crate) entered: u64,
    /// How often it was left otherwise than by return.
    pub(crate) unwound: u64,
    /// How long it took, where entry and exit are known.
    pub(crate) durations: Histogram,
}

type StackCounts = HashMap<StackRef, (u64, u64), BuildHasherDefault<KeyHasher>>;

impl ProcessStats {
    /// Events of all kinds.
    pub(crate) fn events(&self) -> u64 {
        self.kinds.iter().sum::<u64>() - self.kind(Kind::Lost)
    }

    /// Events of one kind.
    pub(crate) fn kind(&self, kind: Kind) -> u64 {
        self.kinds.get(kind as usize).copied().unwrap_or(0)
    }

    /// Whether there is more than a main thread and the modules that any
    /// program loads.
    pub(crate) fn is_remarkable(&self) -> bool {
        let boring = [
            Kind::ThreadStart,
            Kind::ThreadExit,
            Kind::ThreadName,
            Kind::ModuleLoad,
            Kind::ModuleUnload,
            Kind::Fork,
            Kind::Exec,
        ];
        let threads: u64 = self.threads.values().map(|threads| threads.count).sum();
        threads > 1 || boring.iter().map(|&kind| self.kind(kind)).sum::<u64>() < self.events()
    }

    /// Adds up the events for which `passes` holds. Stacks are named only once
    /// all are counted, each for its last event.
    pub(crate) fn collect(
        process: &Process,
        names: &mut Names<'_>,
        mut passes: impl FnMut(&mut Names<'_>, &Event) -> bool,
    ) -> ProcessStats {
        let mut stats = ProcessStats::default();
        let mut stacks = StackCounts::default();
        for (number, thread) in (0..).zip(&process.threads) {
            let mut any = false;
            for event in Cursor::new(process, number) {
                if passes(names, &event) {
                    stats.add(&event, &mut stacks);
                    any = true;
                }
            }
            if any {
                let threads = stats.threads.entry(thread.origin.name()).or_default();
                threads.count += 1;
                threads.alive_at_end += u64::from(!thread.exited);
            }
        }
        for (stack, (count, ticks)) in stacks {
            let stack = names.resolver.stack(process, stack, ticks);
            stats.stacks.add(count, stack.frames.len(), stack.unnamed(), stack.is_complete());
            if !stack.is_complete() {
                *stats.truncated.entry(stack.status).or_default() += count;
            }
        }
        stats
    }

    #[inline]
    fn add(&mut self, event: &Event, stacks: &mut StackCounts) {
        self.kinds[event.body.kind() as usize] += 1;
        let (first, last) = self.span_ns.get_or_insert((event.ts_ns, event.ts_ns));
        *first = (*first).min(event.ts_ns);
        if event.ts_ns >= *last {
            *last = event.ts_ns;
            self.last_was_exec = matches!(event.body, Body::Exec { .. });
        }
        if let Some(stack) = event.body.stack() {
            let count = stacks.entry(stack).or_default();
            *count = (count.0 + 1, count.1.max(event.ticks));
        }
        match event.body {
            Body::CallbackEnter { hook, .. } => self.callback(hook).entered += 1,
            Body::CallbackExit { hook, duration_ns, unwound } => {
                let callback = self.callback(hook);
                callback.unwound += u64::from(unwound);
                if let Some(ns) = duration_ns {
                    callback.durations.add(ns);
                }
            }
            Body::ThreadBirth { origin, start_routine, .. } => {
                let birth = Birth { creator: event.thread, origin: Origin::name(origin), start_routine };
                let seen = self.births.entry(birth).or_default();
                *seen = (seen.0 + 1, event.ticks);
            }
            _ => {}
        }
    }

    #[inline]
    fn callback(&mut self, hook: u16) -> &mut CallbackStats {
        let hook = usize::from(hook);
        if self.callbacks.len() <= hook {
            self.callbacks.resize_with(hook + 1, || None);
        }
        self.callbacks[hook].get_or_insert_with(CallbackStats::default)
    }
}
