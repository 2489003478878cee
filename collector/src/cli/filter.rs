//! Which events are shown.

use std::collections::HashSet;

use traceshim_ring::glob;

use super::args::{FilterArgs, Time};
use crate::model::{Body, Cursor, Event, Kind, Process};
use crate::resolve::Stack;
use crate::show::names::{Names, base_name};
use crate::show::stacks::{StackKey, StackMap};

/// A filter for a given set of processes.
pub(crate) struct Filter {
    kinds: u32,
    from_ns: u64,
    to_ns: u64,
    /// By process and place of the thread. Empty: all.
    threads: Vec<Vec<bool>>,
    function: Vec<String>,
    exclude: Vec<String>,
    module: Vec<String>,
    /// Entries (process, thread, time) of callbacks that took long enough.
    long: Option<HashSet<(u32, u32, u64)>>,
    min_duration_ns: u64,
    stacks: StackMap<bool>,
    /// Nothing to look at beyond the kind and the time.
    simple: bool,
}

/// When the first of `processes` began: what times are counted from.
pub(crate) fn start_ns(processes: &[Process]) -> u64 {
    processes.iter().map(|process| process.info.start_mono_ns).min().unwrap_or(0)
}

impl Filter {
    /// What `args` mean for `processes`.
    pub(crate) fn new(args: &FilterArgs, processes: &[Process]) -> Filter {
        let start_ns = start_ns(processes);
        let (mut from_ns, mut to_ns) = (0, u64::MAX);
        for time in &args.time {
            if let &Time::Range { from_ns: from, to_ns: to } = time {
                from_ns = start_ns.saturating_add(from);
                to_ns = start_ns.saturating_add(to);
            }
        }
        let kinds = match args.kind.as_slice() {
            [] => u32::MAX,
            kinds => kinds.iter().fold(0, |mask, &kind| mask | bit(kind)),
        };
        let mut threads = Vec::new();
        if !args.thread.is_empty() || !args.origin.is_empty() {
            threads = processes.iter().map(|process| select_threads(args, process)).collect();
        }
        let long = args.min_duration.map(|min_ns| long_callbacks(processes, min_ns));
        let simple = threads.is_empty()
            && long.is_none()
            && args.function.is_empty()
            && args.exclude.is_empty()
            && args.module.is_empty();
        Filter {
            kinds,
            from_ns,
            to_ns,
            threads,
            function: args.function.clone(),
            exclude: args.exclude.clone(),
            module: args.module.clone(),
            long,
            min_duration_ns: args.min_duration.unwrap_or(0),
            stacks: StackMap::default(),
            simple,
        }
    }

    /// Whether `event` of `process`, is shown. `number`: the process's
    /// place among those that the filter was made for.
    #[inline]
    pub(crate) fn passes(
        &mut self,
        names: &mut Names<'_>,
        number: u32,
        process: &Process,
        event: &Event,
    ) -> bool {
        self.kinds & bit(event.body.kind()) != 0
            && (self.from_ns..=self.to_ns).contains(&event.ts_ns)
            && (self.simple || self.passes_rest(names, number, process, event))
    }

    fn passes_rest(&mut self, names: &mut Names<'_>, number: u32, process: &Process, event: &Event) -> bool {
        if let Some(threads) = self.threads.get(number as usize)
            && threads.get(event.thread as usize) != Some(&true)
        {
            return false;
        }
        let long_enough = match (&event.body, &self.long) {
            (Body::CallbackEnter { .. }, Some(long)) => long.contains(&(number, event.thread, event.ts_ns)),
            (Body::CallbackExit { duration_ns, .. }, Some(_)) => {
                duration_ns.is_some_and(|duration_ns| duration_ns >= self.min_duration_ns)
            }
            _ => true,
        };
        if !long_enough {
            return false;
        }
        if self.function.is_empty() && self.exclude.is_empty() && self.module.is_empty() {
            return true;
        }
        self.passes_names(names, process, event)
    }

    fn passes_names(&mut self, names: &mut Names<'_>, process: &Process, event: &Event) -> bool {
        let (Body::CallbackEnter { hook, .. } | Body::CallbackExit { hook, .. }) = event.body else {
            let Some(stack) = event.body.stack() else {
                return self.function.is_empty() && self.module.is_empty();
            };
            let key = StackKey::new(process, stack, event.ticks);
            if let Some(&passes) = self.stacks.get(&key) {
                return passes;
            }
            let stack = names.resolver.stack(process, stack, event.ticks);
            let passes = self.stack_passes(process, &stack, true);
            self.stacks.insert(key, passes);
            return passes;
        };
        let name = names.hook(process, hook).unwrap_or_default();
        let by_name = (self.function.is_empty() || any(&self.function, &name)) && !any(&self.exclude, &name);
        if !by_name || self.module.is_empty() {
            return by_name;
        }
        // An exit has no stack; it goes with its entry, whose module is the host.
        match event.body.stack() {
            None => true,
            Some(stack) => {
                let stack = names.resolver.stack(process, stack, event.ticks);
                self.stack_passes(process, &stack, false)
            }
        }
    }

    fn stack_passes(&self, process: &Process, stack: &Stack, by_function: bool) -> bool {
        let functions = |globs: &[String]| {
            let matches = |f: &crate::resolve::Frame| {
                f.site.function.as_ref().is_some_and(|name| any(globs, name.as_bytes()))
            };
            stack.frames.iter().any(matches)
        };
        let modules = |globs: &[String]| {
            let module = |f: &crate::resolve::Frame| process.tables.modules().get(f.module? as usize);
            stack.frames.iter().filter_map(module).any(|m| any(globs, base_name(&m.path)))
        };
        let function = !by_function
            || (self.function.is_empty() || functions(&self.function)) && !functions(&self.exclude);
        function && (self.module.is_empty() || modules(&self.module))
    }
}

fn bit(kind: Kind) -> u32 {
    1 << kind as u32
}

fn any(globs: &[String], name: &[u8]) -> bool {
    globs.iter().any(|pattern| glob::matches(pattern.as_bytes(), name))
}

fn select_threads(args: &FilterArgs, process: &Process) -> Vec<bool> {
    let selected = |thread: &crate::model::Thread| {
        let name = process.string(thread.name).unwrap_or_default();
        let by_thread = args.thread.is_empty()
            || args.thread.iter().any(|wanted| *wanted == thread.tid.to_string())
            || any(&args.thread, &name);
        let by_origin = args.origin.is_empty() || args.origin.iter().any(|o| o == thread.origin.name());
        by_thread && by_origin
    };
    process.threads.iter().map(selected).collect()
}

/// An entry says nothing of how long the callback will take; so all exits are
/// looked at beforehand, and the entries that belong to long ones remembered.
fn long_callbacks(processes: &[Process], min_ns: u64) -> HashSet<(u32, u32, u64)> {
    let mut long = HashSet::new();
    for (number, process) in (0..).zip(processes) {
        for thread in 0..process.threads.len() as u32 {
            for event in Cursor::new(process, thread) {
                if let Body::CallbackExit { duration_ns: Some(ns), .. } = event.body
                    && ns >= min_ns
                {
                    long.insert((number, thread, event.ts_ns.saturating_sub(ns)));
                }
            }
        }
    }
    long
}
