//! Where names come from: every way in which debug information is shipped.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Writer, collector, events};
use object::{Object, ObjectSymbol};
use serde_json::Value;
use traceshim_ring::record::Origin;
use traceshim_ring::stack::{FRAME_EXACT, StackStatus};
use traceshim_ring::stamp::FileStamp;
use traceshim_ring::table::ModuleEntry;

const SOURCE: &str = "\
volatile int sink;
static inline __attribute__((always_inline)) int deep(int x) {
    sink = x;
    return sink + 1;
}
__attribute__((noinline)) static int hidden(int x) {
    return deep(x) * 2;
}
__attribute__((noinline)) int shown(int x) {
    return hidden(x) + 1;
}
int main(int argc, char **argv) { return shown(argc); }
";

struct Program {
    dir: tempfile::TempDir,
    path: PathBuf,
    /// Of `hidden`, `shown` and `main`, as the file numbers them.
    addresses: Vec<u64>,
    build_id: Vec<u8>,
}

fn run(dir: &Path, line: &str) {
    let output = Command::new("sh").args(["-ec", line]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Program {
    /// Compiles, remembers the addresses, then does `after` to the file `app`.
    fn new(flags: &str, after: &str) -> Program {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("app.c"), SOURCE).unwrap();
        run(dir.path(), &format!("cc -O1 -Wl,--build-id -o app app.c {flags}"));
        let path = dir.path().join("app");
        let bytes = std::fs::read(&path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let address = |name| file.symbols().find(|s| s.name() == Ok(name)).unwrap().address();
        let addresses = ["hidden", "shown", "main"].map(address).to_vec();
        let build_id = file.build_id().unwrap().unwrap_or_default().to_vec();
        run(dir.path(), after);
        Program { dir, path, addresses, build_id }
    }

    /// A ring with one log, whose stack has each of the functions.
    fn ring(&self, build_id: &[u8]) -> PathBuf {
        self.ring_with(build_id, FileStamp::default())
    }

    fn ring_with(&self, build_id: &[u8], file: FileStamp) -> PathBuf {
        const BIAS: u64 = 0x5555_0000_0000;
        let w = Writer::new(self.dir.path(), 4_000_000, 1 << 20);
        w.ring().module(&ModuleEntry {
            start: BIAS,
            end: BIAS + 0x10_0000,
            bias: BIAS,
            load_ticks: 1,
            is_host: true,
            build_id,
            path: self.path.to_str().unwrap().as_bytes(),
            file,
        });
        let frames: Vec<u64> = self.addresses.iter().map(|&a| (BIAS + a) | FRAME_EXACT).collect();
        let stack = w.stack(&frames, StackStatus::Complete);
        let mut thread = w.thread(4_000_000, Origin::Main, 0);
        w.log(&mut thread, stack, b"c", b"m");
        w.path().to_owned()
    }

    /// Function, file name and line of each frame.
    fn frames(&self, options: &[&str]) -> Vec<(String, String, u64)> {
        let ring = self.ring(&self.build_id);
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"dump", &"--format", &"json", &ring];
        args.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        let event: Value = serde_json::from_str(common::stdout(&args).trim()).unwrap();
        let text = |v: &Value| v.as_str().unwrap_or("?").rsplit('/').next().unwrap_or("?").to_owned();
        let frame = |f: &Value| (text(&f["symbol"]), text(&f["file"]), f["line"].as_u64().unwrap_or(0));
        event["stack"].as_array().unwrap().iter().map(frame).collect()
    }
}

/// What is known with all debug information. `hidden` begins with what was
/// inlined into it, or with its own line, as the compiler likes.
fn assert_all_known(frames: &[(String, String, u64)]) {
    let names: Vec<&str> = frames.iter().map(|f| f.0.as_str()).collect();
    assert!(
        names == ["hidden", "shown", "main"] || names == ["deep", "hidden", "shown", "main"],
        "{names:?}"
    );
    assert!(frames.iter().all(|f| f.1 == "app.c"), "{frames:?}");
    // A function's first address may count as its first statement's.
    let lines: Vec<u64> = frames.iter().rev().map(|f| f.2).collect();
    assert!(lines[0] == 12 && (9..=10).contains(&lines[1]), "{lines:?}");
}

#[test]
fn debug_information_in_the_file_plain_and_compressed() {
    for flags in ["-g", "-g -gdwarf-4", "-g -gz=zlib"] {
        assert_all_known(&Program::new(flags, "").frames(&[]));
    }
}

#[test]
fn inlined_functions_have_frames_of_their_own() {
    let mut program = Program::new("-g", "");
    // Somewhere in `hidden` is the code of `deep`.
    let begin = program.addresses[0];
    program.addresses = (begin..begin + 12).collect();
    let ring = program.ring(&program.build_id);
    let all = events(&ring);
    let stack = all[0]["stack"].as_array().unwrap();
    let at = stack.iter().position(|f| f["symbol"] == "deep").expect("an inlined frame");
    assert_eq!((&stack[at]["inlined"], &stack[at + 1]["inlined"]), (&true.into(), &false.into()));
    assert_eq!(stack[at + 1]["symbol"], "hidden");
    assert_eq!(stack[at]["addr"], stack[at + 1]["addr"]);
    let without = program.frames(&["--no-inline"]);
    assert!(without.iter().all(|f| f.0 != "deep"));
}

#[test]
fn split_dwarf_in_files_and_in_a_package() {
    assert_all_known(&Program::new("-g -gsplit-dwarf", "ls *.dwo").frames(&[]));
    let package = "if command -v dwp && dwp -o app.dwp -e app; then rm *.dwo; fi";
    assert_all_known(&Program::new("-g -gdwarf-4 -gsplit-dwarf", package).frames(&[]));
}

#[test]
fn separate_files_by_link_and_by_build_id() {
    let link =
        "objcopy --only-keep-debug app app.debug; strip app; objcopy --add-gnu-debuglink=app.debug app";
    assert_all_known(&Program::new("-g", link).frames(&[]));
    let below = "objcopy --only-keep-debug app app.debug; strip app; \
                 objcopy --add-gnu-debuglink=app.debug app; mkdir .debug; mv app.debug .debug";
    assert_all_known(&Program::new("-g", below).frames(&[]));

    let by_id = "id=$(readelf -n app | sed -n 's/.*Build ID: //p'); first=$(echo $id | cut -c1-2); \
                 mkdir -p d/.build-id/$first; \
                 objcopy --only-keep-debug app d/.build-id/$first/$(echo $id | cut -c3-).debug; strip app";
    let program = Program::new("-g", by_id);
    let debug_dir = program.dir.path().join("d");
    assert_all_known(&program.frames(&["--debug-dir", debug_dir.to_str().unwrap()]));
    assert!(program.frames(&[]).iter().all(|f| f.0 == "?"));
}

#[test]
fn a_dwz_supplement_beside_the_file() {
    if Command::new("dwz").arg("--version").output().is_err() {
        eprintln!("skipped: no dwz here (Debian's package dwz)");
        return;
    }
    let dwz = "sed s/shown/other/ app.c >other.c; cc -O1 -g -Wl,--build-id -o other other.c; \
               dwz -m common.dwz app other; readelf -S app | grep -q gnu_debugaltlink";
    let program = Program::new("-g", dwz);
    assert_all_known(&program.frames(&[]));
    // What the supplement holds is only believed if it is the one meant.
    run(program.dir.path(), "cp app common.dwz");
    program.frames(&[]);
}

#[test]
fn a_debug_file_of_another_build_is_not_believed() {
    let other = "sed s/shown/other/ app.c >other.c; cc -O1 -g -Wl,--build-id -o other other.c; \
                 objcopy --only-keep-debug other app.debug; strip app; \
                 objcopy --add-gnu-debuglink=app.debug app";
    assert!(Program::new("-g", other).frames(&[]).iter().all(|f| f.0 == "?"));
}

#[test]
fn symbols_alone_and_symbols_in_gnu_debugdata() {
    let names = |program: Program| program.frames(&[]).into_iter().map(|f| f.0).collect::<Vec<_>>();
    assert_eq!(names(Program::new("", "")), ["hidden", "shown", "main"]);
    let mini = "objcopy -S --only-keep-debug app mini 2>/dev/null || true; \
                objcopy --only-keep-debug app mini; xz -k mini; strip app; \
                objcopy --add-section .gnu_debugdata=mini.xz app";
    assert_eq!(names(Program::new("", mini)), ["hidden", "shown", "main"]);
}

/// Dumps a ring whose frames must have no names, and a warning says `why`.
fn assert_unnamed(ring: &Path, why: &str) {
    let output = collector(&[&"dump", &"--format", &"json", &ring]);
    let event: Value = serde_json::from_slice(output.stdout.trim_ascii()).unwrap();
    for frame in event["stack"].as_array().unwrap() {
        assert!(frame.get("symbol").is_none() && frame.get("file").is_none());
        assert_eq!(frame["module"], "app");
        assert!(frame["offset"].is_string());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains(why), "{stderr}");
}

#[test]
fn another_build_gives_addresses_and_a_warning_and_no_names() {
    let program = Program::new("-g", "");
    assert_unnamed(&program.ring(&[7; 20]), "another build id");
}

#[test]
fn without_a_build_id_a_file_is_believed_only_if_it_is_the_one_that_ran() {
    let stamp = |program: &Program| FileStamp::from(&program.path.metadata().unwrap());
    let names = |ring: &Path| -> Vec<String> {
        let event = events(ring).swap_remove(0);
        let frames = event["stack"].as_array().unwrap();
        frames.iter().map(|f| f["symbol"].as_str().unwrap_or("?").to_owned()).collect()
    };
    let program = Program::new("-Wl,--build-id=none", "");
    let traced = stamp(&program);
    let ring = program.ring_with(&[], traced);
    assert_eq!(names(&ring), ["hidden", "shown", "main"]);
    // As large and as old as before, only other functions.
    let replace = "mkdir new; sed 's/hidden/HIDDEN/; s/shown/SHOWN/' app.c >new/app.c; cd new; \
                   cc -O1 -Wl,--build-id=none -o app app.c; touch -r ../app app; mv app ..";
    run(program.dir.path(), replace);
    let now = stamp(&program);
    assert_eq!((now.bytes, now.modified_ns), (traced.bytes, traced.modified_ns));
    assert_unnamed(&ring, "changed or replaced");

    let program = Program::new("-Wl,--build-id=none", "");
    assert_unnamed(&program.ring_with(&[], FileStamp::default()), "neither a build id");
}

#[test]
fn no_symbols_means_no_file_is_opened() {
    let program = Program::new("-g", "");
    assert!(program.frames(&["--no-symbols"]).iter().all(|f| f.0 == "?"));
}

#[test]
fn demangling_can_be_left_off() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("app.cc"), "namespace n { int f(int x) { return x; } }\nint main() {}\n")
        .unwrap();
    run(dir.path(), "c++ -O1 -g -Wl,--build-id -o app app.cc");
    let bytes = std::fs::read(dir.path().join("app")).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let address = file.symbols().find(|s| s.name() == Ok("_ZN1n1fEi")).unwrap().address();
    let build_id = file.build_id().unwrap().unwrap().to_vec();
    let path = dir.path().join("app");
    let program = Program { path, addresses: vec![address], build_id, dir };
    assert_eq!(program.frames(&[])[0].0, "n::f(int)");
    assert_eq!(program.frames(&["--demangle", "no"])[0].0, "_ZN1n1fEi");
}

