//! Callbacks: which functions are hooked, and what their trampolines record.
#![allow(unsafe_code)]

use crate::arch::{self, Context};
use crate::block::Shadow;
use crate::elf::{R_64, R_JUMP_SLOT};
use crate::modules::{self, Kind, Loaded, Registry};
use crate::recording::{Recording, inside};
use crate::state::ThreadState;
use crate::tracer::Tracer;
use crate::{real, registration, say, slots};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};
use traceshim_ring::choice;
use traceshim_ring::env::CallbackArg;
use traceshim_ring::record::{kind, pair};
use traceshim_ring::table::ModuleEntry;

/// A hooked function.
#[derive(Clone, Debug)]
struct Hook {
    address: u64,
    name: Vec<u8>,
}

#[derive(Debug, Default)]
struct Hooks {
    all: Vec<Hook>,
    by_address: BTreeMap<u64, u16>,
    full: bool,
}

static HOOKS: Mutex<Hooks> = Mutex::new(Hooks { all: Vec::new(), by_address: BTreeMap::new(), full: false });
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
    let mut hooks = HOOKS.lock();
    if let Some(&n) = hooks.by_address.get(&target)
        && (name.is_empty() || hooks.all.get(usize::from(n)).is_some_and(|hook| hook.name == name))
    {
        return arch::stub(n);
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
    hooks.all.push(Hook { address: target, name: name.to_vec() });
    hooks.by_address.insert(target, n);
    ENTRIES[usize::from(n)].store(target, Ordering::Relaxed);
    match tracer.config.stack_words_of(name) {
        Some(words) => arch::retarget_wide(n, target, words),
        None => arch::retarget(n, target),
    }
    arch::stub(n)
}

/// The trampoline to answer a lookup of `name` with, where that is a host
/// function to be traced. `found`: what the lookup finds; 0: the default scope
/// was asked, in which the host's comes first or it isn't the answer.
pub(crate) fn trampoline_for_lookup(tracer: &Tracer, name: &CStr, found: u64) -> Option<u64> {
    if let Some(arguments) = registration::arguments_of(tracer, name) {
        let target = if found == 0 { real::dlsym(libc::RTLD_DEFAULT, name) } else { found };
        return if target == 0 { None } else { registration::registrar(target, arguments) };
    }
    if !choice::is_wanted(tracer.config, name.to_bytes()) {
        return None;
    }
    let target = host_function(tracer, &modules::registry(), name)?;
    (found == 0 || found == target).then(|| trampoline(tracer, target, name.to_bytes()))?
}

/// Looks at what is loaded now, notes what changed, and hooks what is new.
/// With a recording, the changes are events too.
pub(crate) fn refresh(tracer: &'static Tracer, mut recording: Option<&mut Recording<'_>>) {
    let seen = modules::enumerate(tracer.config);
    let mut registry = modules::registry();
    let changes = registry.refresh(seen);
    if changes.loaded == 0 && changes.unloaded.is_empty() {
        return;
    }
    let ticks = tracer.clock.now();
    for &entry in &changes.unloaded {
        tracer.ring.module_unloaded(entry, ticks);
        if let Some(recording) = recording.as_deref_mut() {
            recording.put(kind::MODULE_UNLOAD, 0, &[u64::from(entry)]);
        }
    }
    for module in registry.modules.iter_mut().filter(|module| module.entry == 0) {
        module.entry = describe(tracer, module, ticks);
        if let Some(recording) = recording.as_deref_mut() {
            recording.put(kind::MODULE_LOAD, 0, &[u64::from(module.entry)]);
        }
    }
    hook_new(tracer, &mut registry);
}

fn describe(tracer: &Tracer, module: &Loaded, ticks: u64) -> u32 {
    tracer.ring.module(&ModuleEntry {
        start: module.start,
        end: module.end,
        bias: module.bias,
        load_ticks: ticks,
        is_host: module.kind == Kind::Host,
        build_id: &module.build_id,
        path: &module.path,
        file: module.file,
    })
}

