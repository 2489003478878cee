//! Processes that leave a recording: by becoming another user, by another root
//! directory, by living longer than it. Needs root for the first two.

mod common;
mod traced;

use std::fs::{Permissions, read_dir, set_permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::events;
use traced::library;

/// Forks; the child leaves as it is told, makes a thread, and executes what
/// comes after, if anything.
const LEAVER: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static void *run(void *a) { return a; }
int main(int argc, char **argv)
{
    int status = 1;
    pid_t child = fork();
    if (child == 0) {
        int failed = strcmp(argv[1], "root") == 0 ? chroot(argv[2]) : setuid((uid_t)atoi(argv[2]));
        pthread_t thread;
        if (failed || pthread_create(&thread, 0, run, 0) || pthread_join(thread, 0))
            return 1;
        if (argc > 3)
            execv(argv[3], argv + 3);
        puts("done");
        return argc > 3;
    }
    waitpid(child, &status, 0);
    return status != 0;
}
"#;

/// The program above, in a directory into which everybody can look.
fn compiled(dir: &Path) -> PathBuf {
    set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    let (source, program) = (dir.join("leaver.c"), dir.join("leaver"));
    std::fs::write(&source, LEAVER).unwrap();
    assert!(
        Command::new("cc").arg("-pthread").arg("-o").args([&program, &source]).status().unwrap().success()
    );
    program
}

/// `record` with its session in a directory of its own in `dir`.
fn record(dir: &Path, command: &[&str]) -> Output {
    let place = dir.join("sessions");
    std::fs::create_dir_all(&place).unwrap();
    let mut record = Command::new(env!("CARGO_BIN_EXE_collector"));
    record.arg("record").arg("-o").arg(dir.join("t")).arg("--").args(command);
    let shim = dir.join("libtraceshim.so");
    let shim = if shim.exists() { shim } else { library() };
    record.env("TRACESHIM_LIBRARY", shim).env("TRACESHIM_DIR", &place).output().unwrap()
}

fn births(dir: &Path) -> usize {
    events(&dir.join("t")).iter().filter(|event| event["kind"] == "thread_birth").count()
}

/// It ran as without the tracer: nothing is said but by the collector.
fn assert_undisturbed(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"done\n"[..]), "{stderr}");
    assert!(stderr.lines().all(|line| line.starts_with("collector: ")), "{stderr}");
}

#[test]
fn children_that_change_user_or_root_are_traced_and_those_they_execute_run_undisturbed() {
    let dir = tempfile::tempdir().unwrap();
    if dir.path().metadata().unwrap().uid() != 0 {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let program = compiled(dir.path());
    // The program that is executed must find the shim as any user.
    let shim = dir.path().join("libtraceshim.so");
    std::fs::copy(library(), &shim).unwrap();
    let (program, root) = (program.to_str().unwrap(), dir.path().to_str().unwrap());
    for arguments in [&["user", "54321"][..], &["root", root], &["user", "54321", program, "user", "54321"]] {
        let output = record(dir.path(), &[&[program][..], arguments].concat());
        assert_undisturbed(&output);
        assert_eq!(births(dir.path()), 1, "{arguments:?}");
        assert_eq!(read_dir(dir.path().join("sessions")).unwrap().count(), 0, "{arguments:?}");
    }
    assert!(!dir.path().join("tmp").exists() && !dir.path().join("dev").exists());
}

#[test]
fn who_outlives_a_recording_runs_undisturbed_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (begin, end) = (dir.path().join("begin"), dir.path().join("end"));
    for pipe in [&begin, &end] {
        assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    }
    let program = compiled(dir.path());
    let uid = dir.path().metadata().unwrap().uid().to_string();
    // What it has of `record`'s own pipes would keep this test waiting.
    let script = format!(
        "exec >/dev/null 2>&1; (read line <{}; exec {} user {uid}) >{} 2>&1 &",
        begin.display(),
        program.display(),
        end.display()
    );
    assert!(record(dir.path(), &["sh", "-c", &script]).status.success());
    let sessions = || read_dir(dir.path().join("sessions")).unwrap().count();
    assert_eq!(sessions(), 0);

    let mut said = String::new();
    let mut end = std::fs::File::open(&end).unwrap();
    std::fs::OpenOptions::new().write(true).open(&begin).unwrap().write_all(b"\n").unwrap();
    end.read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), sessions()), ("done\n", 0));
}
