//! Functions whose own entry is patched, for calls that pass no slot
//! (`inline:NAME`), and where C code may compare a function's address.
//!
//! The entry becomes a jump to a thunk nearby (`island`), which goes on to the
//! trampoline, which goes on to the first instructions, moved (`prologue`).
//! What can't be patched safely isn't, and the log says why (`refusal`).

mod identity;
mod image;
mod island;
mod prologue;
mod references;
mod refusal;
mod text;

use crate::modules::{Kind, Loaded, Registry};
use crate::tracer::Tracer;
use crate::{arch, callbacks, say};
pub(crate) use identity::taken;
use image::Image;
pub(crate) use island::Words;
use island::{Calls, Island};
use prologue::{JUMP, Prologue};
use refusal::Refusal;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use text::Text;
use traceshim_ring::choice;

/// Names of functions that can't be called from another frame: the process
/// starts there, or they return to their caller's frame later.
const NOT_CALLED: [&[u8]; 12] = [
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
    b"__fentry__",
    b"mcount",
];
/// A function to be patched.
struct Wish<'a> {
    avma: u64,
    size: u64,
    name: &'a [u8],
    kind: image::Kind,
    calls: Calls,
    /// Whether the variable names it in full: then a refusal is an error.
    named: bool,
}

/// Patches what `TRACESHIM_CALLBACKS` names with `inline:` in those host modules
/// that are new, and the functions at `taken`, whose addresses are used by C
/// code, in any.
pub(crate) fn entries(
    tracer: &Tracer,
    registry: &Registry,
    is_new: &dyn Fn(&Loaded) -> bool,
    taken: &[(u64, &[u8])],
) {
    for (n, module) in registry.modules.iter().enumerate() {
        let taken: Vec<_> = taken.iter().filter(|&&(at, _)| module.contains(at)).collect();
        let inline =
            module.kind == Kind::Host && is_new(module) && !tracer.config.callbacks.inline.is_empty();
        if !taken.is_empty() || inline {
            let path = if n == 0 {
                Path::new("/proc/self/exe")
            } else {
                Path::new(std::ffi::OsStr::from_bytes(&module.path))
            };
            if let Err(why) = module_entries(tracer, module, path, &taken, inline) {
                say::error(format_args!("{}: no entry is patched: {why}", path.display()));
            }
        }
    }
}

