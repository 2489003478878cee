//! The collector.
#![forbid(unsafe_code)]

mod input;
mod model;
mod show;
mod symbols;
mod trace;

fn main() {
    let _ = input::open(&[]);
}
