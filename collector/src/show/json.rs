//! Events as JSON, one object a line.

use std::io::{Result, Write};

use super::Printer;
use super::escape;
use super::fields::{Sink, fields};
use super::names::{Names, base_name};
use super::stacks::StackCache;
use crate::model::{Event, Process};
use crate::resolve::Stack;

/// Prints the objects of the contract.
pub(crate) struct JsonPrinter {
    line: Vec<u8>,
    stacks: StackCache,
    depth: usize,
}

impl JsonPrinter {
    /// `depth`: the most frames that are shown of a stack.
    pub(crate) fn new(depth: usize) -> JsonPrinter {
        JsonPrinter { line: Vec::new(), stacks: StackCache::default(), depth }
    }
}

impl Printer for JsonPrinter {
    fn event(
        &mut self,
        out: &mut dyn Write,
        names: &mut Names<'_>,
        process: &Process,
        event: &Event,
    ) -> Result<()> {
        let line = &mut self.line;
        line.clear();
        line.extend_from_slice(b"{\"ts_ns\":");
        push_number(line, event.ts_ns);
        line.extend_from_slice(b",\"pid\":");
        push_number(line, process.info.pid.into());
        line.extend_from_slice(b",\"tid\":");
        push_number(line, process.tid_of(event).into());
        line.extend_from_slice(b",\"kind\":\"");
        line.extend_from_slice(event.body.kind().name().as_bytes());
        line.push(b'"');
        fields(&mut JsonSink(line), names, process, event);
        if let Some(stack) = event.body.stack() {
            let depth = self.depth;
            let rendered =
                self.stacks.get(names.resolver, process, stack, event.ticks, |s| render(process, s, depth));
            line.extend_from_slice(&rendered.bytes);
            line.extend_from_slice(b",\"unwinder\":\"");
            line.extend_from_slice(stack.unwinder().name().as_bytes());
            line.push(b'"');
        }
        line.extend_from_slice(b"}\n");
        out.write_all(line)
    }

    fn stacks(&self) -> &StackCache {
        &self.stacks
    }
}

/// A stack's two fields, each with a comma before it.
fn render(process: &Process, stack: &Stack, depth: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 * stack.frames.len());
    out.extend_from_slice(b",\"stack\":[");
    for (i, frame) in stack.frames.iter().take(depth).enumerate() {
        out.extend_from_slice(if i == 0 { b"{\"addr\":\"" } else { b",{\"addr\":\"" });
        push_hex(&mut out, frame.address);
        out.push(b'"');
        let mut sink = JsonSink(&mut out);
        if let Some(module) = frame.module.and_then(|m| process.tables.modules().get(m as usize)) {
            sink.text("module", base_name(&module.path));
            sink.hex("offset", frame.offset);
        }
        if let Some(function) = &frame.site.function {
            sink.text("symbol", function.as_bytes());
        }
        if let Some(file) = &frame.site.file {
            sink.text("file", file.as_bytes());
        }
        if let Some(line) = frame.site.line {
            sink.number("line", line.into());
        }
        sink.flag("inlined", frame.site.inlined);
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"stack_status\":");
    escape::json(stack.status.as_bytes(), &mut out);
    out
}

/// Appends fields, each with a comma before it.
pub(crate) struct JsonSink<'o>(pub(crate) &'o mut Vec<u8>);

impl JsonSink<'_> {
    #[inline]
    pub(crate) fn key(&mut self, key: &'static str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

impl Sink for JsonSink<'_> {
    #[inline]
    fn text(&mut self, key: &'static str, value: &[u8]) {
        self.key(key);
        escape::json(value, self.0);
    }
    #[inline]
    fn word(&mut self, key: &'static str, value: &'static str) {
        self.key(key);
        self.0.push(b'"');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'"');
    }
    #[inline]
    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_number(self.0, value);
    }
    fn hex(&mut self, key: &'static str, value: u64) {
        self.key(key);
        self.0.push(b'"');
        push_hex(self.0, value);
        self.0.push(b'"');
    }
    #[inline]
    fn duration_ns(&mut self, key: &'static str, value: u64) {
        self.number(key, value);
    }
    fn time_ns(&mut self, key: &'static str, value: u64) {
        self.number(key, value);
    }
    fn flag(&mut self, key: &'static str, value: bool) {
        self.key(key);
        self.0.extend_from_slice(if value { b"true" } else { b"false" });
    }
}

#[inline]
pub(crate) fn push_number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `0x` and the number without leading zeros.
pub(crate) fn push_hex(out: &mut Vec<u8>, value: u64) {
    // Writing to a vector can't fail.
    let _ = write!(out, "{value:#x}");
}

/// An object whose fields `fill` appends, each with a comma before it.
pub(crate) fn object(out: &mut Vec<u8>, fill: impl FnOnce(&mut JsonSink<'_>)) {
    let at = out.len();
    fill(&mut JsonSink(out));
    match out.get_mut(at) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

/// A field with a list of objects.
pub(crate) fn list<T>(
    sink: &mut JsonSink<'_>,
    key: &'static str,
    items: impl IntoIterator<Item = T>,
    mut fill: impl FnMut(&mut JsonSink<'_>, T),
) {
    sink.key(key);
    sink.0.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            sink.0.push(b',');
        }
        object(sink.0, |sink| fill(sink, item));
    }
    sink.0.push(b']');
}