#[test]
fn damaged_debug_information_costs_names_and_nothing_else() {
    let program = Program::new("-g", "");
    let whole = std::fs::read(&program.path).unwrap();
    let mut random = 1u64;
    for _ in 0..60 {
        let mut bytes = whole.clone();
        for _ in 0..200 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = 64 + (random >> 33) as usize % (bytes.len() - 64);
            bytes[at] = (random >> 20) as u8;
        }
        std::fs::write(&program.path, &bytes).unwrap();
        let ring = program.ring(&[]);
        let output = collector(&[&"dump", &"--format", &"json", &ring]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !stderr.contains("panicked"), "{stderr}");
        std::fs::remove_file(ring).unwrap();
    }
}

/// Function, file and line of each frame at an address.
type Sites = Vec<(String, u64)>;

/// What another symbolizer says of `addresses` in `file`: file name and line of
/// each frame, innermost first.
fn oracle(file: &Path, addresses: &[u64]) -> Option<Vec<Sites>> {
    let mut child = Command::new("llvm-symbolizer")
        .args(["--inlines", "--functions=none", "--output-style=LLVM", "--obj"])
        .arg(file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .ok()?;
    let lines: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let mut stdin = child.stdin.take()?;
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, lines.as_bytes()));
    let output = child.wait_with_output().ok()?;
    writer.join().ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let site = |line: &str| {
        let mut parts = line.rsplitn(3, ':');
        let (_column, line, file) = (parts.next()?, parts.next()?, parts.next()?);
        Some((file.rsplit('/').next()?.to_owned(), line.parse().ok()?))
    };
    Some(text.trim_end().split("\n\n").map(|block| block.lines().filter_map(site).collect()).collect())
}

