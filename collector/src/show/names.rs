//! Names of functions that events refer to otherwise than by stacks.

use std::rc::Rc;

use crate::model::Process;
use crate::resolve::{Frame, Resolver};
use crate::symbols;

/// Looks up names, each once.
pub(crate) struct Names<'r> {
    /// What names addresses.
    pub(crate) resolver: &'r mut Resolver,
    hooks: Vec<Vec<Option<Rc<[u8]>>>>,
    demangle: bool,
}

impl<'r> Names<'r> {
    /// Names from `resolver`, demangled as it does it.
    pub(crate) fn new(resolver: &'r mut Resolver) -> Names<'r> {
        let demangle = resolver.demangles();
        Names { resolver, hooks: Vec::new(), demangle }
    }

    /// The function behind hook `hook` of `process`.
    #[inline]
    pub(crate) fn hook(&mut self, process: &Process, hook: u16) -> Option<Rc<[u8]>> {
        let known = self.hooks.get(process.id as usize).and_then(|hooks| hooks.get(usize::from(hook)));
        match known {
            Some(Some(name)) => Some(Rc::clone(name)),
            _ => self.find_hook(process, hook),
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
        let number = process.id as usize;
        if self.hooks.len() <= number {
            self.hooks.resize(number + 1, Vec::new());
        }
        let hooks = &mut self.hooks[number];
        if hooks.len() <= usize::from(hook) {
            hooks.resize(usize::from(hook) + 1, None);
        }
        hooks[usize::from(hook)] = Some(Rc::clone(&name));
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
