//! Tells scripts where the fixtures are: `c-fixtures path NAME FLAGSET` and `c-fixtures list`.

use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => list(),
        ["path", name, flag_set] => match c_fixtures::find(name, flag_set) {
            Some(path) => print(&format!("{}\n", path.display())),
            None => {
                eprintln!("c-fixtures: {name} {flag_set}: no such fixture or flag set");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: c-fixtures list | c-fixtures path NAME FLAGSET");
            ExitCode::from(2)
        }
    }
}

/// A line for each program: fixture, flag set, path.
fn list() -> ExitCode {
    let mut text = String::new();
    for fixture in c_fixtures::FIXTURES {
        for flags in c_fixtures::FLAG_SETS {
            let path = c_fixtures::fixture(fixture.name, flags.name);
            text.push_str(&format!("{}\t{}\t{}\n", fixture.name, flags.name, path.display()));
        }
    }
    print(&text)
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("c-fixtures: output: {error}");
            ExitCode::FAILURE
        }
    }
}
