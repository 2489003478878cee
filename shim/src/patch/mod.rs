//! Functions whose own entry is patched, for calls that pass no slot
//! (`inline:NAME`), and where C code may compare a function's address
//! (`identity`).
//!
//! The entry becomes a jump to a thunk nearby (`island`), which goes on to the
//! trampoline, which goes on to the first instructions, moved (`prologue`).
//! What can't be patched safely isn't, and the log says why (`refusal`).

mod identity;
mod image;
mod island;
mod jumps;
mod prologue;
mod references;
mod refusal;
mod text;

use crate::modules::{Kind, Loaded, Registry};
use crate::tracer::Tracer;
use crate::{arch, arguments, callbacks, say};
pub(crate) use identity::addresses;
use image::{Function, Image};
pub(crate) use island::Words;
use island::{Calls, Island};
use prologue::Prologue;
use refusal::Refusal;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use text::Text;
pub(crate) use text::code_from;
use traceshim_ring::choice;
use traceshim_unwind::Moved;

/// Names of functions that can't be called from another frame: the process
/// starts there, or they return to their caller's frame later.
const NOT_CALLED: [&[u8]; 15] = [
    b"_start",
    b"setjmp",
    b"_setjmp",
    b"sigsetjmp",
    b"__sigsetjmp",
    b"vfork",
    b"__vfork",
    b"getcontext",
    b"swapcontext",
    b"savectx",
    b"unw_getcontext",
    b"__unw_getcontext",
    // Of libgcc's unwinder, which looks into its caller's frame.
    b"uw_init_context_1",
    b"__fentry__",
    b"mcount",
];

/// A function whose address is taken, and its name.
type Taken = (u64, &'static [u8]);

/// A function to be patched.
struct Wish<'a> {
    avma: u64,
    function: Function<'a>,
    calls: Calls,
    /// Whether the variable names it in full: then a refusal is an error.
    named: bool,
}

/// A module, and what its file says of it.
struct Patient<'a> {
    tracer: &'a Tracer,
    registry: &'a Registry,
    module: &'a Loaded,
    /// Whether no other thread can be executing it.
    alone: bool,
    image: Image<'a>,
    functions: Vec<Function<'a>>,
    /// Rarely used parts of functions, which compilers put elsewhere.
    parts: Vec<Function<'a>>,
}

/// Patches what `TRACESHIM_CALLBACKS` names with `inline:` in those host modules
/// that are new, and the functions at `taken`, whose addresses are used by C
/// code, in any. Returns which instructions of which module were moved.
pub(crate) fn entries(
    tracer: &Tracer,
    registry: &Registry,
    is_new: &dyn Fn(&Loaded) -> bool,
    taken: &[Taken],
) -> Vec<(usize, Vec<Moved>)> {
    let mut all = Vec::new();
    let wants_inline = !tracer.config.callbacks.inline.is_empty();
    for (n, module) in registry.modules.iter().enumerate() {
        let inline = wants_inline && module.kind == Kind::Host && is_new(module);
        let is_missing = |&&(at, _): &&Taken| module.contains(at) && !callbacks::is_patched(at);
        let taken: Vec<Taken> = taken.iter().filter(is_missing).copied().collect();
        if !inline && taken.is_empty() {
            continue;
        }
        let path =
            if n == 0 { Path::new("/proc/self/exe") } else { Path::new(OsStr::from_bytes(&module.path)) };
        match patch(tracer, registry, module, path, &taken, inline) {
            Ok(moved) => all.push((n, moved)),
            Err(why) => {
                if inline {
                    say::error(format_args!("{}: no entry is patched: {why}", path.display()));
                }
                taken.iter().for_each(|(_, name)| stays_hooked(name, &why));
            }
        }
    }
    all
}

