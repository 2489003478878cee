//! Builds the C code that the tests walk through.

fn main() {}
