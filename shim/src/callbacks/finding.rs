//! What is loaded, and which of its slots and lookups lead to hooked functions.
#![allow(unsafe_code)]

use super::table::{forget_patched, is_patched, look_again, move_to_ring, trampoline};
use crate::elf::{Dynamic, Import, R_JUMP_SLOT};
use crate::errno::KeepErrno;
use crate::modules::{self, Kind, Loaded, Registry};
use crate::recording::Recording;
use crate::tracer::Tracer;
use crate::{arch, loader, patch, real, registration, sandbox, say, scope, slots};
use std::ffi::CStr;
use traceshim_ring::choice;
use traceshim_ring::env::CallbackArg;
use traceshim_ring::record::kind;
use traceshim_ring::table::ModuleEntry;

/// What stands for the function at `found`, which a lookup of `name` from that
/// side finds; `None`: it itself.
pub(crate) fn stand_in(tracer: &Tracer, name: &CStr, found: u64, asks: Kind) -> Option<u64> {
    if let Some(arguments) = registration::arguments_of(tracer, name) {
        return registration::registrar(found, arguments);
    }
    if !matches!(asks, Kind::CSide | Kind::Forwarder) || !choice::is_wanted(tracer.config, name.to_bytes()) {
        return None;
    }
    (!is_patched(found) && is_host_function(tracer, &modules::registry(), name, found))
        .then(|| trampoline(tracer, found, name.to_bytes()))?
}

/// Which modules' slots the loader is done with. While it fills them, they are
/// not to be touched: it would find its own pages protected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ready {
    /// All of them: at the start, and while a library is being initialised, when
    /// the thread that opens it keeps all others from opening any.
    All,
    /// The library with this handle, which is open.
    Opened(u64),
    /// None that isn't known yet.
    Known,
}

impl Ready {
    fn is(self, module: &Loaded) -> bool {
        match self {
            Ready::All => true,
            Ready::Opened(dynamic) => module.dynamic.is_some_and(|own| own.address == dynamic),
            Ready::Known => false,
        }
    }
}

/// Looks at what is loaded now, notes what changed, and hooks what is new.
/// With a recording, the changes are events too.
pub(crate) fn refresh(tracer: &'static Tracer, recording: Option<&mut Recording<'_>>, ready: Ready) {
    if !sandbox::allows(sandbox::MODULES) {
        return;
    }
    let _errno = KeepErrno::new();
    // Nothing is unmapped while it is looked at.
    loader::hold(|counts| {
        let mut registry = modules::registry();
        if !registry.is_current(counts) {
            take_in(tracer, recording, &mut registry, counts);
        }
        if registry.modules.iter().any(|module| is_due(module, ready)) {
            hook_new(tracer, &mut registry, ready);
        }
    });
}

fn take_in(
    tracer: &Tracer,
    mut recording: Option<&mut Recording<'_>>,
    registry: &mut Registry,
    counts: loader::Counts,
) {
    let changes = registry.refresh(counts, tracer.config);
    let ticks = tracer.clock.now();
    forget_patched(|_, module| changes.unloaded.contains(&module));
    if !changes.unloaded.is_empty() {
        look_again(tracer, registry);
    }
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
}

