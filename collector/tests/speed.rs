//! How fast events are read and printed. Run by hand, in release:
//! `cargo test --release -p traceshim-collector --test speed -- --ignored --nocapture`

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::Writer;
use traceshim_ring::record::Origin;
use traceshim_ring::stack::StackStatus;

#[test]
#[ignore = "a measurement"]
fn events_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let w = Writer::new(dir.path(), 4_000_000, 256 << 20);
    let mut threads: Vec<_> = (0..4).map(|n| w.thread(4_000_000 + n, Origin::C, 0)).collect();
    let stacks: Vec<_> = (0..64)
        .map(|n| {
            let frames: Vec<u64> = (0..7).map(|i| 0x2000 + n * 16 + i * 64).collect();
            w.stack(&frames, StackStatus::Complete)
        })
        .collect();
    let mut events = 0u64;
    'full: loop {
        for thread in &mut threads {
            for &stack in &stacks {
                if !(w.enter(thread, 0, stack) && w.exit(thread, 0)) {
                    break 'full;
                }
                events += 2;
            }
        }
    }
    let time = |args: &[&str]| {
        let best = (0..3).map(|_| {
            let begin = Instant::now();
            let mut command = Command::new(env!("CARGO_BIN_EXE_collector"));
            let status =
                command.args(args).arg(w.path()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(status.unwrap().success());
            begin.elapsed()
        });
        best.min().unwrap_or(Duration::MAX)
    };
    for args in [
        &["stats", "--no-symbols"][..],
        &["dump", "--no-symbols"],
        &["dump", "--no-symbols", "--format", "json"],
    ] {
        let took = time(args);
        let rate = events as f64 / took.as_secs_f64() / 1e6;
        println!("{args:?}: {events} events in {took:?}: {rate:.1} million a second");
    }
}
