//! A function's address is its identity, whatever the program was compiled with.

mod common;
mod traced;

use std::process::Command;

use common::{events, of_kind};
use traced::preloaded;

const HOST: &str = r#"
    typedef int step(int);
    int c_is_step(step *), c_calls(int);
    int host_step(int n) { return n; }
    int host_other(int n) { return n + 1; }
    int main(void) { return c_is_step(host_step) && !c_is_step(host_other) ? c_calls(42) : 1; }"#;

/// The library compares an address, and calls both functions.
const LIBRARY: &str = r#"
    typedef int step(int);
    int host_step(int), host_other(int);
    int c_is_step(step *given) { return given == host_step; }
    int c_calls(int n) { return host_other(host_step(n)) - n - 1; }"#;

#[test]
fn an_address_that_is_compared_is_the_hosts_also_where_its_entry_is_too_short_for_a_patch() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("host.c"), HOST).unwrap();
    std::fs::write(path("lib.c"), LIBRARY).unwrap();
    for flags in
        [&["-O0"][..], &["-O1"], &["-Os"], &["-O2"], &["-O1", "-fno-plt"], &["-O2", "-fcf-protection"]]
    {
        let gcc = |args: &[&str]| {
            let status = Command::new("gcc")
                .args(flags)
                .args(["-w", "-o"])
                .args(args)
                .current_dir(dir.path())
                .status();
            assert!(status.unwrap().success(), "{flags:?}");
        };
        gcc(&["libsteps.so", "lib.c", "-shared", "-fPIC"]);
        gcc(&["host", "host.c", "libsteps.so", "-rdynamic", "-Wl,-rpath,$ORIGIN"]);
        let rings = path(&flags.concat());
        let status = preloaded(path("host"), &rings).status().unwrap();
        assert!(status.success(), "{flags:?}: {status}");
        let events = events(&rings);
        let called = of_kind(&events, "callback_enter");
        assert!(called.iter().any(|event| event["function"] == "host_other"), "{flags:?}: {called:?}");
        // It is seen where it has more than three bytes, or padding behind them.
        if !["-O1", "-Os"].contains(&flags[0]) {
            assert!(called.iter().any(|event| event["function"] == "host_step"), "{flags:?}: {called:?}");
        }
    }
}
