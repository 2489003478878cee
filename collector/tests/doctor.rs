//! `doctor` on programs: what it says beforehand, and that it is so.

mod asked;
mod common;
mod traced;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use asked::{blocked, compiled, doctor, examine, full, functions, gcc, limited, report, said};
use serde_json::Value;
use traced::{fixture, library, preloaded};
use traceshim_ring::file::RingFile;
use traceshim_ring::session::ring_files;

/// Flag sets that differ in how slots look and when they are filled.
const FLAG_SETS: [&str; 4] = ["O2-nofp", "O2-fp-noplt", "O2-fp-now", "O2-fp-nopie"];

/// A program with a library that calls it back, as -rdynamic or not. The library
/// leaves a file behind when it is run.
fn program(dir: &Path, flags: &[&str]) -> PathBuf {
    let ran = dir.join("ran").display().to_string();
    let library = format!(
        "#include <stdio.h>\nextern int called(int) __attribute__((weak));\n\
         __attribute__((constructor)) static void start(void) {{ fclose(fopen(\"{ran}\", \"w\")); }}\n\
         int lib(void) {{ return called ? called(1) : 0; }}\n"
    );
    gcc(dir, "liblib.so", &library, &["-fPIC", "-shared"]);
    let source = "int lib(void); int called(int x) { return x; } int main(void) { return lib() & 2; }\n";
    let mut all = vec!["-L.", "-llib", "-Wl,-rpath,$ORIGIN"];
    all.extend_from_slice(flags);
    gcc(dir, "app", source, &all)
}

/// The names of the functions that were hooked in a run with the shim alone.
fn hooked(program: &Path) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let output = preloaded(program, dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut names = BTreeSet::new();
    for ring in ring_files(dir.path()).unwrap() {
        let tables = RingFile::open(&ring).unwrap().snapshot().unwrap().tables;
        let hooks = (0..).map_while(|number| tables.hook(number));
        // Without a name: a pointer that the program itself wrapped.
        let named = hooks.filter_map(|hook| tables.string(hook.name)).filter(|name| !name.is_empty());
        names.extend(named.map(|name| String::from_utf8(name).unwrap()));
    }
    names
}

#[test]
fn what_it_predicts_is_what_is_hooked() {
    let dir = tempfile::tempdir().unwrap();
    let mut any = 0;
    // One doesn't end by itself; another is thousands of processes, some of which can't keep their rings in order.
    for known in c_fixtures::FIXTURES.iter().filter(|known| !["spin", "filters"].contains(&known.name)) {
        for flags in FLAG_SETS {
            let program = fixture(known.name, flags);
            let plugin = |file: &str| format!("--plugin={}", program.with_file_name(file).display());
            let parts = c_fixtures::table::PARTS.iter().filter(|part| part.fixture == known.name);
            let mut plugins: Vec<String> = parts.map(|part| plugin(part.file)).collect();
            if known.name == "loader" {
                plugins.extend(["loader-plugin-a.so", "loader-plugin-b.so"].map(plugin));
            }
            let options: Vec<&str> = plugins.iter().map(String::as_str).collect();
            let (report, _) = examine(dir.path(), &options, &program);
            let mut predicted = functions(&report, "hooks");
            any += predicted.len();
            // What looks names up does so in these programs.
            predicted.append(&mut functions(&report, "may_be_looked_up"));
            assert_eq!(predicted, hooked(&program), "{} {flags}: {report}", known.name);
        }
    }
    assert!(any > 100, "{any}");
}

#[test]
fn a_program_that_exports_what_its_library_calls_is_traced_wholly_and_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let app = program(dir.path(), &["-rdynamic"]);
    let found = examine(dir.path(), &[], &app);
    full(&found);
    assert_eq!(functions(&found.0, "hooks"), BTreeSet::from(["called".to_owned()]));
    let hook = &found.0["hooks"][0];
    assert_eq!(
        (hook["module"].as_str(), hook["callers"][0]["module"].as_str()),
        (Some("app"), Some("liblib.so"))
    );
    assert!(!dir.path().join("ran").exists());

    let excluded = examine(dir.path(), &["--callbacks", "!called"], &app);
    assert_eq!(functions(&excluded.0, "left_alone"), BTreeSet::from(["called".to_owned()]));
    limited(&excluded, "hooks", "calls any of its");
    full(&examine(dir.path(), &["--callbacks", "none"], &app));
    assert_eq!(excluded.0["hooks"].as_array().unwrap().len(), 0);
    let other = examine(dir.path(), &["--host", "nothing*"], &app);
    limited(&other, "host", "no module is the host");
    // The library is the host: the program is what calls it.
    let turned = examine(dir.path(), &["--host", "liblib.so"], &app);
    assert_eq!(functions(&turned.0, "hooks"), BTreeSet::from(["lib".to_owned()]));
}

