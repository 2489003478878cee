//! Commands that start many processes, which don't end cleanly.

mod common;
mod traced;

use std::process::Command;

use common::{events, of_kind};
use traced::{fixture, library};

/// Records a script, under the limits that it begins with.
fn record_script(limit: &str, script: &str, dir: &std::path::Path) -> (String, std::path::PathBuf) {
    let trace = dir.join("t");
    let output = Command::new("sh")
        .args(["-c", &format!("{limit}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_collector")])
        .args(["record", "--ring-size", "128K", "-o"])
        .arg(&trace)
        .args(["--", "sh", "-c", script, "sh"])
        .arg(fixture("spin", "O2-fp"))
        .env("TRACESHIM_LIBRARY", library())
        .env("TRACESHIM_DIR", dir)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("left in"), "{stderr}");
    (String::from_utf8(output.stdout).unwrap(), trace)
}

#[test]
fn rings_of_killed_processes_are_finished_while_others_run() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        for i in 1 2 3 4 5; do
            "$1" 10000 - & child=$!
            sleep 0.3
            kill -9 $child
            wait $child
        done
        for i in $(seq 100); do
            set -- "$TRACESHIM_DIR"/spin.*.ring
            [ -e "$1" ] || break
            sleep 0.1
        done
        echo left: $(ls "$TRACESHIM_DIR" | grep -c spin)"#;
    let (stdout, trace) = record_script(":", script, dir.path());
    assert!(stdout.ends_with("left: 0\n"), "{stdout}");
    let mut pids: Vec<_> =
        of_kind(&events(&trace), "callback_enter").iter().map(|e| e["pid"].as_u64().unwrap()).collect();
    pids.dedup();
    assert_eq!(pids.len(), 5, "{pids:?}");
}

#[test]
fn more_rings_than_can_be_open_at_once_are_all_read() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        for i in $(seq 70); do
            "$1" 10000 - & child=$!
            until [ -e "$TRACESHIM_DIR"/spin.$child.ring ]; do sleep 0.01; done
            kill -9 $child
            wait $child
        done
        true"#;
    let (_, trace) = record_script("ulimit -n 40", script, dir.path());
    let stats = common::stdout(&[&"stats", &"--format", &"json", &trace]);
    assert_eq!(stats.matches(r#"/spin","state":"ended without notice""#).count(), 70, "{stats}");
}
