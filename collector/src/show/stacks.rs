//! Stacks as they are printed, rendered once for each that differs.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use traceshim_ring::record::StackRef;

use crate::model::Process;
use crate::resolve::{Resolver, Stack};

/// A stack in an output's form.
pub(crate) struct Rendered {
    /// What is copied into the output.
    pub(crate) bytes: Vec<u8>,
    frames: usize,
    unnamed: usize,
    complete: bool,
    events: u64,
}

/// Which stack of which process, and which modules were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StackKey {
    process: u32,
    node: u32,
    epoch: u32,
}

impl StackKey {
    /// The key of a stack seen at `ticks`.
    #[inline]
    pub(crate) fn new(process: &Process, stack: StackRef, ticks: u64) -> StackKey {
        StackKey { process: process.id, node: stack.node(), epoch: process.module_epoch(ticks) }
    }
}

/// A map by stack, with a hash that costs a few instructions. The keys come
/// from a ring; whoever forges them makes their own dump slow.
pub(crate) type StackMap<V> = HashMap<StackKey, V, BuildHasherDefault<KeyHasher>>;

/// Multiplies and folds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }
    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0.rotate_left(23) ^ u64::from(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// How much is kept. No honest trace has so many stacks; a forged ring can have
/// a million of them, each a thousand frames long.
const CACHE_CAP_BYTES: usize = 256 << 20;

/// Stacks in an output's form.
#[derive(Default)]
pub(crate) struct StackCache {
    rendered: StackMap<Rendered>,
    bytes: usize,
    /// Of those that aren't kept any more.
    dropped: StackSummary,
}

impl StackCache {
    /// The stack's form, made by `render` when it is new.
    #[inline]
    pub(crate) fn get(
        &mut self,
        resolver: &mut Resolver,
        process: &Process,
        stack: StackRef,
        ticks: u64,
        render: impl FnOnce(&Stack) -> Vec<u8>,
    ) -> &Rendered {
        if self.bytes > CACHE_CAP_BYTES {
            self.dropped = self.summary();
            self.rendered.clear();
            self.bytes = 0;
        }
        let key = StackKey::new(process, stack, ticks);
        let rendered = self.rendered.entry(key).or_insert_with(|| {
            let stack = resolver.stack(process, stack, ticks);
            let bytes = render(&stack);
            self.bytes += bytes.len();
            Rendered {
                bytes,
                frames: stack.frames.len(),
                unnamed: stack.unnamed(),
                complete: stack.is_complete(),
                events: 0,
            }
        });
        rendered.events += 1;
        rendered
    }

    /// What every summary tells of stacks.
    pub(crate) fn summary(&self) -> StackSummary {
        let mut summary = self.dropped;
        for rendered in self.rendered.values() {
            summary.add(rendered.events, rendered.frames, rendered.unnamed, rendered.complete);
        }
        summary
    }
}

/// How good the stacks were, weighted by events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StackSummary {
    /// Events with a stack.
    pub(crate) stacks: u64,
    /// Those whose stack isn't complete.
    pub(crate) truncated: u64,
    /// Frames of all of them.
    pub(crate) frames: u64,
    /// Those without a function's name.
    pub(crate) unnamed: u64,
}

impl StackSummary {
    /// Adds another process's.
    pub(crate) fn merge(&mut self, other: &StackSummary) {
        self.stacks += other.stacks;
        self.truncated += other.truncated;
        self.frames += other.frames;
        self.unnamed += other.unnamed;
    }

    /// Counts a stack that `events` events had.
    pub(crate) fn add(&mut self, events: u64, frames: usize, unnamed: usize, complete: bool) {
        self.stacks += events;
        self.truncated += if complete { 0 } else { events };
        self.frames += events * frames as u64;
        self.unnamed += events * unnamed as u64;
    }
}

impl std::fmt::Display for StackSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} stacks, {} truncated ({}); {} frames, {} without a name ({})",
            self.stacks,
            self.truncated,
            percent(self.truncated, self.stacks),
            self.frames,
            self.unnamed,
            percent(self.unnamed, self.frames),
        )
    }
}

/// A share, to a tenth of a percent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    format!("{:.1}%", part as f64 * 100.0 / whole.max(1) as f64)
}
