//! What other users, and programs that become others, can do to a session.
//! Needs root, to act as somebody else.

mod common;
mod traced;

use std::fs::{Permissions, create_dir, read_dir, set_permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{events, sample};
use traced::{fixture, library};

/// A user whom nobody has made; numbers are all that counts.
const OTHER: u32 = 54_321;

/// A directory that everybody can look into, with the shim and a program that
/// any user can load. `None`: this test can't run here.
fn stage() -> Option<(tempfile::TempDir, PathBuf, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    if dir.path().metadata().unwrap().uid() != 0 {
        eprintln!("skipped: only root can act as another user");
        return None;
    }
    set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let shim = dir.path().join("libtraceshim.so");
    std::fs::copy(library(), &shim).unwrap();
    let source = "#include <pthread.h>\n#include <stdio.h>\n\
                  static void *run(void *a) { return a; }\n\
                  int main(void) { pthread_t t; pthread_create(&t, 0, run, 0); pthread_join(t, 0); \
                  puts(\"done\"); return 0; }\n";
    std::fs::write(dir.path().join("app.c"), source).unwrap();
    let app = dir.path().join("app");
    let compiled = Command::new("cc").arg("-o").args([&app, &dir.path().join("app.c")]).status().unwrap();
    assert!(compiled.success());
    Some((dir, shim, app))
}

/// Runs a shell command as `uid`, with the shim before whatever it execs.
fn run_as(uid: u32, shim: &Path, environment: &[(&str, &Path)], script: &str) -> (Output, String) {
    let id = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "sh", "-c", script]);
    command.env_remove("XDG_RUNTIME_DIR").env_remove("TRACESHIM_DIR").env("SHIM", shim);
    command.envs(environment.iter().copied());
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stderr)
}

fn made_dir(dir: &Path, name: &str, mode: u32, owner: u32) -> PathBuf {
    let path = dir.join(name);
    create_dir(&path).unwrap();
    set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    chown(&path, Some(owner), Some(owner)).unwrap();
    path
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_ran(output: &Output, stderr: &str, said: &str) {
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"done\n"[..]), "{stderr}");
    match said.is_empty() {
        true => assert_eq!(stderr, ""),
        false => assert!(stderr.lines().count() == 1 && stderr.contains(said), "{stderr}"),
    }
}

