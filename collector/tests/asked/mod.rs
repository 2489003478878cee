//! `doctor` asked, and its answers; and programs to ask it about.
#![allow(dead_code)] // Each test binary uses its part.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::skip;
use crate::traced::library;

pub(crate) fn doctor(dir: &Path, options: &[&str], command: &[&Path]) -> Command {
    let mut collector = Command::new(env!("CARGO_BIN_EXE_collector"));
    collector.args(["doctor", "--format", "json"]).args(options).arg("--").args(command);
    collector.env("TRACESHIM_LIBRARY", library()).env("TRACESHIM_DIR", dir).env_remove("ASAN_OPTIONS");
    collector.current_dir(dir);
    collector
}

/// The report, and the exit status.
pub(crate) fn report(command: &mut Command) -> (Value, i32) {
    let output = command.output().expect("the collector runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {stderr}"));
    (value, output.status.code().expect("an exit status"))
}

pub(crate) fn examine(dir: &Path, options: &[&str], program: &Path) -> (Value, i32) {
    report(&mut doctor(dir, options, &[program]))
}

pub(crate) fn functions(report: &Value, list: &str) -> BTreeSet<String> {
    let all = report[list].as_array().expect("a list");
    all.iter().map(|hook| hook["function"].as_str().expect("a name").to_owned()).collect()
}

/// What is said of this weight about this topic, with the advice.
pub(crate) fn said(report: &Value, severity: &str, about: &str) -> String {
    let all = report["findings"].as_array().expect("a list").iter();
    let found = all.filter(|finding| finding["severity"] == severity && finding["about"] == about);
    found.map(|finding| format!("{} [{}]", finding["what"], finding["advice"])).collect()
}

/// A blocker and the status for it.
pub(crate) fn blocked(report: &(Value, i32), about: &str, what: &str) {
    let text = said(&report.0, "blocker", about);
    assert!(text.contains(what), "{what}: {}", report.0);
    assert_eq!((report.1, report.0["verdict"].as_str()), (2, Some("untraceable")));
}

/// A limit and the status for it.
pub(crate) fn limited(report: &(Value, i32), about: &str, what: &str) {
    let text = said(&report.0, "limit", about);
    assert!(text.contains(what), "{what}: {}", report.0);
    assert_eq!((report.1, report.0["verdict"].as_str()), (1, Some("limited")));
}

pub(crate) fn full(report: &(Value, i32)) {
    assert_eq!((report.1, report.0["verdict"].as_str()), (0, Some("full")), "{}", report.0);
}

/// Compiles with these flags; where that fails there is no such compiler.
pub(crate) fn compiled(
    compiler: &str,
    dir: &Path,
    name: &str,
    source: &str,
    flags: &[&str],
) -> Option<PathBuf> {
    std::fs::write(dir.join("source.c"), source).unwrap();
    let mut command = Command::new(compiler);
    command.args(["-O2", "-o", name, "source.c"]).args(flags).current_dir(dir);
    match command.output() {
        Ok(output) if output.status.success() => Some(dir.join(name)),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            skip(name, &format!("{compiler}: {error}"));
            None
        }
    }
}

pub(crate) fn gcc(dir: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    compiled("gcc", dir, name, source, flags).expect("gcc")
}
