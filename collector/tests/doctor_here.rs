//! `doctor` on this machine, its words, and `record` when there is no callback.

mod asked;
mod common;
mod traced;

use std::path::Path;
use std::process::{Command, Output};

use asked::{blocked, doctor, full, gcc, report, said};
use traced::{fixture, library};

#[test]
fn this_machine_alone() {
    let dir = tempfile::tempdir().unwrap();
    let found = report(&mut doctor(dir.path(), &[], &[]));
    full(&found);
    assert!(said(&found.0, "note", "privileges").contains("no privileges are needed"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut in_file = doctor(dir.path(), &[], &[]);
    blocked(&report(in_file.env("TRACESHIM_DIR", &file)), "session", "file");
    let mut without_shim = doctor(dir.path(), &[], &[]);
    blocked(&report(without_shim.env("TRACESHIM_LIBRARY", "/no/lib.so")), "shim", "/no/lib.so");
    let huge = report(&mut doctor(dir.path(), &["--ring-size", "16G"], &[]));
    let free = huge.0["free_bytes"].as_u64().unwrap();
    match free < 16 << 30 {
        true => blocked(&huge, "space", "16.0 GB"),
        false => assert_ne!(said(&huge.0, "note", "space").is_empty(), free < 128 << 30),
    }
    let collector = env!("CARGO_BIN_EXE_collector");
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 1000; exec \"$0\" doctor --format json --ring-size 64M", collector]);
    limited.env("TRACESHIM_LIBRARY", library()).env("TRACESHIM_DIR", dir.path());
    blocked(&report(&mut limited), "limits", "RLIMIT_FSIZE");
}

#[test]
fn bad_options_are_usage_errors() {
    for args in [&["--callbacks", "a,,b"][..], &["--ring-size", "1"], &["--callback-preset", "nothing"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_collector")).arg("doctor").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[test]
fn people_are_told_in_sentences() {
    let program = fixture("founding", "O2-fp");
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_collector"));
    command.arg("doctor").arg("--").arg(&program);
    command.env("TRACESHIM_LIBRARY", library()).env("TRACESHIM_DIR", dir.path());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("host       founding: "), "{text}");
    assert!(text.contains("  host_called_from_c         libfounding.so  JUMP_SLOT\n"), "{text}");
    assert!(text.ends_with("\nEverything would be traced.\n"), "{text}");
}

fn recorded(dir: &Path, command: &[&str]) -> Output {
    let mut collector = Command::new(env!("CARGO_BIN_EXE_collector"));
    collector.args(["record", "--"]).args(command).current_dir(dir);
    collector.env("TRACESHIM_LIBRARY", library()).env("TRACESHIM_DIR", dir).output().unwrap()
}

#[test]
fn record_says_why_there_is_no_callback() {
    let dir = tempfile::tempdir().unwrap();
    let source = "#include <pthread.h>\nstatic void *f(void *p) { return p; }\n\
                  int main(int n, char **v) { (void)v; pthread_t t; if (n > 1 && !pthread_create(&t, 0, f, 0)) \
                  pthread_join(t, 0); return 7; }\n";
    gcc(dir.path(), "app", source, &["-pthread"]);
    for (command, nothing) in [(&["./app"][..], true), (&["./app", "thread"], false)] {
        let output = recorded(dir.path(), command);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(7), "{stderr}");
        let why = "no callback was seen: app exports no function: nothing of it can be called back by name; \
                   link it with -rdynamic (-Wl,--export-dynamic)\n";
        assert!(stderr.contains(why), "{stderr}");
        assert_eq!(stderr.contains("nothing was recorded: "), nothing, "{stderr}");
    }
    // A shell that starts a program isn't asked itself.
    let output = recorded(dir.path(), &["sh", "-c", "exec ./app thread"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no callback was seen: app exports no function")
    );

    // Pointers have a line of their own.
    let source =
        "#include <stdlib.h>\nint main(int n, char **v) { qsort(v, n, 8, (void *)main); return 0; }\n";
    gcc(dir.path(), "sorts", source, &[]);
    let output = recorded(dir.path(), &["./sorts"]);
    let why =
        "no callback was seen: callbacks that are handed to qsort aren't seen; --callback-preset libc\n";
    assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");

    let founding = fixture("founding", "O2-fp");
    let output = recorded(dir.path(), &[founding.to_str().unwrap()]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("no callback was seen"));
}
