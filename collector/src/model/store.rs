//! Where a process's pieces are kept: in memory, or left in the trace file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use crate::show::{is_damaged, say_damaged};
use crate::trace;

/// The words of one piece.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    /// Of a ring, or of a trace from a pipe.
    Held(Rc<[u64]>),
    /// `words` words at `offset` in a trace file, checked when it was indexed.
    OnDisk {
        /// The trace.
        file: Rc<File>,
        /// Where the records begin, in bytes.
        offset: u64,
        /// How many words they have.
        words: u32,
    },
}

impl Store {
    /// How many words there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Store::Held(words) => words.len(),
            Store::OnDisk { words, .. } => *words as usize,
        }
    }

    /// Copies the words from `from` up to `to` into `buffer`. What can't be read
    /// any more is missing from its end.
    pub(crate) fn load(&self, from: u32, to: u32, buffer: &mut Vec<u64>) {
        buffer.clear();
        match self {
            Store::Held(words) => {
                buffer.extend_from_slice(words.get(from as usize..to as usize).unwrap_or_default());
            }
            Store::OnDisk { file, offset, words } => {
                let to = to.min(*words);
                let mut bytes = vec![0; to.saturating_sub(from) as usize * 8];
                let read = file.read_exact_at(&mut bytes, offset + u64::from(from) * 8);
                match read {
                    Ok(()) => buffer.extend(trace::words(&bytes)),
                    Err(error) if is_damaged() => drop(error),
                    Err(error) => say_damaged(format_args!(
                        "the trace can't be read any more: {error}; events are missing"
                    )),
                }
            }
        }
    }
}
