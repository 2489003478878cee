//! `traceshim.h` compiles without a warning in every dialect of C and C++, does nothing without a shim, and finds one
//! in every kind of link.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const WARNINGS: &[&str] =
    &["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wcast-qual", "-Werror"];
const C: &[&str] = &["c89", "gnu89", "c99", "c11", "gnu17", "c2x"];
const CXX: &[&str] = &["c++98", "gnu++98", "c++11", "c++17", "c++20", "c++2b"];

const UNTRACED_C: &str = "enabled 0 0, evaluated 6, wrapped 4 6 1 1, tasks 0 0\n";
const TRACED_C: &str = "enabled 1 1, evaluated 6, wrapped 4 6 1 1, tasks 1 1\n";
const UNTRACED_CXX: &str = "enabled 0, evaluated 3, wrapped 4 6 1 1\n";
const TRACED_CXX: &str = "enabled 1, evaluated 3, wrapped 4 6 1 1\n";

/// What the stand-in shim is told by `use.c`, in order.
const TOLD: &str = "wrap\nwrap\nlog log tail\ntask_begin name: 1\ntask_begin nested: 2\ntask_begin_in name 2: 3\n\
    task_begin_in name 3: 4\ntask_end 4\nregion_begin name\nregion_end name\nregion_end (innermost)\n\
    region_end (innermost)\ntask_end 1\nlog log name\nlog log by address\nregion_end by address\nwrap\nwrap\n\
    task_begin by address: 5\ntask_begin tail: 6\n";

/// A folder of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("traceshim-header-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory can be written");
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/header").join(name)
}

fn compile(compiler: &str, flags: &[&str], file: &str, out: &Path) -> Output {
    Command::new(compiler)
        .args(flags)
        .arg("-I")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shim/include"))
        .arg(source(file))
        .arg("-o")
        .arg(out)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"))
}

fn must_compile(compiler: &str, flags: &[&str], file: &str, out: &Path) {
    let output = compile(compiler, flags, file, out);
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler} {flags:?} {file}:\n{messages}");
}

fn run(program: &Path, preload: Option<&Path>) -> (String, String) {
    let mut command = Command::new(program);
    match preload {
        Some(library) => command.env("LD_PRELOAD", library),
        None => command.env_remove("LD_PRELOAD"),
    };
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "{}: {}", program.display(), output.status);
    let text = |bytes| String::from_utf8(bytes).expect("the test programs print text");
    (text(output.stdout), text(output.stderr))
}

fn is_installed(compiler: &str) -> bool {
    let found = Command::new(compiler).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {compiler}: not installed");
    }
    found
}

/// Every dialect at several levels of optimisation, alone and with a shim.
fn dialects(test: &str, compilers: [&str; 2], dialects: &[&str], file: &str, untraced: &str, traced: &str) {
    let scratch = Scratch::new(test);
    let shim = scratch.0.join("stand_in.so");
    must_compile("cc", &["-shared", "-fPIC"], "stand_in.c", &shim);
    for compiler in compilers {
        if !is_installed(compiler) {
            continue;
        }
        for dialect in dialects {
            let standard = format!("-std={dialect}");
            for level in [&["-O0"][..], &["-O2", "-fcf-protection=full"], &["-O1", "-masm=intel"]] {
                let program = scratch.0.join("use");
                let flags = [&[standard.as_str()], level, WARNINGS].concat();
                must_compile(compiler, &flags, file, &program);
                assert_eq!(run(&program, None), (untraced.into(), String::new()), "{compiler} {flags:?}");
                let (printed, told) = run(&program, Some(&shim));
                assert_eq!(printed, traced, "{compiler} {flags:?}");
                assert!(file != "use.c" || told == TOLD, "{compiler} {flags:?}: {told}");
            }
            // A system that isn't traced: the functions are there and do nothing.
            let program = scratch.0.join("elsewhere");
            let flags = [&[standard.as_str(), "-U__linux__"], WARNINGS].concat();
            must_compile(compiler, &flags, file, &program);
            assert_eq!(run(&program, Some(&shim)), (untraced.into(), String::new()), "{compiler} {flags:?}");
        }
    }
}

#[test]
fn every_dialect_of_c() {
    dialects("c", ["gcc", "clang"], C, "use.c", UNTRACED_C, TRACED_C);
}

#[test]
fn every_dialect_of_cxx() {
    dialects("cxx", ["g++", "clang++"], CXX, "use.cc", UNTRACED_CXX, TRACED_CXX);
}