#[test]
fn another_symbolizer_says_the_same() {
    let file = std::env::current_exe().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let object = object::File::parse(&*bytes).unwrap();
    let functions = object.symbols().filter(|s| s.kind() == object::SymbolKind::Text && s.size() > 0);
    let mut addresses: Vec<u64> = functions.flat_map(|s| [s.address(), s.address() + s.size() / 2]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let step = (addresses.len() / 1000).max(1);
    let addresses: Vec<u64> = addresses.into_iter().step_by(step).collect();
    let Some(expected) = oracle(&file, &addresses) else {
        eprintln!("skipped: no llvm-symbolizer here (Debian's package llvm)");
        return;
    };
    assert_eq!(expected.len(), addresses.len());

    let dir = tempfile::tempdir().unwrap();
    let w = Writer::new(dir.path(), 4_000_000, 4 << 20);
    const BIAS: u64 = 0x5555_0000_0000;
    w.ring().module(&ModuleEntry {
        start: BIAS,
        end: BIAS + (1 << 32),
        bias: BIAS,
        load_ticks: 1,
        is_host: true,
        build_id: object.build_id().unwrap().unwrap_or_default(),
        path: file.to_str().unwrap().as_bytes(),
        file: FileStamp::default(),
    });
    let mut thread = w.thread(4_000_000, Origin::Main, 0);
    for &address in &addresses {
        let stack = w.stack(&[(BIAS + address) | FRAME_EXACT], StackStatus::Complete);
        w.log(&mut thread, stack, b"c", b"m");
    }
    let ours: Vec<Sites> = events(w.path())
        .iter()
        .map(|event| {
            let site = |f: &Value| {
                let file = f["file"].as_str().unwrap_or("??").rsplit('/').next().unwrap_or("??").to_owned();
                (file, f["line"].as_u64().unwrap_or(0))
            };
            event["stack"].as_array().unwrap().iter().map(site).collect()
        })
        .collect();
    assert_eq!(ours.len(), addresses.len());
    let differing: Vec<_> =
        expected.iter().zip(&ours).zip(&addresses).filter(|((expected, ours), _)| expected != ours).collect();
    let share = differing.len() as f64 / addresses.len() as f64;
    assert!(share < 0.02, "{} of {} differ, such as {:?}", differing.len(), addresses.len(), &differing[..3]);
}
