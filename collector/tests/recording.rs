//! `record`, on commands that need no shim: what it passes on, and what it
//! says where nothing is traced.

mod common;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Any library will do as the shim of a command that isn't looked into.
fn some_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().find_map(|line| line.split_whitespace().nth(5).filter(|p| p.contains("libc.so")));
    libc.expect("a libc").into()
}

fn record(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collector"));
    command
        .arg("record")
        .args(args)
        .current_dir(dir)
        .env("TRACESHIM_LIBRARY", some_library())
        .env("TMPDIR", dir)
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("TRACESHIM_DIR");
    command
}

fn run(args: &[&str]) -> (Output, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let output = record(dir.path(), args).output().unwrap();
    (output, dir)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn exit_status_and_output_are_the_commands() {
    let (output, dir) = run(&["--", "sh", "-c", "echo out; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out\n");
    assert!(stderr(&output).contains("nothing was recorded: "), "{}", stderr(&output));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [OsStr::new("traceshim.trace")]);
    let (output, _dir) = run(&["--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(128 + 9));
}

#[test]
fn an_empty_trace_is_a_trace() {
    let (_, dir) = run(&["-o", "t", "--", "true"]);
    let trace = dir.path().join("t");
    assert_eq!(common::stdout(&[&"dump", &trace]), "");
    assert_eq!(common::stdout(&[&"stats", &trace]), "");
}

#[test]
fn with_the_trace_on_stdout_the_commands_output_is_elsewhere() {
    let (output, _dir) = run(&["-o", "-", "--", "echo", "hello"]);
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"TRCTRACE"));
    assert!(stderr(&output).contains("hello\n"));
}

#[test]
fn the_environment_is_set_and_what_was_preloaded_stays() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo \"$LD_PRELOAD|$TRACESHIM_UNWINDER|$TRACESHIM_CALLBACK_ARGS|$TRACESHIM_FOLLOW\"; \
                  stat -c %a \"$TRACESHIM_DIR\"";
    let args = ["--unwinder", "table", "--callback-arg", "qsort:4,bsearch:5", "--no-follow", "--"];
    let mut command = record(dir.path(), &args);
    command.args(["sh", "-c", script]).env("LD_PRELOAD", some_library());
    let output = command.output().unwrap();
    let library = some_library().canonicalize().unwrap();
    let expected =
        format!("{}:{}|table|qsort:4,bsearch:5|0\n700\n", library.display(), some_library().display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn bad_options_are_usage_errors_and_nothing_runs() {
    for args in [
        &["--unwinder", "magic", "--", "touch", "ran"][..],
        &["--ring-size", "12 apples", "--", "touch", "ran"],
        &["--callback-arg", "qsort:0", "--", "touch", "ran"],
        // Not a command's name.
        &["--callback-agr", "qsort:4", "--", "touch", "ran"],
        &["--"],
    ] {
        let (output, dir) = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let (output, _dir) = run(&["--unwinder", "magic", "--", "true"]);
    assert!(stderr(&output).starts_with("collector: --unwinder magic: must be 'auto'"));
}

#[test]
fn what_cannot_be_done_is_said() {
    let (output, _dir) = run(&["--", "/no/such/command"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "collector: /no/such/command: No such file or directory (os error 2)\n");
    let (output, _dir) = run(&["-o", "/no/such/dir/t", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("collector: /no/such/dir/t: "));
    let dir = tempfile::tempdir().unwrap();
    let output = record(dir.path(), &["--", "true"]).env("TRACESHIM_LIBRARY", "/no/lib.so").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("collector: TRACESHIM_LIBRARY=/no/lib.so: "));
}

#[test]
fn a_trace_that_cannot_be_written_leaves_the_command_alone() {
    let (output, _dir) = run(&["-o", "/dev/full", "--", "sh", "-c", "echo ran; exit 3"]);
    let code = output.status.code();
    assert!(code == Some(1) && output.stdout.is_empty() || code == Some(3) && output.stdout == b"ran\n");
    assert!(stderr(&output).contains("collector: "), "{}", stderr(&output));
}

/// Records a shell that waits for `signal`; sends it to the recording, and to
/// the shell too where `to_both`.
fn signalled(signal: &str, to_both: bool) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("trap 'exit 42' {signal}; echo ready; while :; do sleep 0.01; done");
    let mut child = record(dir.path(), &["-o", "t", "--", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let command = children.split_whitespace().next().unwrap().to_owned();
    let mut kill = Command::new("kill");
    kill.arg(format!("-{signal}")).arg(pid.to_string());
    if to_both {
        kill.arg(command);
    }
    assert!(kill.status().unwrap().success());
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(42), None), "{signal} {to_both}");
    assert_eq!(common::stdout(&[&"dump", &dir.path().join("t")]), "");
}

#[test]
fn signals_end_the_command_and_the_trace_is_written() {
    // As a terminal does it: everybody in the group gets it.
    signalled("INT", true);
    signalled("TERM", true);
    // As `kill` and service managers do it.
    signalled("TERM", false);
    if ignores_hangup() {
        eprintln!("skipped: HUP: ignored here, and a shell can't trap what it was started with ignoring");
        return;
    }
    signalled("HUP", false);
}

/// Whether this process was started so (under `nohup`, say).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    u64::from_str_radix(ignored, 16).unwrap() & 1 != 0
}

#[test]
fn a_static_program_is_named_as_such_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("app.c"), "int main(void) { return 5; }\n").unwrap();
    let compile = Command::new("cc").args(["-static", "-o", "app", "app.c"]).current_dir(dir.path()).output();
    if !compile.unwrap().status.success() {
        eprintln!("skipped: no static libc here");
        return;
    }
    let output = record(dir.path(), &["--", "./app"]).output().unwrap();
    let stderr = stderr(&output);
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr.contains("./app is statically linked"), "{stderr}");
    assert!(stderr.contains("nothing was recorded: "), "{stderr}");
}

/// A shell that ignores it starts the collector, which starts a shell that sends it
/// to itself.
#[test]
fn the_command_ignores_a_closed_pipe_if_we_were_started_so() {
    for (before, status) in [("trap '' PIPE;", Some(0)), ("", Some(128 + 13))] {
        let dir = tempfile::tempdir().unwrap();
        let record = record(dir.path(), &[]);
        let script = format!("{before} exec \"$0\" record -- sh -c 'kill -PIPE $$; true'");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(record.get_program()).current_dir(dir.path());
        for (name, value) in record.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let output = shell.output().unwrap();
        assert_eq!(output.status.code(), status, "{before:?} {}", stderr(&output));
    }
}

#[test]
fn a_trace_is_one_recordings_and_this_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("t");
    std::fs::write(&trace, "something older").unwrap();
    std::fs::set_permissions(&trace, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut first =
        record(dir.path(), &["-o", "t", "--", "sleep", "60"]).stderr(Stdio::null()).spawn().unwrap();
    while std::fs::read(&trace).unwrap().starts_with(b"something")
        || std::fs::read(&trace).unwrap().is_empty()
    {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(trace.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let second = record(dir.path(), &["-o", "t", "--", "true"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("t: another recording writes to it"), "{}", stderr(&second));
    // It ends the command, too.
    Command::new("kill").arg(first.id().to_string()).status().unwrap();
    first.wait().unwrap();
}