#[test]
fn directories_that_others_prepared_are_refused_in_words() {
    let Some((dir, shim, app)) = stage() else { return };
    let app = format!("LD_PRELOAD=$SHIM exec {}", app.display());
    // In the place of the default directory.
    for (prepared, said) in [
        ("ours", ""),
        ("theirs", "belongs to user 0 and has mode 0700: must belong to user 54321"),
        (
            "open",
            "belongs to user 54321 and has mode 0770: must belong to user 54321 and be writable by nobody",
        ),
        ("link", "is a link: a session directory must be a directory"),
    ] {
        let runtime = made_dir(dir.path(), prepared, 0o700, OTHER);
        let place = runtime.join("traceshim");
        match prepared {
            "theirs" => drop(made_dir(&runtime, "traceshim", 0o700, 0)),
            "open" => drop(made_dir(&runtime, "traceshim", 0o770, OTHER)),
            "link" => symlink(made_dir(&runtime, "elsewhere", 0o700, OTHER), &place).unwrap(),
            _ => {}
        }
        let (output, stderr) = run_as(OTHER, &shim, &[("XDG_RUNTIME_DIR", &runtime)], &app);
        assert_ran(&output, &stderr, said);
        assert_eq!(names(&place).len(), usize::from(said.is_empty()), "{prepared}");
        // The collector follows the same rule.
        let collector = format!("exec {} stats --no-symbols", env!("CARGO_BIN_EXE_collector"));
        let (output, stderr) = run_as(OTHER, &shim, &[("XDG_RUNTIME_DIR", &runtime)], &collector);
        assert_eq!(output.status.success(), said.is_empty(), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    // Where TRACESHIM_DIR names it.
    for (name, mode, owner, said) in [
        ("n1", 0o755, OTHER, ""),
        ("n2", 0o1777, 0, ""),
        ("n3", 0o777, 0, "has mode 0777, so that anybody may replace files in it"),
        ("n4", 0o755, 0, "Permission denied"),
    ] {
        let place = made_dir(dir.path(), name, mode, owner);
        let (output, stderr) = run_as(OTHER, &shim, &[("TRACESHIM_DIR", &place)], &app);
        assert_ran(&output, &stderr, said);
        assert_eq!(names(&place).len(), usize::from(said.is_empty()), "{name}");
    }
}

#[test]
fn the_umask_decides_nothing() {
    let Some((dir, shim, app)) = stage() else { return };
    let home = made_dir(dir.path(), "home", 0o700, OTHER);
    for umask in ["0", "777"] {
        let place = home.join(umask);
        let script = format!("umask {umask}; LD_PRELOAD=$SHIM exec {}", app.display());
        let (output, stderr) = run_as(OTHER, &shim, &[("TRACESHIM_DIR", &place)], &script);
        assert_ran(&output, &stderr, "");
        assert_eq!(place.metadata().unwrap().mode() & 0o7777, 0o700);
        let ring = place.join(&names(&place)[0]).metadata().unwrap();
        assert_eq!((ring.mode() & 0o7777, ring.uid()), (0o600, OTHER));
        // It was cut at its end: the process could open it again.
        assert!(ring.len() < 1 << 20, "{} bytes", ring.len());
    }
}

#[test]
fn what_is_planted_at_a_rings_name_is_neither_followed_nor_changed() {
    let Some((dir, shim, app)) = stage() else { return };
    for plant in ["ln -s", "ln", "mkfifo #"] {
        let place = made_dir(dir.path(), &plant.replace(' ', "-"), 0o700, OTHER);
        let victim = place.join("victim");
        std::fs::write(&victim, "precious").unwrap();
        chown(&victim, Some(OTHER), None).unwrap();
        let at = format!("{}/app.$$.ring", place.display());
        let planted = match plant {
            "mkfifo #" => format!("mkfifo {at}"),
            _ => format!("{plant} {} {at}", victim.display()),
        };
        let script = format!("{planted}; LD_PRELOAD=$SHIM exec {}", app.display());
        let (output, stderr) = run_as(OTHER, &shim, &[("TRACESHIM_DIR", &place)], &script);
        assert_ran(&output, &stderr, "");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert!(names(&place).iter().any(|name| name.ends_with(".1.ring")), "{:?}", names(&place));
        std::fs::remove_dir_all(&place).unwrap();
    }
}

#[test]
fn a_program_with_raised_privileges_is_left_alone() {
    let Some((dir, shim, app)) = stage() else { return };
    let linked = dir.path().join("linked");
    let compile = Command::new("cc")
        .arg("-o")
        .args([&linked, &dir.path().join("app.c")])
        // Without this it would not be loaded at all.
        .arg("-Wl,--no-as-needed")
        .arg(&shim)
        .status();
    assert!(compile.unwrap().success());
    let place = made_dir(dir.path(), "rings", 0o1777, 0);
    // The loader ignores LD_PRELOAD; linked, the shim itself says no.
    for (program, said) in [(&app, ""), (&linked, "raised privileges")] {
        set_permissions(program, Permissions::from_mode(0o4755)).unwrap();
        let script = format!("LD_PRELOAD=$SHIM TRACESHIM_STACK_DEPTH=bad exec {}", program.display());
        let (output, stderr) = run_as(OTHER, &shim, &[("TRACESHIM_DIR", &place)], &script);
        let stderr = stderr.lines().filter(|line| !line.contains("from LD_PRELOAD cannot be preloaded"));
        assert_ran(&output, &stderr.collect::<Vec<_>>().join("\n"), said);
        assert_eq!(names(&place), Vec::<String>::new());
    }
    // The same program without raised privileges is traced.
    set_permissions(&linked, Permissions::from_mode(0o755)).unwrap();
    let (output, stderr) =
        run_as(OTHER, &shim, &[("TRACESHIM_DIR", &place)], &format!("exec {}", linked.display()));
    assert_ran(&output, &stderr, "");
    assert_eq!(names(&place).len(), 1);
}

/// A server that gives up its rights: its workers have no access to where its own
/// ring is. In a directory that lets them make files they are traced.
#[test]
fn workers_of_another_user_are_untraced_and_that_is_said_once() {
    let Some((dir, shim, _)) = stage() else { return };
    let (server, source) = (dir.path().join("server"), dir.path().join("server.c"));
    let text = format!(
        "#include <pthread.h>\n#include <stdio.h>\n#include <sys/wait.h>\n#include <unistd.h>\n\
         static void *run(void *a) {{ return a; }}\n\
         static void work(void) {{ pthread_t t; pthread_create(&t, 0, run, 0); pthread_join(t, 0); }}\n\
         int main(void) {{ work(); if (setgid({OTHER}) || setuid({OTHER})) return 1;\n\
         for (int i = 0; i < 3; i++) {{ if (fork() == 0) {{ work(); _exit(0); }} wait(0); }}\n\
         puts(\"done\"); return 0; }}\n"
    );
    std::fs::write(&source, text).unwrap();
    let compiled = Command::new("cc").arg("-o").args([&server, &source]).status().unwrap();
    assert!(compiled.success());
    let script = format!("LD_PRELOAD=$SHIM exec {}", server.display());
    for (name, mode, said, rings) in [("private", 0o700, "Permission denied", 1), ("shared", 0o1777, "", 4)] {
        let place = made_dir(dir.path(), name, mode, 0);
        let (output, stderr) = run_as(0, &shim, &[("TRACESHIM_DIR", &place)], &script);
        assert_ran(&output, &stderr, said);
        assert_eq!(names(&place).len(), rings, "{name}");
    }
}

#[test]
fn rings_of_others_are_neither_read_unasked_nor_taken() {
    let Some((dir, _, _)) = stage() else { return };
    let place = made_dir(dir.path(), "rings", 0o1777, 0);
    let theirs = sample(&place, 0x10_0000);
    chown(&theirs, Some(OTHER), Some(OTHER)).unwrap();
    let stats = |args: &[&Path]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_collector"));
        command.args(["stats", "--no-symbols"]).args(args).env("TRACESHIM_DIR", &place);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stderr) = stats(&[]);
    assert!(code == Some(1) && stderr.contains("belongs to user 54321, not to user 0"), "{stderr}");
    assert_eq!(stats(&[&place]).0, Some(0));

    // Put where `record` would drain it and remove it.
    let script = format!(
        "mv {} $TRACESHIM_DIR/x.1.ring; exec {}",
        theirs.display(),
        fixture("founding", "O2-fp").display()
    );
    let output = Command::new(env!("CARGO_BIN_EXE_collector"))
        .args(["record", "-o"])
        .arg(dir.path().join("t"))
        .args(["--", "sh", "-c", &script])
        .env("TRACESHIM_LIBRARY", library())
        .env("TRACESHIM_DIR", &place)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let refusals = stderr.lines().filter(|line| line.contains("x.1.ring: belongs to user 54321")).count();
    assert_eq!(refusals, 1, "{stderr}");
    assert!(events(&dir.path().join("t")).iter().all(|event| event["pid"] != 4_000_000));
    let session = names(&place).into_iter().find(|name| name.starts_with("traceshim-record-")).unwrap();
    assert_eq!(names(&place.join(session)), ["x.1.ring"]);
}

#[test]
fn record_makes_no_session_where_anybody_may_replace_it() {
    let Some((dir, _, _)) = stage() else { return };
    let place = made_dir(dir.path(), "open", 0o777, OTHER);
    let output = Command::new(env!("CARGO_BIN_EXE_collector"))
        .args(["record", "-o", "/dev/null", "--", "echo", "ran"])
        .env("TRACESHIM_LIBRARY", library())
        .env("TRACESHIM_DIR", &place)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{stderr}");
    assert!(stderr.contains("has mode 0777, so that anybody may replace files in it"), "{stderr}");
}
