//! What was traced, as processes, threads and events.
//!
//! A [`Process`] is an index over pieces: which thread wrote which part of
//! them. A [`Cursor`] walks one thread's parts and turns records into
//! [`Event`]s; [`merge()`] walks many threads, or processes, in order of time.
//! Events are made while walking and never kept.

mod callbacks;
mod cursor;
mod event;
mod mapped;
mod merge;
mod process;
mod store;
mod timeline;

pub(crate) use cursor::Cursor;
pub(crate) use event::{Body, Event, Kind};
pub(crate) use merge::merge;
pub(crate) use process::{Indexer, Life, Process, Thread};
pub(crate) use store::Store;