#[test]
fn programs_that_cannot_be_traced_are_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let main = "int main(void) { return 0; }\n";
    let check = |name: &str, about: &str, what: &str| {
        blocked(&examine(dir.path(), &[], Path::new(name)), about, what)
    };
    gcc(dir.path(), "static", main, &["-static"]);
    check("./static", "program", "statically linked");
    gcc(dir.path(), "static-pie", main, &["-static-pie"]);
    check("./static-pie", "program", "statically linked");
    if compiled("musl-gcc", dir.path(), "musl", main, &[]).is_some() {
        check("./musl", "program", "uses musl");
    }
    let app = gcc(dir.path(), "app", main, &[]);
    let changed = |name: &str, at: usize, byte: u8| {
        let mut content = std::fs::read(&app).unwrap();
        content[at] = byte;
        std::fs::write(dir.path().join(name), content).unwrap();
        std::fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(0o755)).unwrap();
    };
    changed("32-bit", 4, 1);
    check("./32-bit", "program", "not a 64-bit program");
    changed("arm", 18, 183);
    check("./arm", "program", "another processor");
    std::fs::set_permissions(&app, PermissionsExt::from_mode(0o644)).unwrap();
    check("./app", "program", "not executable");
    check("./absent", "program", "./absent: no such program");
    check("no-such-command", "program", "no such program");
    gcc(dir.path(), "asan", main, &["-fsanitize=address"]);
    check("./asan", "sanitizer", "libasan.so");
    let mut with_option = doctor(dir.path(), &[], &[Path::new("./asan")]);
    let allowed = report(with_option.env("ASAN_OPTIONS", "verify_asan_link_order=0"));
    assert_eq!(said(&allowed.0, "blocker", "sanitizer"), "");
    gcc(dir.path(), "libgone.so", "int gone(void) { return 0; }\n", &["-fPIC", "-shared"]);
    gcc(dir.path(), "lacks", "int gone(void); int main(void) { return gone(); }\n", &["-L.", "-lgone"]);
    check("./lacks", "libraries", "libgone.so");
}

/// As root, who is asked by no set-uid bit of its own; so as somebody else.
#[test]
fn raised_privileges_are_told_to_whom_they_are_raised() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let collector = dir.path().join("collector");
    std::fs::copy(env!("CARGO_BIN_EXE_collector"), &collector).unwrap();
    std::fs::copy(library(), dir.path().join("libtraceshim.so")).unwrap();
    let nobody = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command.current_dir(dir.path());
        command
    };
    let as_nobody = |program: &str| {
        let mut command = nobody(&collector);
        command.args(["doctor", "--format", "json", "--", program]);
        command.env("TRACESHIM_DIR", dir.path()).env_remove("TRACESHIM_LIBRARY");
        command
    };
    if !nobody(Path::new("true")).status().is_ok_and(|status| status.success()) {
        // Needs root, which no package gives.
        eprintln!("skipped: set-uid programs and capabilities: can't become another user here");
        return;
    }
    let app = gcc(dir.path(), "app", "int main(void) { return 0; }\n", &[]);
    std::fs::set_permissions(&app, PermissionsExt::from_mode(0o4755)).unwrap();
    blocked(&report(&mut as_nobody("./app")), "program", "set-uid or set-gid");
    // Of our own it raises nothing.
    assert_eq!(said(&examine(dir.path(), &[], &app).0, "blocker", "program"), "");
    std::fs::set_permissions(&app, PermissionsExt::from_mode(0o755)).unwrap();
    let mut capability = [0u8; 20];
    // VFS_CAP_REVISION_2, effective; CAP_NET_RAW permitted.
    (capability[0], capability[3], capability[5]) = (1, 2, 0x20);
    match rustix::fs::setxattr(&app, "security.capability", &capability, rustix::fs::XattrFlags::empty()) {
        Ok(()) => blocked(&report(&mut as_nobody("./app")), "program", "has capabilities"),
        Err(error) => eprintln!("skipped: capabilities: {error}"),
    }
}

#[test]
fn scripts_lead_to_their_interpreter() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/usr/bin/env -S sh -e\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let (found, _) = examine(dir.path(), &[], Path::new("./script"));
    assert!(found["program"].as_str().unwrap().ends_with("/sh"), "{found}");
    let via: Vec<_> =
        found["via"].as_array().unwrap().iter().map(|step| step["path"].as_str().unwrap()).collect();
    assert_eq!(via, ["./script", "/usr/bin/env"]);
}

