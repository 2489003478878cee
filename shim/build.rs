//! Links `libtraceshim.so` so that its constructor runs before all others, and
//! that it means itself by its own names.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // What other libraries' constructors call back is hooked by then.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,initfirst");
    // An entry's address is that of ours, also where another preloaded library
    // has a function of the same name and comes first: it may ask us for what
    // comes next.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions");
}
