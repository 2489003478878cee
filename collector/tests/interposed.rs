//! Functions of one name in several modules: the shim calls libc, and nobody who
//! stands before it; and who stands before libc isn't called back.

mod common;
mod traced;

use std::fmt::Write as _;
use std::process::Command;

use common::{events, of_kind};
use object::{Object, ObjectSymbol, SymbolKind};
use traced::{fixture, library, preloaded};

/// What compilers call of themselves, and what has to be the program's.
const SHARED: [&str; 9] =
    ["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen", "malloc", "realloc", "free"];

/// The functions of libc that the shim calls.
fn called() -> Vec<String> {
    let file = std::fs::read(library()).unwrap();
    let file = object::File::parse(&*file).unwrap();
    let undefined = file.dynamic_symbols().filter(|symbol| symbol.is_undefined());
    let names =
        undefined.filter(|symbol| symbol.kind() == SymbolKind::Text || symbol.kind() == SymbolKind::Unknown);
    let names = names.filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    // Theirs are not libc's: the loader's, libgcc's, and the linker's own.
    names.filter(|name| !name.starts_with('_') && !SHARED.contains(&&**name)).collect()
}

#[test]
fn another_library_that_has_the_same_names_is_not_called() {
    let dir = tempfile::tempdir().unwrap();
    let names = called();
    assert!(names.len() > 40 && names.iter().any(|name| name == "fstat64"), "{names:?}");
    let mut source = String::from(".section .note.GNU-stack\n.text\n");
    for name in &names {
        // Whoever calls it dies.
        writeln!(
            source,
            ".globl {name}\n.type {name}, @function\n{name}: endbr64\nud2\n.size {name}, . - {name}"
        )
        .unwrap();
    }
    // Nor is the program's allocator asked for anything before it may have begun:
    // before this library's constructor, which comes after the shim's start.
    for name in ["malloc", "calloc", "realloc", "free"] {
        writeln!(
            source,
            ".globl {name}\n.type {name}, @function\n{name}: endbr64\ncmpb $0, ready(%rip)\nje 1f\n\
             jmp __libc_{name}@PLT\n1: ud2\n.size {name}, . - {name}"
        )
        .unwrap();
    }
    source.push_str(
        "begin: endbr64\nmovb $1, ready(%rip)\nret\n.section .init_array,\"aw\"\n.quad begin\n.bss\nready: .byte 0\n",
    );
    let (assembly, deadly) = (dir.path().join("deadly.s"), dir.path().join("libdeadly.so"));
    std::fs::write(&assembly, source).unwrap();
    let built = Command::new("gcc").args(["-shared", "-nostdlib", "-o"]).args([&deadly, &assembly]).status();
    assert!(built.unwrap().success());

    let program = fixture("tables", "O2-fp");
    let plain = Command::new(&program).output().unwrap();
    let rings = dir.path().join("rings");
    let both = format!("{}:{}", deadly.display(), library().display());
    let traced =
        Command::new(&program).env("LD_PRELOAD", both).env("TRACESHIM_DIR", &rings).output().unwrap();
    assert_eq!((traced.status, traced.stdout), (plain.status, plain.stdout));
    assert_eq!(String::from_utf8_lossy(&traced.stderr), "");
    let called_back = of_kind(&events(&rings), "callback_enter").len();
    assert_eq!(called_back, 10);
}

/// Runs a command that must succeed.
fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn a_host_that_stands_before_libc_is_not_called_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let host = r#"
        #include <stddef.h>
        size_t strcspn(const char *text, const char *reject) { (void)text; (void)reject; return 40; }
        int __instrumented(void) { return 2; }
        int host_plain(void) { return 0; }
        int c_calls(void);
        int main(void) { return c_calls() == 42 ? 0 : 1; }"#;
    let library = r#"
        #include <string.h>
        int __instrumented(void);
        int host_plain(void);
        int c_calls(void) { return host_plain() + __instrumented() + (int)strcspn("text", "x"); }"#;
    std::fs::write(path("host.c"), host).unwrap();
    std::fs::write(path("lib.c"), library).unwrap();
    let gcc = || {
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-fno-builtin", "-w", "-o"]).current_dir(dir.path());
        gcc
    };
    run(gcc().args(["libcalls.so", "lib.c", "-shared", "-fPIC"]));
    run(gcc().args(["host", "host.c", "libcalls.so", "-rdynamic", "-Wl,-rpath,$ORIGIN"]));
    let called_back = |callbacks: &str| {
        let rings = path(&format!("rings-{callbacks}"));
        let mut host = preloaded(path("host"), &rings);
        run(host.env("TRACESHIM_CALLBACKS", callbacks));
        let events = events(&rings);
        let names = of_kind(&events, "callback_enter").into_iter().map(|event| event["function"].to_string());
        let mut names: Vec<String> = names.map(|name| name.replace('"', "")).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(called_back("auto"), "host_plain");
    assert_eq!(called_back("auto,strcspn,__instrumented"), "__instrumented host_plain strcspn");
}

/// A `pthread_create` that passes on, as sanitizers have it in the executable and
/// others in a preloaded library.
const PASSES_ON: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <pthread.h>
    typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*start)(void *), void *argument) {
        create *next = (create *)dlsym(RTLD_NEXT, "pthread_create");
        int result = next(t, a, start, argument);
        return result;
    }"#;

const MAKES_THREADS: &str = r#"
    #include <pthread.h>
    static void *starts(void *argument) { return argument; }
    int NAME(void) {
        pthread_t thread;
        int result = pthread_create(&thread, 0, starts, 0);
        return result != 0 || pthread_join(thread, 0) != 0;
    }"#;

#[test]
fn threads_belong_to_who_calls_what_stands_before_pthread_create() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let host = "int c_makes(void), host_makes(void);\n\
        int main(void) { for (int i = 0; i < 3; i++) if (host_makes() || c_makes()) return 1; return 0; }";
    let sources = [
        ("passes.c", PASSES_ON.to_owned()),
        ("lib.c", MAKES_THREADS.replace("NAME", "c_makes")),
        ("makes.c", MAKES_THREADS.replace("NAME", "host_makes")),
        ("host.c", host.to_owned()),
    ];
    sources.iter().for_each(|(name, text)| std::fs::write(path(name), text).unwrap());
    let gcc = |args: &[&str]| {
        run(Command::new("gcc").args(["-O1", "-pthread", "-o"]).args(args).current_dir(dir.path()))
    };
    gcc(&["libc-side.so", "lib.c", "-shared", "-fPIC"]);
    gcc(&["libpasses.so", "passes.c", "-shared", "-fPIC"]);
    gcc(&["plain", "host.c", "makes.c", "libc-side.so", "-Wl,-rpath,$ORIGIN"]);
    gcc(&["passes", "host.c", "makes.c", "passes.c", "libc-side.so", "-rdynamic", "-Wl,-rpath,$ORIGIN"]);
    for (program, before) in [("plain", ""), ("passes", ""), ("plain", "libpasses.so")] {
        let rings = path(&format!("rings-{program}-{before}"));
        let preload = format!("{}:{}", path(before).display(), library().display());
        let mut command = preloaded(path(program), &rings);
        if !before.is_empty() {
            command.env("LD_PRELOAD", preload);
        }
        run(&mut command);
        let events = events(&rings);
        let births =
            of_kind(&events, "thread_birth").into_iter().map(|birth| birth["origin"].as_str().unwrap());
        assert_eq!(births.collect::<Vec<_>>(), ["host", "c"].repeat(3), "{program} {before}");
    }
}