fn describe(tracer: &Tracer, module: &Loaded, ticks: u64) -> u32 {
    tracer.ring.module(&ModuleEntry {
        start: module.identity.start,
        end: module.identity.end,
        bias: module.identity.bias,
        load_ticks: ticks,
        is_host: module.kind == Kind::Host,
        build_id: &module.identity.build_id,
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
    move_to_ring(tracer, &registry);
}

/// Whether a module's slots are to be looked through.
fn is_due(module: &Loaded, ready: Ready) -> bool {
    (!module.hooked || module.outdated) && ready.is(module)
}

/// What is to stand in a slot.
enum Plan {
    /// A trampoline before a host function.
    Trace(u64),
    /// A registrar before a function that takes callbacks in these arguments.
    Register(u64, &'static [CallbackArg]),
    /// An entry of ours, past which a library that looks into itself first goes.
    Interpose(u64),
}

/// Puts trampolines into the slots of modules that were not looked at yet, and
/// registrars into those of functions that take callbacks.
fn hook_new(tracer: &Tracer, registry: &mut Registry, ready: Ready) {
    let mut plan = Vec::new();
    for (i, module) in registry.modules.iter().enumerate() {
        if module.kind == Kind::Untouchable || !is_due(module, ready) {
            continue;
        }
        let Some(dynamic) = &module.dynamic else { continue };
        for import in dynamic.imports() {
            if let Some(what) = plan_for(tracer, registry, module, dynamic, &import) {
                plan.push((i, import, what));
            }
        }
    }
    let traced = plan.iter().filter_map(|(i, import, what)| match what {
        Plan::Trace(target) => Some((*i, *import, *target)),
        _ => None,
    });
    let addresses = patch::addresses(registry, &traced.collect::<Vec<_>>());
    let is_new = |module: &Loaded| !module.hooked && ready.is(module);
    let moved = patch::entries(tracer, registry, &is_new, &addresses.taken);
    let any = moved.iter().any(|(_, moved)| !moved.is_empty());
    for (n, moved) in moved {
        registry.modules.get_mut(n).into_iter().for_each(|module| module.moved.extend(&moved));
    }
    if any {
        registry.publish();
    }
    for module in registry.modules.iter_mut().filter(|module| ready.is(module)) {
        module.hooked = true;
        module.outdated = false;
    }
    for (i, import, what) in plan {
        let Some(module) = registry.modules.get(i) else { continue };
        let stub = match what {
            // From others it is only called, and then this tells more: who jumps
            // there looks to the function's entry like its own module.
            Plan::Trace(target) if is_patched(target) && addresses.slots.contains(&import.slot) => continue,
            Plan::Trace(target) if import.kind != R_JUMP_SLOT && addresses.compared.contains(&target) => {
                patch::stays_alone(import.name.to_bytes());
                continue;
            }
            Plan::Trace(target) => trampoline(tracer, target, import.name.to_bytes()),
            Plan::Register(target, arguments) => registration::registrar(target, arguments),
            Plan::Interpose(entry) => Some(entry),
        };
        let Some(stub) = stub else { continue };
        let read_only = (module.relro.0..module.relro.1).contains(&import.slot);
        // SAFETY: a slot of a loaded module, which gets a function's address
        // that does what the one before it did.
        if let Err(error) = unsafe { slots::write(import.slot, stub, read_only) } {
            say::error(format_args!("can't hook {:?}: {error}", import.name));
        }
    }
}

fn plan_for(
    tracer: &Tracer,
    registry: &Registry,
    module: &Loaded,
    dynamic: &Dynamic,
    import: &Import,
) -> Option<Plan> {
    // SAFETY: the loader filled the slot, and the module is loaded.
    let holds = unsafe { slots::read(import.slot) };
    // A slot that is not bound yet still points into its own module, and not at
    // a function of this name.
    let unbound =
        import.kind == R_JUMP_SLOT && module.contains(holds) && !dynamic.exports_at(import.name, holds);
    if let Some(arguments) = registration::arguments_of(tracer, import.name) {
        let target = if unbound { scope::bound(registry, module, import)? } else { holds };
        // Of a module that is looked through again, the slot has it already.
        let is_new = target != 0 && arch::number_of_registrar(target).is_none();
        return is_new.then_some(Plan::Register(target, arguments));
    }
    if let Some(ours) = real::stands_before(import.name).filter(|_| !module.from_start) {
        let passed = if unbound { scope::is_only(registry, import.name, ours) } else { holds == ours.real };
        return passed.then_some(Plan::Interpose(ours.entry));
    }
    if module.kind == Kind::Host || !choice::is_wanted(tracer.config, import.name.to_bytes()) {
        return None;
    }
    let target = if unbound {
        let is_there = |module: &Loaded| module.dynamic.is_some_and(|dynamic| dynamic.exports(import.name));
        registry.hosts().find(|host| is_there(host))?;
        scope::bound(registry, module, import)?
    } else {
        holds
    };
    is_host_function(tracer, registry, import.name, target).then_some(Plan::Trace(target))
}

/// Whether there is a host's exported function of this name at `address`, which
/// may be traced.
fn is_host_function(tracer: &Tracer, registry: &Registry, name: &CStr, address: u64) -> bool {
    let (config, bytes) = (tracer.config, name.to_bytes());
    let is_there = registry.hosts().filter(|host| host.contains(address)).any(|host| {
        let allowed = choice::is_host_function(config, &host.path, bytes);
        allowed && host.dynamic.is_some_and(|dynamic| dynamic.exports_at(name, address))
    });
    is_there && !choice::is_interposed(config, bytes, || scope::is_toolchains(registry, name))
}
