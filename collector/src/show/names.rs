//! Names of functions that events refer to otherwise than by stacks.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::rc::Rc;

use crate::model::Process;
use crate::resolve::{Frame, Resolver};
use crate::show::stacks::KeyHasher;
use crate::symbols;

/// Looks up names, each once.
pub(crate) struct Names<'r> {
    /// What names addresses.
    pub(crate) resolver: &'r mut Resolver,
    hooks: HashMap<(u32, u32), Rc<[u8]>, BuildHasherDefault<KeyHasher>>,
    demangle: bool,
}

impl<'r> Names<'r> {
    /// Names from `resolver`, demangled as it does it.
    pub(crate) fn new(resolver: &'r mut Resolver) -> Names<'r> {
        let demangle = resolver.demangles();
        Names { resolver, hooks: HashMap::default(), demangle }
    }

    /// The function behind hook `hook` of `process`.
    #[inline]
    pub(crate) fn hook(&mut self, process: &Process, hook: u16) -> Option<Rc<[u8]>> {
        match self.hooks.get(&(process.id, u32::from(hook))) {
            Some(name) => Some(Rc::clone(name)),
            None => self.find_hook(process, hook),
        }
    }

    #[cold]
    fn find_hook(&mut self, process: &Process, hook: u16) -> Option<Rc<[u8]>> {
        let entry = process.tables.hook(hook)?;
        let raw = process.string(entry.name).unwrap_or_default();
        let name: Rc<[u8]> = if raw.is_empty() {
            // A pointer that was wrapped: its name is that of what it points
            // to, wherever that was ever loaded.
            let frame = process
                .module_ever_at(entry.address)
                .and_then(|module| self.resolver.function(process, entry.address, module.load_ticks));
            match frame {
                Some(frame) => frame_name(process, &frame).into_bytes().into(),
                None => format!("{:#x}", entry.address).into_bytes().into(),
            }
        } else if self.demangle && raw.starts_with(b"_") {
            symbols::name(&raw, true).into_bytes().into()
        } else {
            raw
        };
        self.hooks.insert((process.id, u32::from(hook)), Rc::clone(&name));
        Some(name)
    }

    /// The function at `address`, or its module and offset, or the address.
    pub(crate) fn routine(&mut self, process: &Process, address: u64, ticks: u64) -> String {
        match self.resolver.function(process, address, ticks) {
            Some(frame) => frame_name(process, &frame),
            None => format!("{address:#x}"),
        }
    }
}

/// What a frame is called: its function, its module and offset, its address.
pub(crate) fn frame_name(process: &Process, frame: &Frame) -> String {
    match (&frame.site.function, frame.module.and_then(|m| process.tables.modules().get(m as usize))) {
        (Some(function), _) => function.clone(),
        (None, Some(module)) => {
            format!("{}+{:#x}", symbols::utf8(base_name(&module.path)), frame.offset)
        }
        (None, None) => format!("{:#x}", frame.address),
    }
}

/// The last part of a path.
pub(crate) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}
