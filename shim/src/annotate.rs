//! What the program itself says: the functions of `traceshim.h`.
#![allow(unsafe_code)]

use crate::arch::{self, Context, event_entry};
use crate::callbacks;
use crate::recording::{Recording, inside};
use crate::state::ThreadState;
use std::ffi::CStr;
use traceshim_ring::record::{MORE, kind, pair};

event_entry! {
    /// Records a message under a category.
    traceshim_log => on_log
}
event_entry! {
    /// Begins a region of this thread's time.
    traceshim_region_begin => on_region_begin
}
event_entry! {
    /// Ends the innermost region of a name, or the innermost of all.
    traceshim_region_end => on_region_end
}
event_entry! {
    /// Begins a task and returns its number.
    traceshim_task_begin => on_task_begin
}
event_entry! {
    /// Begins a task within another one.
    traceshim_task_begin_in => on_task_begin_in
}
event_entry! {
    /// Ends a task, from any thread.
    traceshim_task_end => on_task_end
}
event_entry! {
    /// 1 where events are recorded.
    traceshim_enabled => on_enabled
}
event_entry! {
    /// A trampoline for a function pointer.
    traceshim_wrap => on_wrap
}

/// How much of a message one record carries.
const SEGMENT_BYTES: usize = 256;

/// # Safety
/// `text` is null, or a string that lives as long as the result is used.
unsafe fn bytes<'a>(text: u64) -> &'a [u8] {
    if text == 0 {
        return b"";
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text as *const libc::c_char) }.to_bytes()
}

macro_rules! handler {
    ($name:ident, $what:path) => {
        unsafe extern "C-unwind" fn $name(context: *mut Context, thread: *mut ThreadState) {
            // SAFETY: the entry's own context.
            let context = unsafe { &mut *context };
            // SAFETY: called by the gate.
            unsafe { inside(thread, |recording| $what(recording, context)) }
        }
    };
}
handler!(on_log, log);
handler!(on_region_begin, region_begin);
handler!(on_region_end, region_end);
handler!(on_task_begin, task_begin);
handler!(on_task_begin_in, task_begin_in);
handler!(on_task_end, task_end);
handler!(on_enabled, enabled);

/// The stack from the annotation's caller on, and the reference of a name.
fn place(recording: &mut Recording<'_>, context: &Context, name: u64) -> u64 {
    let caller = context.caller();
    recording.repair(caller.sp);
    let stack = recording.stack(&caller, None, false);
    // Without a name: the collector knows which region is the innermost.
    let name = match name {
        0 => 0,
        // SAFETY: the program passes a string.
        name => recording.tracer.ring.string(unsafe { bytes(name) }),
    };
    // The event's own time, and not that of taking its stack.
    recording.ticks = recording.tracer.clock.now();
    pair(stack.0, name)
}

fn log(recording: &mut Recording<'_>, context: &mut Context) {
    let place = place(recording, context, context.args[0]);
    // SAFETY: the program passes a string.
    let mut rest = unsafe { bytes(context.args[1]) };
    let (mut kind, mut first) = (kind::LOG, Some(place));
    loop {
        let (now, later) = rest.split_at(rest.len().min(SEGMENT_BYTES));
        let mut body = [0u64; 1 + SEGMENT_BYTES / 8];
        let mut len = 0;
        for word in first.take().into_iter().chain(now.chunks(8).map(word_of)) {
            if let Some(place) = body.get_mut(len) {
                *place = word;
                len += 1;
            }
        }
        let arg = now.len() as u16 | if later.is_empty() { 0 } else { MORE };
        recording.event(kind, arg, body.get(..len).unwrap_or_default());
        if later.is_empty() {
            return;
        }
        (kind, rest) = (kind::TEXT, later);
    }
}

fn word_of(part: &[u8]) -> u64 {
    part.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

fn region_begin(recording: &mut Recording<'_>, context: &mut Context) {
    let place = place(recording, context, context.args[0]);
    recording.event(kind::REGION_BEGIN, 0, &[place]);
}

fn region_end(recording: &mut Recording<'_>, context: &mut Context) {
    let place = place(recording, context, context.args[0]);
    recording.event(kind::REGION_END, 0, &[place]);
}

fn begin_task(recording: &mut Recording<'_>, context: &mut Context, parent: u64) {
    let place = place(recording, context, context.args[0]);
    recording.thread.tasks = recording.thread.tasks.wrapping_add(1);
    let id = pair(recording.thread.tasks, recording.thread.uid);
    context.result = id;
    recording.event(kind::TASK_BEGIN, 0, &[place, id, parent]);
}

fn task_begin(recording: &mut Recording<'_>, context: &mut Context) {
    begin_task(recording, context, 0);
}

fn task_begin_in(recording: &mut Recording<'_>, context: &mut Context) {
    begin_task(recording, context, context.args[1]);
}

fn task_end(recording: &mut Recording<'_>, context: &mut Context) {
    let task = context.args[0];
    if task != 0 {
        let place = place(recording, context, 0);
        recording.event(kind::TASK_END, 0, &[place, task]);
    }
}

fn enabled(_: &mut Recording<'_>, context: &mut Context) {
    context.result = 1;
}

/// Whatever happens, the program gets a function that does what its own does.
unsafe extern "C-unwind" fn on_wrap(context: *mut Context, thread: *mut ThreadState) {
    // SAFETY: the entry's own context.
    let context = unsafe { &mut *context };
    let function = context.args[0];
    context.result = function;
    if function == 0 || arch::is_stub(function) {
        return;
    }
    // SAFETY: called by the gate.
    unsafe {
        inside(thread, |recording| {
            // Without a name: the collector finds it from the address.
            if let Some(stub) = callbacks::trampoline(recording.tracer, function, b"") {
                context.result = stub;
            }
        });
    }
}