#[test]
fn limits_of_programs_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let main = "#include <stdlib.h>\nint main(int n, char **v) { qsort(v, n, 8, (void *)main); return 0; }\n";
    let app = gcc(dir.path(), "app", main, &[]);
    let found = examine(dir.path(), &[], &app);
    limited(&found, "exports", "-rdynamic");
    limited(&found, "pointers", "handed to qsort aren't seen");
    assert!(said(&found.0, "limit", "pointers").contains("--callback-preset libc"));
    let wrapped = examine(dir.path(), &["--callback-preset", "libc"], &app);
    let rows = wrapped.0["wrapped"].as_array().unwrap();
    let row = rows.iter().find(|row| row["function"] == "qsort").unwrap();
    assert_eq!((&row["caller"], &row["arguments"][0]["argument"]), (&Value::from("app"), &Value::from(4)));
    assert_eq!(said(&wrapped.0, "limit", "pointers"), "");
    let idle = examine(dir.path(), &["--callback-arg", "no_such_function:1"], &app);
    limited(&idle, "pointers", "no module calls no_such_function");

    let exporting = gcc(
        dir.path(),
        "exporting",
        "int f(void) { return 1; } int main(void) { return 0; }\n",
        &["-rdynamic"],
    );
    limited(&examine(dir.path(), &[], &exporting), "hooks", "no library that exporting is linked with");
    let misspelt = examine(dir.path(), &["--callbacks", "ff,!gg"], &exporting);
    for name in ["matches ff", "matches !gg"] {
        limited(&misspelt, "hooks", name);
    }
    assert!(!said(&misspelt.0, "limit", "hooks").contains("no library"), "{}", misspelt.0);
    let source = "int f(void) { return 1; } int g(void) { return 2; } int main(void) { return 0; }\n";
    let undescribed =
        gcc(dir.path(), "undescribed", source, &["-rdynamic", "-fno-asynchronous-unwind-tables"]);
    limited(&examine(dir.path(), &[], &undescribed), "unwind", "of the functions that undescribed exports");
    assert_eq!(said(&examine(dir.path(), &[], &exporting).0, "limit", "unwind"), "");
    let bare = gcc(
        dir.path(),
        "libbare.so",
        "int b(void) { return 1; }\n",
        &["-fPIC", "-shared", "-Wl,--no-eh-frame-hdr"],
    );
    let plugin = format!("--plugin={}", bare.display());
    limited(&examine(dir.path(), &[&plugin], &app), "unwind", "libbare.so has no unwind tables");

    // A plugin that wants what the program has, but doesn't export.
    let source = "int hidden(void) { return 1; } int main(void) { return 0; }\n";
    let hiding = gcc(dir.path(), "hiding", source, &[]);
    let wants = gcc(
        dir.path(),
        "libwants.so",
        "int hidden(void); int w(void) { return hidden(); }\n",
        &["-fPIC", "-shared"],
    );
    let plugin = format!("--plugin={}", wants.display());
    limited(&examine(dir.path(), &[&plugin], &hiding), "exports", "hiding has hidden, which C wants");
    let mut preloading = doctor(dir.path(), &[], &[&app]);
    limited(&report(preloading.env("LD_PRELOAD", "/no/such.so")), "libraries", "/no/such.so");
}

#[test]
fn functions_that_are_to_be_patched_are_found_by_their_symbols() {
    let dir = tempfile::tempdir().unwrap();
    let program = fixture("inline", "O2-nofp");
    let (found, _) = examine(dir.path(), &["--callbacks", "inline:patched_*"], &program);
    let patched = functions(&found, "inline");
    assert!(patched.len() > 3 && patched.iter().all(|name| name.starts_with("patched_")), "{found}");
    assert!(said(&found, "note", "inline").contains("patched_"), "{found}");
    for names in ["inline:no_such_function", "inline:patched_*,inline:no_such_function"] {
        let none = examine(dir.path(), &["--callbacks", names], &program);
        limited(&none, "inline", "no function of the host matches inline:no_such_function");
    }
}

#[test]
fn allocators_that_a_host_brings_along_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = "#include <stdlib.h>\nvoid *lib(void) { return malloc(1); }\n";
    gcc(dir.path(), "liballocates.so", source, &["-fPIC", "-shared"]);
    let source = "static char heap[64]; void *malloc(unsigned long n) { return n < 64 ? heap : 0; }\n\
                  void *lib(void); int main(void) { return lib() == 0; }\n";
    let flags = ["-rdynamic", "-fno-builtin", "-L.", "-lallocates", "-Wl,-rpath,$ORIGIN"];
    let app = gcc(dir.path(), "app", source, &flags);
    let found = examine(dir.path(), &[], &app);
    assert_eq!(functions(&found.0, "left_alone"), BTreeSet::from(["malloc".to_owned()]));
    let named = examine(dir.path(), &["--callbacks", "malloc"], &app);
    assert_eq!(functions(&named.0, "hooks"), BTreeSet::from(["malloc".to_owned()]));
}
