//! Links `libtraceshim.so` so that its constructor runs before all others.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // What other libraries' constructors call back is hooked by then.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,initfirst");
}
