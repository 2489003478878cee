//! Without the shim every fixture prints what it should and succeeds: what differs under the shim is the shim's doing.

use std::process::{Command, Stdio};

use c_fixtures::{FIXTURES, FLAG_SETS, expected_output, fixture};

fn run(name: &str, flag_set: &str, arguments: &[&str]) -> String {
    let path = fixture(name, flag_set);
    let output = Command::new(&path)
        .args(arguments)
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{name} {flag_set}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("fixtures print text")
}

#[test]
fn every_fixture_prints_what_it_should() {
    for fixture in FIXTURES {
        for flags in FLAG_SETS {
            let printed = run(fixture.name, flags.name, &[]);
            assert_eq!(printed, expected_output(fixture.name), "{} {}", fixture.name, flags.name);
        }
    }
}

#[test]
fn arguments_are_honoured() {
    assert_eq!(run("nested", "O2-fp", &["1"]), "depth 0\ndepth 1\ndepth 0\n");
    assert_eq!(
        run("storm", "O2-fp", &["9"]),
        "9 callbacks on threads that C made\n9 callbacks on threads that the host made\n"
    );
    assert_eq!(run("parallel", "O2-fp", &["2", "10"]), "2 threads, 20 callbacks\n");
    assert_eq!(run("annotate", "O2-fp-nopie", &["enabled"]).lines().last(), Some("enabled 0"));
}

#[test]
fn spin_tells_how_far_it_came() {
    let dir = std::env::temp_dir().join(format!("c-fixtures-spin-{}", std::process::id()));
    let progress = dir.to_str().expect("a temporary directory with a name in UTF-8");
    assert_eq!(run("spin", "O2-fp", &["5", progress, "3"]), "time is up\n");
    let bytes = std::fs::read(&dir).expect("spin made the file");
    std::fs::remove_file(&dir).expect("it is ours");
    assert_eq!(bytes.len(), 3 * 8);
    for thread in bytes.chunks(8) {
        assert_ne!(u64::from_ne_bytes(thread.try_into().expect("eight bytes")), 0);
    }
}
