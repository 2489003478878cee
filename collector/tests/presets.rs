//! Presets of functions that take callbacks: against the libraries' own headers,
//! and at work.

mod common;
mod traced;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{collector, events, of_kind, skip, stdout};
use traced::library;

/// The directory of the presets, and that of what these tests need.
fn dir(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

/// Where headers lie that aren't found without being told.
fn include_dirs() -> Vec<String> {
    let multiarch = Command::new("gcc").arg("-print-multiarch").output().expect("gcc");
    let multiarch = String::from_utf8_lossy(&multiarch.stdout).trim().to_owned();
    vec!["-I/usr/include/glib-2.0".into(), format!("-I/usr/lib/{multiarch}/glib-2.0/include")]
}

/// What must hold of a function's arguments, as C++.
fn assertions(line: &str) -> String {
    let mut words = line.split_whitespace();
    let function = words.next().expect("a name");
    let (mut text, mut functions) = (String::new(), 0);
    let mut assert = |what: &str| {
        writeln!(text, "static_assert(arguments(::{function}).{what}, \"{line}\");").unwrap();
    };
    assert("count(WIDE) == 0");
    for word in words {
        if let Some((number, condition)) = word.split_once('@') {
            let other = condition.split_once('=').expect("a range").0;
            assert("variadic");
            assert(&format!("at({number}) == NONE"));
            assert(&format!("at({number} - 1) != NONE"));
            assert(&format!("at({other}) == INTEGER"));
        } else if let Some(number) = word.strip_prefix('=') {
            assert(&format!("at({number}) == POINTER"));
        } else {
            assert(&format!("at({}) == FUNCTION", word.trim_start_matches('~')));
            functions += 1;
        }
    }
    // None is forgotten: one that isn't wrapped says so.
    assert(&format!("count(FUNCTION) == {functions}"));
    text
}

/// Compiles what a preset says against the headers that it names.
fn compile(scratch: &Path, preset: &Path) -> Result<usize, String> {
    let text = std::fs::read_to_string(preset).unwrap();
    let name = preset.file_stem().unwrap().to_str().unwrap();
    let is_function = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let mut source = String::from("#include <stdio.h>\n");
    text.lines().filter(|line| line.starts_with("#include")).for_each(|line| source += &format!("{line}\n"));
    source += &format!("#include \"{}/check.hh\"\n", dir("tests/presets").display());
    text.lines().filter(is_function).for_each(|line| source += &assertions(line));
    let path = scratch.join(format!("{name}.cc"));
    std::fs::write(&path, source).unwrap();
    let mut compiler = Command::new("g++");
    compiler.args(["-std=c++17", "-fsyntax-only", "-Wno-deprecated-declarations"]).args(include_dirs());
    let output = compiler.arg(&path).output().expect("g++");
    match output.status.success() {
        true => Ok(text.lines().filter(is_function).count()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Whether what was said of a compilation is that a package isn't installed.
fn is_missing(stderr: &str) -> bool {
    stderr.contains("fatal error: ") && stderr.contains("No such file or directory")
}

#[test]
fn every_argument_is_a_function_in_the_librarys_own_header() {
    let scratch = tempfile::tempdir().unwrap();
    let entries = std::fs::read_dir(dir("src/presets")).unwrap().map(|entry| entry.unwrap().path());
    let presets: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "txt")).collect();
    assert!(presets.len() >= 10);
    for preset in presets {
        match compile(scratch.path(), &preset) {
            Ok(functions) => println!("{}: {functions} functions", preset.display()),
            Err(stderr) if is_missing(&stderr) => skip(&preset.display().to_string(), &stderr),
            Err(stderr) => panic!("{}: {stderr}", preset.display()),
        }
    }
}

#[test]
fn a_wrong_argument_would_be_seen() {
    let scratch = tempfile::tempdir().unwrap();
    let right = std::fs::read_to_string(dir("src/presets/libc.txt")).unwrap();
    for (from, to) in [
        ("qsort 4", "qsort 3"),
        ("scandir 3 4", "scandir 3"),
        ("qsort 4", "printf 2@1=1-2"),
        ("qsort 4", "no_such_function 1"),
    ] {
        let path = scratch.path().join("wrong.txt");
        let line = |text: &str| format!("\n{text}\n");
        assert!(right.contains(&line(from)));
        std::fs::write(&path, right.replacen(&line(from), &line(to), 1)).unwrap();
        let stderr = compile(scratch.path(), &path).expect_err(to);
        assert!(!is_missing(&stderr), "{stderr}");
    }
}

#[test]
fn presets_are_listed_and_unknown_ones_named() {
    let list = stdout(&[&"record", &"--callback-preset", &"list"]);
    for item in ["libc (The C library, ", " qsort:4 ", " scandir:4 ", " curl_easy_setopt:3@2=20000-29999 "] {
        assert!(list.replace('\n', " ").contains(item), "{item}: {list}");
    }
    for args in [&["--callback-preset", "sqlite"][..], &["--callback-preset", "libc"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_collector")).arg("record").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains("sqlite3, zlib") || stderr.contains("no command"), "{stderr}");
    }
    assert_eq!(collector(&[&"record"]).status.code(), Some(2));
}

/// The program that uses five libraries; `None` where their headers are missing.
fn uses(scratch: &Path, flags: &[&str]) -> Option<PathBuf> {
    let program = scratch.join("uses");
    let mut compiler = Command::new("gcc");
    compiler.args(["-g", "-O2", "-Wall", "-Wextra", "-o"]).arg(&program).args(flags).args(include_dirs());
    compiler.arg(dir("tests/presets/uses.c"));
    compiler.args(["-lsqlite3", "-lexpat", "-lcurl", "-lgio-2.0", "-lgobject-2.0", "-lglib-2.0"]);
    let output = compiler.output().expect("gcc");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if is_missing(&stderr) {
        skip("callbacks of real libraries", &stderr);
        return None;
    }
    assert!(output.status.success(), "{stderr}");
    Some(program)
}

fn callbacks_are_recorded(flags: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    let Some(program) = uses(scratch.path(), flags) else { return };
    let trace = scratch.path().join("t");
    let url = format!("file://{}", dir("Cargo.toml").display());
    let output = Command::new(env!("CARGO_BIN_EXE_collector"))
        .args(["record", "--callback-preset", "libc,sqlite3,expat,curl,glib,gio", "-o"])
        .arg(&trace)
        .arg("--")
        .arg(&program)
        .arg(url)
        .env("TRACESHIM_LIBRARY", library())
        .env("TRACESHIM_DIR", scratch.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = events(&trace);
    let mut callers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in of_kind(&all, "callback_enter") {
        let stack = event["stack"].as_array().unwrap();
        if stack[0]["module"] == "uses" {
            assert_eq!(stack[0]["symbol"], event["function"], "{event}");
            let caller = stack[1]["module"].as_str().unwrap();
            let library = caller.split(".so").next().unwrap();
            callers.entry(event["function"].as_str().unwrap().into()).or_default().insert(library.into());
        }
    }
    let expected = [
        ("add_up_final", "libsqlite3"),
        ("add_up_step", "libsqlite3"),
        ("by_value", "libc"),
        ("on_data", "libcurl"),
        ("on_end", "libexpat"),
        ("on_idle", "libglib-2.0"),
        ("on_notify", "libgobject-2.0"),
        ("on_row", "libsqlite3"),
        ("on_start", "libexpat"),
        ("on_text", "libexpat"),
        ("twice", "libsqlite3"),
    ];
    let expected = expected.map(|(name, by)| (name.to_owned(), BTreeSet::from([by.to_owned()])));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(callers, BTreeMap::from(expected), "{stderr}");
}

#[test]
fn callbacks_of_real_libraries_are_recorded() {
    callbacks_are_recorded(&[]);
}

/// There the addresses of the libraries' functions are in the executable.
#[test]
fn callbacks_of_a_program_at_a_fixed_place_are_recorded() {
    callbacks_are_recorded(&["-no-pie", "-fno-pie"]);
}
