//! The table of hooked functions. A static pool of stubs is theirs: the nth
//! function's is the nth one.
#![allow(unsafe_code)]

use crate::arch;
use crate::arguments::{self, Reach};
use crate::lock::{self, Lock};
use crate::modules::{self, Registry};
use crate::tracer::Tracer;
use crate::{registration, say};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use traceshim_ring::layout::Ref;

/// A hooked function.
#[derive(Clone, Debug)]
struct Hook {
    address: u64,
    name: Vec<u8>,
    /// Where its entry leads to the trampoline, so that nothing else needs to:
    /// the module that it is in, as the ring has it.
    patched: Option<Ref>,
    /// Where its trampoline passes on to: its address, or its moved beginning.
    target: u64,
    /// What it takes on the stack, once somebody has looked.
    takes: Option<Reach>,
}

#[derive(Debug, Default)]
struct Hooks {
    all: Vec<Hook>,
    by_address: BTreeMap<u64, u16>,
    full: bool,
}

static HOOKS: Lock<Hooks> = Lock::new(Hooks { all: Vec::new(), by_address: BTreeMap::new(), full: false });
/// The hooked functions' entries, for the stacks that begin with them.
static ENTRIES: [AtomicU64; arch::STUBS] = [const { AtomicU64::new(0) }; arch::STUBS];

/// The entry of hooked function number `hook`.
#[inline(always)]
pub(crate) fn entry(hook: u16) -> Option<u64> {
    ENTRIES.get(usize::from(hook)).map(|entry| entry.load(Ordering::Relaxed))
}

/// A trampoline that passes on to `target`, the same one each time; `None`
/// where there are no more.
pub(crate) fn trampoline(tracer: &Tracer, target: u64, name: &[u8]) -> Option<u64> {
    arch::stub(number(tracer, target, name)?)
}

/// The same as the number of a hook.
pub(crate) fn number(tracer: &Tracer, target: u64, name: &[u8]) -> Option<u16> {
    let mut hooks = HOOKS.lock();
    if let Some(&n) = hooks.by_address.get(&target)
        && let Some(hook) = hooks.all.get(usize::from(n))
        && (name.is_empty() || hook.patched.is_some() || hook.name == name)
    {
        return Some(n);
    }
    let n = u16::try_from(hooks.all.len()).ok().filter(|&n| usize::from(n) < arch::STUBS);
    let Some(n) = n else {
        if !std::mem::replace(&mut hooks.full, true) {
            say::error(format_args!(
                "more than {} functions to hook; the others are not traced",
                arch::STUBS
            ));
        }
        return None;
    };
    if !tracer.ring.hook(n, target, name) {
        return None;
    }
    let takes = tracer.config.stack_words_of(name).map(Reach::Words);
    hooks.all.push(Hook { address: target, name: name.to_vec(), patched: None, target, takes });
    hooks.by_address.insert(target, n);
    ENTRIES[usize::from(n)].store(target, Ordering::Relaxed);
    arch::pass_on(n, target, takes);
    Some(n)
}

/// Has the trampolines of the function at `address` pass on to `copy`, since its
/// entry leads to one of them; `module` is where it is, and `takes` is what was
/// seen before its entry was another.
pub(crate) fn set_patched(address: u64, copy: u64, module: Ref, takes: Reach) {
    for (n, hook) in HOOKS.lock().all.iter_mut().enumerate().filter(|(_, hook)| hook.address == address) {
        hook.patched = Some(module);
        hook.target = copy;
        hook.takes.get_or_insert(takes);
        arch::pass_on(n as u16, hook.target, hook.takes);
    }
}

/// The functions' entries lead to no trampoline any more, or never did.
pub(crate) fn forget_patched(is_gone: impl Fn(u64, Ref) -> bool) {
    for (n, hook) in HOOKS.lock().all.iter_mut().enumerate() {
        if hook.patched.is_some_and(|module| is_gone(hook.address, module)) {
            hook.patched = None;
            hook.target = hook.address;
            arch::pass_on(n as u16, hook.target, hook.takes);
        }
    }
}

/// In a forked child: the new ring learns what is hooked.
pub(super) fn move_to_ring(tracer: &Tracer, registry: &Registry) {
    for (n, hook) in HOOKS.lock().all.iter_mut().enumerate() {
        tracer.ring.hook(n as u16, hook.address, &hook.name);
        hook.patched = hook.patched.and_then(|_| registry.find(hook.address)).map(|module| module.entry);
    }
}

/// Something else may be where functions were that can go away.
pub(super) fn look_again(tracer: &Tracer, registry: &Registry) {
    let stays = |address| registry.find(address).is_some_and(|module| module.from_start);
    for (n, hook) in HOOKS.lock().all.iter_mut().enumerate().filter(|(_, hook)| !stays(hook.address)) {
        hook.takes = tracer.config.stack_words_of(&hook.name).map(Reach::Words);
        arch::pass_on(n as u16, hook.target, hook.takes);
    }
}

/// What a hooked function takes, and has its trampoline do it from now on.
pub(super) fn takes(n: u16) -> Reach {
    let registry = modules::registry();
    let known = |hooks: &Hooks| hooks.all.get(usize::from(n)).map(|hook| (hook.address, hook.takes));
    let (address, takes) = match known(&HOOKS.lock()) {
        Some((_, Some(takes))) => return takes,
        Some((address, None)) => (address, arguments::reach_of(&registry, address)),
        None => return Reach::Unknown,
    };
    if let Some(hook) = HOOKS.lock().all.get_mut(usize::from(n)).filter(|hook| hook.address == address) {
        hook.takes = Some(takes);
        arch::pass_on(n, hook.target, hook.takes);
    }
    takes
}

/// Whether there is a trampoline for what is at `address`.
pub(crate) fn is_hooked(address: u64) -> bool {
    HOOKS.lock().by_address.contains_key(&address)
}

/// Whether every call of the function at `address` passes through a trampoline.
pub(crate) fn is_patched(address: u64) -> bool {
    let hooks = HOOKS.lock();
    let hook = hooks.by_address.get(&address).and_then(|&n| hooks.all.get(usize::from(n)));
    hook.is_some_and(|hook| hook.patched.is_some())
}

/// The function that a trampoline or a registrar stands for, or else `address`.
pub(crate) fn behind(address: u64) -> u64 {
    let hook = arch::stub(0).map(|first| address.wrapping_sub(first) / 16).filter(|_| arch::is_stub(address));
    let target = hook.and_then(|hook| entry(hook as u16)).or_else(|| registration::behind(address));
    target.unwrap_or(address)
}

/// Before a fork: nobody else is half-way through a change.
pub(crate) fn lock_for_fork(tries: usize) {
    lock::lock_for_fork(&HOOKS, tries);
}

/// After a fork, in both processes.
pub(crate) fn unlock_after_fork() {
    lock::unlock_after_fork(&HOOKS);
}

/// In a forked child.
///
/// # Safety
/// The calling thread is the only one.
pub(crate) unsafe fn forget_others() {
    // SAFETY: the caller's promise.
    unsafe { lock::free_in_child(&HOOKS) };
}