/// Whether a shim is found, by how the program was compiled and linked. Where it is static, or the linker was told to
/// resolve undefined weak symbols, there is none to find, and the program runs all the same.
#[test]
fn every_kind_of_link() {
    let scratch = Scratch::new("link");
    let shim = scratch.0.join("stand_in.so");
    must_compile("cc", &["-shared", "-fPIC"], "stand_in.c", &shim);
    let links: &[(&[&str], &str)] = &[
        (&["-fno-pie", "-no-pie"], TRACED_C),
        (&["-fPIE", "-no-pie"], TRACED_C),
        (&["-fPIE", "-pie"], TRACED_C),
        (&["-fno-pie", "-no-pie", "-Wl,-z,now,-z,relro"], TRACED_C),
        (&["-fPIE", "-pie", "-Wl,-z,now,-z,relro"], TRACED_C),
        (&["-fPIE", "-pie", "-Wl,-z,defs", "-Wl,-Bsymbolic"], TRACED_C),
        (&["-fno-pie", "-no-pie", "-O2", "-Wl,-O2,--gc-sections", "-ffunction-sections"], TRACED_C),
        (&["-fPIE", "-pie", "-O2", "-fvisibility=hidden", "-fno-plt"], TRACED_C),
        (&["-fno-pie", "-no-pie", "-static"], UNTRACED_C),
    ];
    for linker in ["bfd", "gold", "lld"] {
        if !is_installed(&format!("ld.{linker}")) {
            continue;
        }
        let choice = format!("-fuse-ld={linker}");
        for (flags, printed) in links {
            let program = scratch.0.join("use");
            let flags = [&[choice.as_str()], *flags].concat();
            must_compile("gcc", &flags, "use.c", &program);
            assert_eq!(run(&program, None).0, UNTRACED_C, "{flags:?}");
            assert_eq!(run(&program, Some(&shim)).0, *printed, "{flags:?}");
        }
    }
}

/// What compilers put into every function has no place in those of the header.
#[test]
fn every_kind_of_instrumentation() {
    let scratch = Scratch::new("instrumented");
    let shim = scratch.0.join("stand_in.so");
    must_compile("cc", &["-shared", "-fPIC"], "stand_in.c", &shim);
    let kinds: &[(&str, &[&str])] = &[
        ("gcc", &["-fprofile-generate"]),
        ("gcc", &["--coverage"]),
        ("gcc", &["-pg"]),
        ("gcc", &["-fstack-protector-all", "-fstack-clash-protection"]),
        ("gcc", &["-fsanitize=undefined", "-fno-sanitize-recover"]),
        ("gcc", &["-fsanitize=thread"]),
        ("gcc", &["-fpatchable-function-entry=4,2"]),
        ("gcc", &["-finstrument-functions", "instrument.c"]),
        ("gcc", &["-fsanitize-coverage=trace-pc", "instrument.c"]),
        ("gcc", &["-flto"]),
        ("gcc", &["-fzero-call-used-regs=all"]),
        ("clang", &["-fstack-protector-all", "-fstack-clash-protection"]),
        ("clang", &["-finstrument-functions", "instrument.c"]),
        ("clang", &["-fsanitize-coverage=trace-pc-guard", "instrument.c"]),
        ("clang", &["-fxray-instrument", "-fxray-instruction-threshold=1", "-c"]),
    ];
    for (compiler, flags) in kinds {
        if !is_installed(compiler) {
            continue;
        }
        for level in ["-O0", "-O2"] {
            // Some leave files where they run, and find them again.
            let folder = Scratch::new("instrumented-program");
            let program = folder.0.join("use");
            let only_compiled = flags.contains(&"-c");
            let more = flags
                .iter()
                .filter(|flag| flag.ends_with(".c"))
                .map(|file| source(file).display().to_string());
            let more: Vec<String> = more.collect();
            let plain = flags.iter().filter(|flag| !flag.ends_with(".c")).copied();
            let flags: Vec<&str> =
                plain.chain([level, "-w"]).chain(more.iter().map(String::as_str)).collect();
            must_compile(compiler, &flags, "use.c", &program);
            if only_compiled {
                continue;
            }
            let mut command = Command::new(&program);
            let output = command.env("LD_PRELOAD", &shim).current_dir(&folder.0).output().expect("it runs");
            let text = |bytes| String::from_utf8(bytes).expect("text");
            assert!(output.status.success(), "{compiler} {flags:?}: {}", output.status);
            assert_eq!(
                (text(output.stdout), text(output.stderr)),
                (TRACED_C.into(), TOLD.into()),
                "{compiler} {flags:?}"
            );
        }
    }
}

/// The warnings that a user's own mistakes deserve are not lost with the header's.
#[test]
fn mistakes_are_reported() {
    let scratch = Scratch::new("mistakes");
    let output = compile("gcc", &["-c", "-Wall", "-Werror"], "mistakes.c", &scratch.0.join("mistakes.o"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for line in 5..=8 {
        assert!(messages.contains(&format!("mistakes.c:{line}:")), "nothing about line {line}:\n{messages}");
    }
}
