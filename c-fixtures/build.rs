//! Builds every fixture in every flag set, into `OUT_DIR/FLAGSET/`. `cc` only finds the compilers: it makes static
//! libraries, and these are executables and shared objects with exact flags.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

#[path = "src/table.rs"]
#[allow(unreachable_pub, reason = "a library's module, used here by itself")]
mod table;

use table::{Edit, FIXTURES, FLAG_SETS, Fixture, FlagSet, PARTS, Part};

/// What is right for every compilation. A fixture of a calling convention would else get notes about the changes of
/// that convention in gcc 4.
const ALWAYS: &[&str] = &["-g", "-Wall", "-Wextra", "-Wno-psabi", "-pthread"];

struct Compilers {
    c: PathBuf,
    cxx: PathBuf,
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/table.rs");
    println!("cargo:rerun-if-changed=c");
    println!("cargo:rerun-if-changed=../shim/include/traceshim.h");

    let compilers = Compilers {
        c: cc::Build::new().get_compiler().path().to_path_buf(),
        cxx: cc::Build::new().cpp(true).get_compiler().path().to_path_buf(),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut jobs: Vec<(&Fixture, &FlagSet)> = Vec::new();
    for flags in FLAG_SETS {
        let dir = out.join(flags.name);
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        jobs.extend(FIXTURES.iter().map(|fixture| (fixture, flags)));
    }

    let jobs = Mutex::new(jobs.into_iter());
    let workers = env::var("NUM_JOBS").ok().and_then(|number| number.parse().ok()).unwrap_or(1);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().expect("no job panics while it holds the queue").next();
                    let Some((fixture, flags)) = job else { break };
                    build(&compilers, fixture, flags, &out.join(flags.name));
                }
            });
        }
    });
}

fn build(compilers: &Compilers, fixture: &Fixture, flags: &FlagSet, out: &Path) {
    let source = Path::new("c").join(fixture.name);
    let mut link_with: Vec<OsString> = Vec::new();

    let library = source.join("lib.c");
    if library.exists() {
        let file_name = format!("lib{}.so", fixture.name);
        shared_object(compilers, fixture.library, flags, &library, &out.join(&file_name), &[]);
        link_with.extend([out.join(&file_name).into(), "-Wl,-rpath,$ORIGIN".into()]);
    }
    for path in files(&source) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if stem.starts_with("plugin-") {
            let file_name = format!("{}-{stem}.so", fixture.name);
            shared_object(compilers, fixture.library, flags, &path, &out.join(file_name), &[]);
        }
    }

    for part in PARTS.iter().filter(|part| part.fixture == fixture.name) {
        build_part(compilers, part, flags, &source, out);
    }

    let cxx = source.join("host.cc");
    let (compiler, standard, host) = if cxx.exists() {
        (&compilers.cxx, "-std=gnu++17", cxx)
    } else {
        (&compilers.c, "-std=gnu11", source.join("host.c"))
    };
    let mut command = Command::new(compiler);
    command.arg(standard).args(ALWAYS).args(flags.compile).args(flags.host).args(flags.link);
    command.args(["-Ic", "-I../shim/include", "-rdynamic", "-o"]).arg(out.join(fixture.name));
    command.arg(&host).args(link_with).arg("-lm");
    run(command);
}

fn build_part(compilers: &Compilers, part: &Part, flags: &FlagSet, source: &Path, out: &Path) {
    let file = out.join(part.file);
    let dir = file.parent().expect("a part has a path");
    fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let with: Vec<PathBuf> = part.with.iter().map(|with| out.join(with)).collect();
    shared_object(compilers, part.flags, flags, &source.join(part.source), &file, &with);
    match part.edit {
        Edit::Nothing => {}
        // e_shoff; e_shentsize, e_shnum and e_shstrndx.
        Edit::NoSections => {
            edit(&file, |elf| [40..48, 58..64].into_iter().for_each(|field| elf[field].fill(0)))
        }
        Edit::RelroBeyond => edit(&file, extend_relro),
    }
}

fn edit(file: &Path, change: impl FnOnce(&mut [u8])) {
    let shown = file.display();
    let mut bytes = fs::read(file).unwrap_or_else(|error| panic!("{shown}: {error}"));
    change(&mut bytes);
    fs::write(file, bytes).unwrap_or_else(|error| panic!("{shown}: {error}"));
}

/// Adds to the p_memsz of the program header PT_GNU_RELRO.
fn extend_relro(elf: &mut [u8]) {
    const RELRO: u64 = 0x6474_e552;
    let word = |elf: &[u8], at: usize, bytes: usize| {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&elf[at..at + bytes]);
        u64::from_le_bytes(word)
    };
    // e_phoff, e_phnum; a header has 56 bytes.
    let first = word(elf, 32, 8) as usize;
    let headers = (0..word(elf, 56, 2) as usize).map(|n| first + 56 * n);
    let header = headers.into_iter().find(|&at| word(elf, at, 4) == RELRO).expect("linked with -z relro");
    let size = word(elf, header + 40, 8) + 0x100;
    elf[header + 40..header + 48].copy_from_slice(&size.to_le_bytes());
}

fn shared_object(
    compilers: &Compilers,
    extra: &[&str],
    flags: &FlagSet,
    source: &Path,
    out: &Path,
    with: &[PathBuf],
) {
    let mut command = Command::new(&compilers.c);
    command.arg("-std=gnu11").args(ALWAYS).args(flags.compile).args(flags.link).args(extra);
    command.args(["-fomit-frame-pointer", "-fPIC", "-shared", "-Ic", "-I../shim/include"]);
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    command.arg(format!("-Wl,-soname,{name}")).arg("-o").arg(out).arg(source).args(with).arg("-lm");
    run(command);
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    files
}

/// Warnings go to cargo, which shows them where they concern a workspace member.
fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{messages}");
    for line in messages.lines() {
        println!("cargo:warning={line}");
    }
}
