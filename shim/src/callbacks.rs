//! Callbacks: which functions are hooked, and what their trampolines record.
#![allow(unsafe_code)]

use crate::arch::{self, Context, Passed};
use crate::arguments::{self, Reach};
use crate::block::Shadow;
use crate::elf::{Dynamic, Import, R_JUMP_SLOT};
use crate::errno::KeepErrno;
use crate::lock::{self, Lock};
use crate::modules::{self, Kind, Loaded, Registry};
use crate::recording::{Recording, inside};
use crate::state::ThreadState;
use crate::tracer::Tracer;
use crate::{loader, patch, real, registration, sandbox, say, scope, slots, stack};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ops::Range;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use traceshim_ring::choice;
use traceshim_ring::env::CallbackArg;
use traceshim_ring::layout::Ref;
use traceshim_ring::record::{kind, pair};
use traceshim_ring::table::ModuleEntry;

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

/// Something else may be where functions were that can go away.
fn look_again(tracer: &Tracer, registry: &Registry) {
    let stays = |address| registry.find(address).is_some_and(|module| module.from_start);
    for (n, hook) in HOOKS.lock().all.iter_mut().enumerate().filter(|(_, hook)| !stays(hook.address)) {
        hook.takes = tracer.config.stack_words_of(&hook.name).map(Reach::Words);
        arch::pass_on(n as u16, hook.target, hook.takes);
    }
}

/// A function is called of which it isn't known how much it takes on the stack,
/// or from a place of which it isn't known how much there is.
pub(crate) unsafe extern "C-unwind" fn on_wide(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the context of `widen`.
    let context = unsafe { &mut *context };
    // SAFETY: as above.
    let passed = unsafe { Passed::of(context) };
    // SAFETY: the gate passes the calling thread's own state.
    let thread = unsafe { &*thread };
    let own = thread.stack_lo..thread.stack_hi;
    // Whether anything is traced or not: the call has to be right.
    if let Ok(words) = catch_unwind(|| words_of(passed, &own)) {
        context.result = words;
    }
}

/// How many words of stack arguments the call needs copied; 0: no more than the
/// trampoline has done.
fn words_of(passed: Passed, own: &Range<u64>) -> u64 {
    let takes = if arch::is_unseen(passed.hook) { takes(passed.hook) } else { Reach::Unknown };
    match takes {
        Reach::Copied => 0,
        Reach::Words(words) => words.into(),
        Reach::Unknown => arguments::end_of_frame(passed.back, passed.bp, passed.arguments)
            .unwrap_or_else(|| stack::words_above(passed.arguments, own)),
    }
}

/// What a hooked function takes, and has its trampoline do it from now on.
fn takes(n: u16) -> Reach {
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
        if registry.modules.iter().any(|module| !module.hooked && ready.is(module)) {
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
    for (n, hook) in HOOKS.lock().all.iter_mut().enumerate() {
        tracer.ring.hook(n as u16, hook.address, &hook.name);
        hook.patched = hook.patched.and_then(|_| registry.find(hook.address)).map(|module| module.entry);
    }
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
        if module.hooked || module.kind == Kind::Untouchable || !ready.is(module) {
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
    }
    for (i, import, what) in plan {
        let Some(module) = registry.modules.get(i) else { continue };
        let stub = match what {
            Plan::Trace(target) if is_patched(target) => continue,
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
        return (target != 0).then_some(Plan::Register(target, arguments));
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
