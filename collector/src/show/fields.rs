//! What each kind of event says, once for every output.

use traceshim_ring::layout::Ref;

use crate::model::{Body, Event, Process};
use crate::show::names::Names;

/// Takes the fields of an event, in order.
pub(crate) trait Sink {
    /// Text from the traced program or from files.
    fn text(&mut self, key: &'static str, value: &[u8]);
    /// A word of ours, which needs no escaping.
    fn word(&mut self, key: &'static str, value: &'static str);
    /// A count or a number that names something.
    fn number(&mut self, key: &'static str, value: u64);
    /// An address or a pattern of bits.
    fn hex(&mut self, key: &'static str, value: u64);
    /// A span of time.
    fn duration_ns(&mut self, key: &'static str, value: u64);
    /// A moment.
    fn time_ns(&mut self, key: &'static str, value: u64);
    /// Yes or no.
    fn flag(&mut self, key: &'static str, value: bool);
}

/// Hands what `event` says to `sink`; the stack is not among it. What isn't
/// known is left out.
#[inline]
pub(crate) fn fields(sink: &mut impl Sink, names: &mut Names<'_>, process: &Process, event: &Event) {
    match event.body {
        Body::ThreadBirth { origin, child, start_routine, .. } => {
            if let Some(child) = process.thread(child) {
                sink.number("child_tid", child.tid.into());
            }
            sink.word("origin", origin.name());
            routine(sink, names, process, start_routine, event.ticks);
        }
        Body::ThreadStart { origin, name, creator, start_routine } => {
            sink.word("origin", origin.name());
            string(sink, process, "name", name);
            if let Some(creator) = process.thread(creator) {
                sink.number("creator_tid", creator.tid.into());
            }
            routine(sink, names, process, start_routine, event.ticks);
        }
        Body::ThreadExit { unwound } => how(sink, unwound),
        Body::ThreadName { target, name } => {
            string(sink, process, "name", name);
            if let Some(target) = process.thread(target) {
                sink.number("target_tid", target.tid.into());
            }
        }
        Body::CallbackEnter { hook, depth, .. } => {
            function(sink, names, process, hook);
            sink.number("depth", depth.into());
        }
        Body::CallbackExit { hook, duration_ns, unwound } => {
            function(sink, names, process, hook);
            if let Some(duration_ns) = duration_ns {
                sink.duration_ns("duration_ns", duration_ns);
            }
            how(sink, unwound);
        }
        Body::Log { category, ref text, .. } => {
            string(sink, process, "category", category);
            sink.text("message", text);
        }
        Body::RegionBegin { name, .. } | Body::RegionEnd { name, .. } => {
            string(sink, process, "name", name);
        }
        Body::TaskBegin { name, id, parent, .. } => {
            string(sink, process, "name", name);
            sink.number("id", id);
            if parent != 0 {
                sink.number("parent", parent);
            }
        }
        Body::TaskEnd { id, .. } => sink.number("id", id),
        Body::ModuleLoad { module } | Body::ModuleUnload { module } => {
            if let Some(module) = process.tables.module_with(module) {
                sink.text("module", &module.path);
                sink.hex("start", module.start);
                sink.hex("end", module.end);
                sink.flag("host", module.is_host);
            }
        }
        Body::Fork { child_pid } => sink.number("child_pid", child_pid.into()),
        Body::Exec { path } => string(sink, process, "path", path),
        Body::Lost { count, from_ns, to_ns, .. } => {
            sink.number("count", count);
            sink.time_ns("from_ns", from_ns);
            sink.time_ns("to_ns", to_ns);
        }
        Body::Unknown { kind } => sink.number("code", kind.into()),
    }
}

fn string(sink: &mut impl Sink, process: &Process, key: &'static str, at: Ref) {
    if let Some(text) = process.string(at) {
        sink.text(key, &text);
    }
}

fn how(sink: &mut impl Sink, unwound: bool) {
    sink.word("how", if unwound { "unwound" } else { "return" });
}

fn function(sink: &mut impl Sink, names: &mut Names<'_>, process: &Process, hook: u16) {
    if let Some(name) = names.hook(process, hook) {
        sink.text("function", &name);
    }
}

fn routine(sink: &mut impl Sink, names: &mut Names<'_>, process: &Process, address: u64, ticks: u64) {
    if address != 0 {
        sink.text("start_routine", names.routine(process, address, ticks).as_bytes());
    }
}