fn module_entries(
    tracer: &Tracer,
    module: &Loaded,
    path: &Path,
    taken: &[&(u64, &[u8])],
    inline: bool,
) -> Result<(), Refusal> {
    let map = image::map(path).map_err(Refusal::NoFile)?;
    let image = Image::parse(&map).ok_or_else(|| Refusal::NoFile(std::io::ErrorKind::InvalidData.into()))?;
    let functions = image.functions();
    let wishes: Vec<Wish<'_>> = functions
        .iter()
        .filter_map(|function| {
            let avma = function.svma.wrapping_add(module.identity.bias);
            let is_taken = taken.iter().any(|&&(at, name)| at == avma && name == function.name);
            let named = tracer.config.callbacks.inline.iter().any(|glob| glob == function.name);
            let wanted = inline
                && choice::is_wanted_inline(tracer.config, function.name)
                && (named || function.kind != image::Kind::Untyped);
            let calls = match (wanted, is_taken) {
                (true, _) => Calls::All,
                (_, true) => identity::from_outside(module, avma, function.name),
                _ => return None,
            };
            Some(Wish { avma, size: function.size, name: function.name, kind: function.kind, calls, named })
        })
        .collect();
    let mut judged = Vec::new();
    for wish in wishes {
        if callbacks::is_patched(wish.avma)
            || judged.iter().any(|(other, _): &(Wish<'_>, _)| other.avma == wish.avma)
        {
            continue;
        }
        match judge(&wish, module, &image, &functions) {
            Ok(prologue) => judged.push((wish, prologue)),
            Err(why) => refuse(&wish, &why),
        }
    }
    if judged.is_empty() {
        return Ok(());
    }
    let text = match Text::open() {
        _ if !text::is_only_thread() => Err(Refusal::OtherThreads),
        text => text.map_err(Refusal::NoWriting),
    };
    let made = text.and_then(|text| Ok((text, make(tracer, module, &judged)?)));
    match made {
        Ok((text, cells)) => {
            for ((wish, prologue), cell) in judged.iter().zip(cells) {
                if let Err(why) = cell.and_then(|cell| put(tracer, &text, wish, prologue, cell)) {
                    refuse(wish, &why);
                }
            }
        }
        Err(why) => judged.iter().for_each(|(wish, _)| refuse(wish, &why)),
    }
    Ok(())
}

/// Looks at a function, and says why not where it can't be patched.
fn judge(
    wish: &Wish<'_>,
    module: &Loaded,
    image: &Image<'_>,
    functions: &[image::Function<'_>],
) -> Result<Prologue, Refusal> {
    if wish.avma == text::program_entry() || NOT_CALLED.contains(&wish.name) {
        return Err(Refusal::NotCalled);
    }
    match wish.kind {
        image::Kind::Chooser => return Err(Refusal::Chooser),
        _ if wish.size == 0 => return Err(Refusal::Unsized),
        _ => {}
    }
    let (code, behind) = text::of_function(module, wish.avma, wish.size)?;
    let svma = wish.avma.wrapping_sub(module.identity.bias);
    if image.code(svma, wish.size) != Some(code) {
        return Err(Refusal::Differs);
    }
    let parts: Vec<_> = functions
        .iter()
        .filter(|part| is_part(part.name, wish.name))
        .filter_map(|part| {
            let avma = part.svma.wrapping_add(module.identity.bias);
            Some((avma, text::of_function(module, avma, part.size).ok()?.0))
        })
        .collect();
    let prologue = prologue::judge(wish.avma, code, behind, &parts)?;
    let gone = svma + 1
        ..prologue.rest.unwrap_or_default().max(prologue.at + JUMP).wrapping_sub(module.identity.bias);
    let after = functions.partition_point(|function| function.svma < gone.start);
    match functions.get(after) {
        Some(function) if gone.contains(&function.svma) => Err(Refusal::SecondEntry),
        _ => Ok(prologue),
    }
}

/// Compilers put rarely used parts of a function elsewhere, as `name.cold`.
fn is_part(part: &[u8], name: &[u8]) -> bool {
    part.strip_prefix(name).is_some_and(|rest| rest.starts_with(b".cold"))
}

type Made = Result<island::Cell, Refusal>;

/// Makes the cells and trampolines of these functions.
fn make(tracer: &Tracer, module: &Loaded, judged: &[(Wish<'_>, Prologue)]) -> Result<Vec<Made>, Refusal> {
    let island = Island::near(&(module.identity.start..module.identity.end), judged.len())?;
    let cells = judged.iter().enumerate().map(|(i, (wish, prologue))| {
        let n = callbacks::number(tracer, wish.avma, wish.name).ok_or(Refusal::NoStub)?;
        let stub = arch::stub(n).ok_or(Refusal::NoStub)?;
        island.fill(i, prologue, stub, &wish.calls)
    });
    let cells = cells.collect();
    island.finish()?;
    Ok(cells)
}

/// The last step: from here on the function's calls pass through its trampoline.
fn put(
    tracer: &Tracer,
    text: &Text,
    wish: &Wish<'_>,
    prologue: &Prologue,
    cell: island::Cell,
) -> Result<(), Refusal> {
    callbacks::set_patched(tracer, wish.avma, Some(cell.copy));
    text.jump(prologue, cell.thunk).map_err(|error| {
        callbacks::set_patched(tracer, wish.avma, None);
        Refusal::NoWriting(error)
    })?;
    say::info(format_args!("{}: its entry is patched", wish.name.escape_ascii()));
    Ok(())
}

fn refuse(wish: &Wish<'_>, why: &Refusal) {
    let name = wish.name.escape_ascii();
    match &wish.calls {
        Calls::All if wish.named => {
            say::error(format_args!("inline:{name}: its entry can't be patched: {why}"))
        }
        Calls::All => say::info(format_args!("inline:{name}: its entry can't be patched: {why}")),
        Calls::FromOutside { .. } => say::info(format_args!(
            "{name}: its address is taken, and its entry can't be patched: {why}; C code has another address than the host"
        )),
    }
}