fn patch(
    tracer: &Tracer,
    registry: &Registry,
    module: &Loaded,
    path: &Path,
    taken: &[Taken],
    inline: bool,
) -> Result<Vec<Moved>, Refusal> {
    let alone = text::is_only_thread();
    let file = image::map(path).map_err(Refusal::NoFile)?;
    let image = Image::parse(&file).ok_or_else(|| Refusal::NoFile(ErrorKind::InvalidData.into()))?;
    let functions = image.functions();
    // Not functions: they have no frame of their own, and are jumped to.
    let is_part = |function: &Function<'_>| function.name.windows(5).any(|part| part == b".cold");
    let (parts, functions) = functions.into_iter().partition(is_part);
    let patient = Patient { tracer, registry, module, alone, image, functions, parts };
    let wishes = patient.wishes(taken, inline);
    for (_, name) in taken.iter().filter(|(at, _)| !wishes.iter().any(|wish| wish.avma == *at)) {
        stays_hooked(name, &Refusal::NoSymbol);
    }
    Ok(patient.grant(&wishes))
}

impl<'a> Patient<'a> {
    /// What is asked for, one wish for each address.
    fn wishes(&self, taken: &[Taken], inline: bool) -> Vec<Wish<'a>> {
        let config = self.tracer.config;
        let wish = |function: Function<'a>| {
            let avma = function.svma.wrapping_add(self.module.identity.bias);
            let named = config.callbacks.inline.iter().any(|glob| glob == function.name);
            // A label isn't meant unless it is named.
            let callable = named || function.kind != image::Kind::Untyped;
            let calls = if inline && callable && choice::is_wanted_inline(config, function.name) {
                Calls::All
            } else if taken.contains(&(avma, function.name)) {
                identity::from_outside(self.module, avma, function.name)
            } else {
                return None;
            };
            Some(Wish { avma, function, calls, named })
        };
        let mut wishes: Vec<Wish<'a>> = self.functions.iter().copied().filter_map(wish).collect();
        wishes.dedup_by(|other, first| {
            let same = other.avma == first.avma;
            if same && other.calls == Calls::All {
                (first.calls, first.named) = (Calls::All, first.named || other.named);
            }
            same
        });
        wishes
    }

    /// Patches what can be, and says of the rest why not. Returns what was moved.
    fn grant(&self, wishes: &[Wish<'_>]) -> Vec<Moved> {
        let mut moved = Vec::new();
        let mut refused = 0;
        let mut refuse = |wish: &Wish<'_>, why: &Refusal| {
            let name = wish.function.name.escape_ascii();
            match &wish.calls {
                Calls::FromOutside { .. } => stays_hooked(wish.function.name, why),
                Calls::All if wish.named => say::error(format_args!("inline:{name}: {}", Unpatched(why))),
                Calls::All => {
                    refused += 1;
                    say::info(format_args!("inline:{name}: {}", Unpatched(why)));
                }
            }
        };
        let mut judged = Vec::new();
        for wish in wishes {
            match self.judge(wish) {
                Ok(prologue) => judged.push((wish, prologue)),
                Err(why) => refuse(wish, &why),
            }
        }
        let inner = |(_, prologue): &(_, Prologue)| prologue.gone().skip(1);
        let mut all: Vec<u64> = judged.iter().flat_map(inner).collect();
        all.sort_unstable();
        let entered = jumps::entered(self.module, &all);
        judged.retain(|one| {
            let stays = !inner(one).any(|address| entered.binary_search(&address).is_ok());
            if !stays {
                refuse(one.0, &Refusal::JumpsBack);
            }
            stays
        });
        match self.put_all(&judged) {
            Ok(results) => {
                for ((wish, _), result) in judged.iter().zip(results) {
                    match result {
                        Ok(of_one) => moved.extend(of_one),
                        Err(why) => refuse(wish, &why),
                    }
                }
            }
            Err(why) => judged.iter().for_each(|(wish, _)| refuse(wish, &why)),
        }
        if refused > 0 {
            say::error(format_args!(
                "inline: {refused} functions that match can't be patched; TRACESHIM_LOG=info names them and the reasons"
            ));
        }
        moved
    }

    /// Looks at a function, and says why not where it can't be patched.
    fn judge(&self, wish: &Wish<'_>) -> Result<Prologue, Refusal> {
        let Function { svma, size, name, kind } = wish.function;
        if wish.avma == text::program_entry() || NOT_CALLED.contains(&name) {
            return Err(Refusal::NotCalled);
        }
        if kind == image::Kind::Chooser {
            return Err(Refusal::Chooser);
        }
        if size == 0 {
            return Err(Refusal::Unsized);
        }
        let (code, behind) = text::of_function(self.module, wish.avma, size)?;
        if self.image.code(svma, size) != Some(code) {
            return Err(Refusal::Differs);
        }
        let parts = self.parts.iter().filter(|part| part.name.starts_with(name)).filter_map(|part| {
            let avma = part.svma.wrapping_add(self.module.identity.bias);
            Some((avma, text::of_function(self.module, avma, part.size).ok()?.0))
        });
        let prologue = prologue::judge(wish.avma, code, behind, &parts.collect::<Vec<_>>())?;
        if jumps::through_table(self.module, &self.image, wish.avma, code, &prologue.gone()) {
            return Err(Refusal::JumpsBack);
        }
        if !self.alone && !prologue.is_one_instruction() {
            return Err(Refusal::OtherThreads);
        }
        let gone = prologue.gone();
        let next = self.functions.partition_point(|function| function.svma <= svma);
        match self.functions.get(next) {
            Some(next) if next.svma - svma < gone.end - gone.start => Err(Refusal::SecondEntry),
            _ => Ok(prologue),
        }
    }

    /// Makes what the patched entries lead to, and patches each.
    fn put_all(&self, judged: &[(&Wish<'_>, Prologue)]) -> Result<Vec<Result<Vec<Moved>, Refusal>>, Refusal> {
        if judged.is_empty() {
            return Ok(Vec::new());
        }
        let text = Text::open().map_err(Refusal::NoWriting)?;
        let island = Island::near(&(self.module.identity.start..self.module.identity.end), judged.len())?;
        let fill = |(i, (wish, prologue)): (usize, &(&Wish<'_>, Prologue))| {
            let n = callbacks::number(self.tracer, wish.avma, wish.function.name);
            let stub = n.and_then(arch::stub).ok_or(Refusal::NoStub)?;
            island.fill(i, prologue, stub, &wish.calls)
        };
        let cells: Vec<_> = judged.iter().enumerate().map(fill).collect();
        island.finish()?;
        let put =
            |((wish, prologue), cell): (&(&Wish<'_>, Prologue), _)| self.put(&text, wish, prologue, cell?);
        Ok(judged.iter().zip(cells).map(put).collect())
    }

    /// The last step: from here on the function's calls pass its trampoline.
    fn put(
        &self,
        text: &Text,
        wish: &Wish<'_>,
        prologue: &Prologue,
        cell: island::Cell,
    ) -> Result<Vec<Moved>, Refusal> {
        let takes = arguments::reach_of(self.registry, wish.avma);
        callbacks::set_patched(wish.avma, cell.copy, self.module.entry, takes);
        let jump = match self.alone {
            true => text.jump(prologue, cell.thunk),
            false => text::jump_in_new_page(prologue, cell.thunk),
        };
        jump.map_err(|error| {
            callbacks::forget_patched(|address, _| address == wish.avma);
            Refusal::NoWriting(error)
        })?;
        say::info(format_args!("{}: its entry is patched", wish.function.name.escape_ascii()));
        Ok(cell.moved)
    }
}

/// The addresses of the functions that a file names, as it states them.
#[cfg(test)]
pub(crate) fn functions_of(file: &[u8]) -> Vec<u64> {
    let functions = Image::parse(file).map(|image| image.functions()).unwrap_or_default();
    functions.iter().filter(|function| function.size > 0).map(|function| function.svma).collect()
}

struct Unpatched<'a>(&'a Refusal);

impl std::fmt::Display for Unpatched<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "its entry can't be patched: {}", self.0)
    }
}

/// Says that a slot that holds a function's address is left alone: code compares
/// the address, and the function's entry couldn't be patched.
pub(crate) fn stays_alone(name: &[u8]) {
    let name = name.escape_ascii();
    say::info(format_args!("{name}: C code compares its address; calls through it aren't recorded"));
}

/// Says that trampolines stay in slots although the address is used.
fn stays_hooked(name: &[u8], why: &Refusal) {
    let (name, why) = (name.escape_ascii(), Unpatched(why));
    say::info(format_args!("{name}: C code takes its address, which isn't the host's: {why}"));
}
