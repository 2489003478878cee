//! Events as text: a line for the event, then for each frame the function on
//! a line and, after a tab, its file and line.

use std::io::{Result, Write};

use super::Printer;
use super::escape;
use super::fields::{Sink, fields};
use super::json::{push_hex, push_number};
use super::names::{Names, base_name};
use super::stacks::StackCache;
use super::time::{Clock, duration, seconds};
use crate::model::{Event, Process};
use crate::resolve::Stack;

/// Prints for people.
pub(crate) struct TextPrinter {
    line: Vec<u8>,
    stacks: StackCache,
    depth: usize,
    clock: Clock,
    color: bool,
}

impl TextPrinter {
    /// `depth`: the most frames that are shown of a stack.
    pub(crate) fn new(depth: usize, clock: Clock, color: bool) -> TextPrinter {
        TextPrinter { line: Vec::new(), stacks: StackCache::default(), depth, clock, color }
    }
}

const BOLD: &[u8] = b"\x1b[1m";
const DIM: &[u8] = b"\x1b[2m";
const PLAIN: &[u8] = b"\x1b[0m";

impl Printer for TextPrinter {
    fn event(
        &mut self,
        out: &mut dyn Write,
        names: &mut Names<'_>,
        process: &Process,
        event: &Event,
    ) -> Result<()> {
        let line = &mut self.line;
        line.clear();
        seconds(line, self.clock.shown_ns(event.ts_ns));
        line.push(b' ');
        push_number(line, process.info.pid.into());
        line.push(b'/');
        push_number(line, process.tid_of(event).into());
        line.push(b' ');
        if self.color {
            line.extend_from_slice(BOLD);
        }
        line.extend_from_slice(event.body.kind().name().as_bytes());
        if self.color {
            line.extend_from_slice(PLAIN);
        }
        let origin_ns = self.clock.origin_ns();
        fields(&mut TextSink { out: line, origin_ns }, names, process, event);
        if let Some(stack) = event.body.stack() {
            line.extend_from_slice(b" [");
            line.extend_from_slice(stack.unwinder().name().as_bytes());
            line.extend_from_slice(b"]\n");
            let (depth, color) = (self.depth, self.color);
            let rendered = self
                .stacks
                .get(names.resolver, process, stack, event.ticks, |s| render(process, s, depth, color));
            line.extend_from_slice(&rendered.bytes);
        }
        line.push(b'\n');
        out.write_all(line)
    }

    fn stacks(&self) -> &StackCache {
        &self.stacks
    }
}

/// The frames, each on two lines, and why the stack ends early where it does.
fn render(process: &Process, stack: &Stack, depth: usize, color: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 * stack.frames.len());
    for frame in stack.frames.iter().take(depth) {
        let module = frame.module.and_then(|m| process.tables.modules().get(m as usize));
        match &frame.site.function {
            Some(function) => escape::text(function.as_bytes(), &mut out),
            None => push_hex(&mut out, frame.address),
        }
        if frame.site.inlined {
            out.extend_from_slice(b" (inlined)");
        }
        out.extend_from_slice(b"\n\t");
        if color {
            out.extend_from_slice(DIM);
        }
        match (&frame.site.file, module) {
            (Some(file), _) => {
                escape::text(file.as_bytes(), &mut out);
                out.push(b':');
                push_number(&mut out, frame.site.line.unwrap_or(0).into());
            }
            (None, Some(module)) => {
                escape::text(base_name(&module.path), &mut out);
                out.push(b'+');
                push_hex(&mut out, frame.offset);
            }
            (None, None) => out.extend_from_slice(b"?"),
        }
        if color {
            out.extend_from_slice(PLAIN);
        }
        out.push(b'\n');
    }
    if !stack.is_complete() {
        out.push(b'(');
        out.extend_from_slice(stack.status.as_bytes());
        out.extend_from_slice(b")\n");
    } else if stack.frames.len() > depth {
        let _ = writeln!(out, "({} more frames)", stack.frames.len() - depth);
    }
    out
}

struct TextSink<'o> {
    out: &'o mut Vec<u8>,
    origin_ns: u64,
}

impl TextSink<'_> {
    /// What an event is about stands bare, everything else after its name.
    #[inline]
    fn key(&mut self, key: &'static str) {
        self.out.push(b' ');
        let key = match key {
            "function" | "name" | "category" | "message" | "module" | "path" => return,
            "duration_ns" => "took",
            "from_ns" => "from",
            "to_ns" => "to",
            other => other,
        };
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b'=');
    }
}

impl Sink for TextSink<'_> {
    #[inline]
    fn text(&mut self, key: &'static str, value: &[u8]) {
        self.key(key);
        escape::text(value, self.out);
        if key == "category" {
            self.out.push(b':');
        }
    }
    #[inline]
    fn word(&mut self, key: &'static str, value: &'static str) {
        self.key(key);
        self.out.extend_from_slice(value.as_bytes());
    }
    #[inline]
    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_number(self.out, value);
    }
    fn hex(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_hex(self.out, value);
    }
    #[inline]
    fn duration_ns(&mut self, key: &'static str, value: u64) {
        self.key(key);
        duration(self.out, value);
    }
    fn time_ns(&mut self, key: &'static str, value: u64) {
        self.key(key);
        seconds(self.out, value.saturating_sub(self.origin_ns));
    }
    fn flag(&mut self, key: &'static str, value: bool) {
        if value {
            self.out.push(b' ');
            self.out.extend_from_slice(key.as_bytes());
        }
    }
}
