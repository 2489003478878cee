//! The collector. 
fn main() {}