/// In a forked child: the new ring learns what the parent's knew.
pub(crate) fn describe_all(tracer: &Tracer) {
    let mut registry = modules::registry();
    for module in &mut registry.modules {
        module.entry = describe(tracer, module, 1);
    }
    // What threads remember of stacks are places in the parent's ring.
    registry.publish();
    let hooks = HOOKS.lock();
    for (n, hook) in hooks.all.iter().enumerate() {
        tracer.ring.hook(n as u16, hook.address, &hook.name);
    }
}

/// What is to stand in a slot.
enum Plan {
    /// A trampoline before a host function.
    Trace(u64),
    /// A registrar before a function that takes callbacks in these arguments.
    Register(u64, &'static [CallbackArg]),
}

/// Puts trampolines into the slots of modules that were not looked at yet, and
/// registrars into those of functions that take callbacks.
fn hook_new(tracer: &Tracer, registry: &mut Registry) {
    let mut plan = Vec::new();
    for (i, module) in registry.modules.iter().enumerate() {
        if module.hooked || module.kind == Kind::Untouchable {
            continue;
        }
        let Some(dynamic) = &module.dynamic else { continue };
        for import in dynamic.imports() {
            if let Some(arguments) = registration::arguments_of(tracer, import.name) {
                // SAFETY: the loader filled the slot, and the module is loaded.
                let holds = unsafe { slots::read(import.slot) };
                let unbound = (module.start..module.end).contains(&holds);
                let target = if unbound { real::dlsym(libc::RTLD_DEFAULT, import.name) } else { holds };
                if target != 0 {
                    plan.push((i, import, Plan::Register(target, arguments)));
                }
                continue;
            }
            if module.kind == Kind::Host {
                continue;
            }
            if !choice::is_wanted(tracer.config, import.name.to_bytes()) {
                continue;
            }
            let Some(target) = host_function(tracer, registry, import.name) else { continue };
            // SAFETY: the loader filled the slot, and the module is loaded.
            let holds = unsafe { slots::read(import.slot) };
            // A slot that is not bound yet still points into its own module.
            let unbound = import.kind == R_JUMP_SLOT && (module.start..module.end).contains(&holds);
            if holds == target || unbound {
                plan.push((i, import, Plan::Trace(target)));
            }
        }
    }
    for module in &mut registry.modules {
        module.hooked = true;
    }
    for (i, import, what) in plan {
        let Some(module) = registry.modules.get(i) else { continue };
        let stub = match what {
            Plan::Trace(target) => trampoline(tracer, target, import.name.to_bytes()),
            Plan::Register(target, arguments) => registration::registrar(target, arguments),
        };
        let Some(stub) = stub else { continue };
        let read_only = (module.relro.0..module.relro.1).contains(&import.slot);
        // SAFETY: a slot of a loaded module, which gets a function's address
        // that does what the one before it did.
        if let Err(error) = unsafe { slots::write(import.slot, stub, read_only) } {
            say::error(format_args!("can't hook {:?}: {error}", import.name));
        }
        if import.kind == R_64 {
            say::info(format_args!("{:?} is hooked in a table of function pointers", import.name));
        }
    }
}

/// The host's function of this name, if that is what the name means in the
/// order in which the loader looks: the first module that has it.
fn host_function(tracer: &Tracer, registry: &Registry, name: &CStr) -> Option<u64> {
    let host = registry.modules.iter().filter(|module| module.kind == Kind::Host).find_map(|module| {
        let function = module.dynamic.as_ref()?.export(name)?;
        let allowed = choice::is_host_function(tracer.config, &module.path, name.to_bytes());
        allowed.then_some((module.start, function))
    })?;
    let first = registry.modules.iter().find(|module| {
        module.start == host.0 || module.dynamic.as_ref().is_some_and(|d| d.export(name).is_some())
    })?;
    (first.start == host.0).then_some(host.1)
}

/// A trampoline was called.
pub(crate) unsafe extern "C-unwind" fn on_enter(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the trampoline's own context.
    let context = unsafe { &mut *context };
    // SAFETY: called by the gate.
    unsafe { inside(thread, |recording| enter(recording, context)) }
}

fn enter(recording: &mut Recording<'_>, context: &mut Context) {
    let hook = context.id as u16;
    let frame = context.frame();
    // A frame at the same place was left, too, or we couldn't be there.
    recording.repair(frame + 1);
    let stack = recording.stack(&context.caller(), Some(hook), true);
    let depth = recording.thread.depth as usize;
    if let Some(shadow) = recording.block().and_then(|block| block.shadow.get_mut(depth)) {
        *shadow = Shadow { frame, mark: context.mark() };
    }
    recording.thread.depth += 1;
    context.live = 1;
    // Last, so that our own time doesn't count as the callback's.
    recording.ticks = recording.tracer.clock.now();
    let depth = recording.thread.depth.min(u32::from(u16::MAX));
    recording.event(kind::CALLBACK_ENTER, hook, &[pair(stack.0, depth)]);
}

/// The function behind a trampoline came back.
pub(crate) unsafe extern "C-unwind" fn on_exit(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the trampoline's own context.
    let context = unsafe { &mut *context };
    // SAFETY: called by the gate.
    unsafe { inside(thread, |recording| exit(recording, context)) }
}

fn exit(recording: &mut Recording<'_>, context: &Context) {
    let (frame, depth) = (context.frame(), recording.thread.depth as usize);
    let Some(block) = recording.block() else { return };
    let known = block.shadow.get(..depth.min(block.shadow.len())).unwrap_or_default();
    // Ours is the last one, unless those above it were left without returning
    // or belong to another stack that is suspended.
    let Some(at) = known.iter().rposition(|shadow| shadow.frame == frame) else {
        if depth > block.shadow.len() {
            recording.thread.depth -= 1;
            recording.event(kind::CALLBACK_EXIT, context.id as u16, &[]);
        }
        return;
    };
    if at + 1 < depth {
        recording.repair_inside(frame);
        close_in_the_middle(recording, frame);
    } else {
        recording.thread.depth -= 1;
    }
    recording.event(kind::CALLBACK_EXIT, context.id as u16, &[]);
}

/// Takes out a callback above which others, on other stacks, go on.
#[cold]
fn close_in_the_middle(recording: &mut Recording<'_>, frame: u64) {
    let depth = recording.thread.depth as usize;
    let Some(block) = recording.block() else { return };
    let len = depth.min(block.shadow.len());
    let Some(known) = block.shadow.get_mut(..len) else { return };
    if let Some(at) = known.iter().rposition(|shadow| shadow.frame == frame) {
        known.copy_within(at + 1.., at);
        recording.thread.depth -= 1;
    }
}

/// At the thread's end: closes every callback that is still in progress.
pub(crate) fn close_all(recording: &mut Recording<'_>) {
    while recording.thread.depth > 0 {
        recording.thread.depth -= 1;
        let top = recording.thread.depth as usize;
        if let Some(shadow) = recording.block().and_then(|block| block.shadow.get(top).copied()) {
            recording.event(kind::CALLBACK_EXIT, shadow.hook(), &[1]);
        }
    }
}

/// Before a fork: nobody else is half-way through a change.
pub(crate) fn lock_for_fork() {
    std::mem::forget(HOOKS.lock());
}

/// After a fork, in both processes.
///
/// # Safety
/// Called where [`lock_for_fork`] was, or in the only thread of a child.
pub(crate) unsafe fn unlock_after_fork() {
    if HOOKS.is_locked() {
        // SAFETY: the caller's promise.
        unsafe { HOOKS.force_unlock() };
    }
}
