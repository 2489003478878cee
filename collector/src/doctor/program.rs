//! Which file a command runs, and whether the loader would load the shim there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};

/// How many scripts that run scripts are followed.
const SCRIPT_DEPTH: usize = 4;

/// What a command turns out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// The scripts on the way, and whoever finds the interpreter for them.
    pub(crate) via: Vec<PathBuf>,
    /// The file that is run in the end; `None` where it can't be found.
    pub(crate) path: Option<PathBuf>,
    /// Whether it can be traced.
    pub(crate) verdict: Verdict,
}

/// Whether a program can be traced at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing speaks against it: this loader starts it.
    Traceable(PathBuf),
    /// The loader ignores LD_PRELOAD for it, or has none.
    Untraceable(String),
    /// It can't be found or read; whoever runs it will say so.
    #[default]
    Unknown,
}

impl Program {
    /// Looks at the program that a command names.
    pub(crate) fn inspect(command: &[OsString]) -> Program {
        let mut program = Program::default();
        if let Some(path) = command.first().and_then(|name| in_path(name)) {
            program.follow(&path, command.get(1..).unwrap_or_default(), SCRIPT_DEPTH);
        }
        program
    }

    /// Why the loader would not load the shim.
    pub(crate) fn untraceable(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Untraceable(why) => Some(why),
            _ => None,
        }
    }

    /// Goes from a script to its interpreter, and from `env` to what it runs.
    fn follow(&mut self, path: &Path, arguments: &[OsString], depth: usize) {
        self.path = Some(path.to_owned());
        self.verdict = Verdict::Unknown;
        // A pipe would be waited for.
        if !is_executable(path) {
            return;
        }
        let mut head = Vec::new();
        let read = File::open(path).and_then(|file| file.take(1 << 20).read_to_end(&mut head));
        // The kernel gives a script the rights of its interpreter alone.
        let raised = raised_privileges(path).filter(|_| !head.starts_with(b"#!"));
        self.verdict = match raised {
            Some(why) => Verdict::Untraceable(why),
            None if read.is_ok() => inspect_elf(&head, &path.display().to_string()),
            None => Verdict::Unknown,
        };
        if matches!(self.verdict, Verdict::Untraceable(_)) || depth == 0 {
            return;
        }
        let (next, arguments) = if let Some(line) = head.strip_prefix(b"#!") {
            let Some((interpreter, argument)) = shebang(line) else { return };
            self.verdict = Verdict::Unknown;
            let mut all = vec![argument.into()];
            all.extend_from_slice(arguments);
            (Some(PathBuf::from(interpreter)), all)
        } else if path.file_name() == Some(OsStr::new("env")) {
            let words: Vec<OsString> = arguments.iter().flat_map(|word| split(word)).collect();
            let Some(at) = words.iter().position(|word| is_command(word)) else { return };
            (in_path(&words[at]), words[at + 1..].to_vec())
        } else {
            return;
        };
        match next {
            Some(next) => {
                self.via.push(path.to_owned());
                self.follow(&next, &arguments, depth - 1);
            }
            None => (self.path, self.verdict) = (None, Verdict::Unknown),
        }
    }
}

/// The interpreter that a script's first line names, and what else it says.
fn shebang(line: &[u8]) -> Option<(&OsStr, &OsStr)> {
    let line = line.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(end);
    let words = |bytes| OsStr::from_bytes(bytes);
    (!interpreter.is_empty()).then(|| (words(interpreter), words(argument.trim_ascii())))
}

/// An argument of `env`: `-S` has several in one, for the sake of scripts.
fn split(word: &OsStr) -> Vec<OsString> {
    match word.as_bytes().strip_prefix(b"-S") {
        Some(line) => {
            let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.map(|word| OsStr::from_bytes(word).to_owned()).collect()
        }
        None => vec![word.to_owned()],
    }
}

/// Whether an argument of `env` is what it runs: not an option or a variable.
fn is_command(word: &OsStr) -> bool {
    !word.is_empty() && !word.as_bytes().starts_with(b"-") && !word.as_bytes().contains(&b'=')
}

/// As the shell finds it.
fn in_path(command: &OsStr) -> Option<PathBuf> {
    if command.as_bytes().contains(&b'/') {
        return Path::new(command).exists().then(|| PathBuf::from(command));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(command)).find(|file| is_executable(file))
}

/// Whether the kernel would try to run it.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Why a file runs with more rights than whoever starts it.
fn raised_privileges(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok()?;
    let (shown, mode) = (path.display(), metadata.mode());
    let process = Process::read();
    if process.no_new_privileges {
        return None;
    }
    if mode & 0o4000 != 0 && metadata.uid() != process.uid
        || mode & 0o2010 == 0o2010 && metadata.gid() != process.gid
    {
        return Some(format!("{shown} is set-uid or set-gid: the loader ignores LD_PRELOAD for it"));
    }
    let mut capability = [0; 64];
    let has_capabilities = rustix::fs::getxattr(path, "security.capability", &mut capability[..]).is_ok();
    (process.uid != 0 && has_capabilities)
        .then(|| format!("{shown} has capabilities: the loader ignores LD_PRELOAD for it"))
}

/// What of this process decides whether another file raises its privileges.
struct Process {
    uid: u32,
    gid: u32,
    no_new_privileges: bool,
}

impl Process {
    fn read() -> Process {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let flag = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        Process {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            no_new_privileges: flag("NoNewPrivs:").is_some_and(|value| value.trim() == "1"),
        }
    }
}

fn inspect_elf(head: &[u8], shown: &str) -> Verdict {
    let no = |why: &str| Verdict::Untraceable(format!("{shown} {why}"));
    if !head.starts_with(&[0x7f, b'E', b'L', b'F']) {
        return Verdict::Unknown;
    }
    let Ok(header) = elf::FileHeader64::<object::Endianness>::parse(head) else {
        return no("is not a 64-bit program: the shim is, and can't be loaded into it");
    };
    let Ok(endian) = header.endian() else { return Verdict::Unknown };
    let machine = if cfg!(target_arch = "x86_64") { elf::EM_X86_64 } else { elf::EM_AARCH64 };
    if header.e_machine(endian) != machine {
        return no("is a program for another processor than the shim");
    }
    let Ok(segments) = header.program_headers(endian, head) else { return Verdict::Unknown };
    match segments.iter().find_map(|s| s.interpreter(endian, head).ok().flatten()) {
        None => no("is statically linked: there is no loader that could load the shim"),
        Some(name) if name.windows(7).any(|part| part == b"ld-musl") => {
            no("uses musl, and the shim needs glibc")
        }
        Some(name) => Verdict::Traceable(PathBuf::from(OsStr::from_bytes(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::chown;

    fn inspect(command: &[&dyn AsRef<OsStr>]) -> Program {
        let command: Vec<OsString> = command.iter().map(|word| word.as_ref().to_owned()).collect();
        Program::inspect(&command)
    }

    fn executable(path: &Path, content: &str, mode: u32) {
        write(path, content).unwrap();
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn is_traceable(program: &Program) -> bool {
        matches!(program.verdict, Verdict::Traceable(_))
    }

    #[test]
    fn programs_that_can_and_that_cannot() {
        let exe = std::env::current_exe().unwrap();
        assert!(is_traceable(&inspect(&[&exe])));
        assert!(is_traceable(&inspect(&[&"sh"])));
        for absent in ["/no/such/file", "no-such-command-anywhere"] {
            assert_eq!(inspect(&[&absent]), Program::default());
        }
        let dir = tempfile::tempdir().unwrap();
        executable(&dir.path().join("data"), "", 0o644);
        assert_eq!(inspect(&[&dir.path().join("data")]).verdict, Verdict::Unknown);
        // Nobody will ever write to it.
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o777.into(), 0).unwrap();
        assert_eq!(inspect(&[&pipe]).verdict, Verdict::Unknown);
    }

    #[test]
    fn scripts_are_what_their_interpreter_is() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        executable(&script, "#! /bin/sh -e\necho\n", 0o755);
        let program = inspect(&[&script]);
        assert!(is_traceable(&program));
        assert_eq!((program.via, program.path), (vec![script.clone()], Some("/bin/sh".into())));
        executable(&script, &format!("#!{}\n", script.display()), 0o755);
        assert_eq!(inspect(&[&script]).verdict, Verdict::Unknown);
        executable(&script, "#!\n", 0o755);
        assert_eq!(inspect(&[&script]).verdict, Verdict::Unknown);
    }

    #[test]
    fn env_is_what_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        executable(&script, "#!/usr/bin/env sh\n", 0o755);
        let program = inspect(&[&script]);
        assert!(is_traceable(&program));
        assert_eq!(program.via, [script, "/usr/bin/env".into()]);
        assert_eq!(program.path.unwrap().file_name(), Some(OsStr::new("sh")));
        executable(&dir.path().join("split"), "#!/usr/bin/env -S A=b sh -e\n", 0o755);
        let program = inspect(&[&dir.path().join("split")]);
        assert_eq!(program.path.unwrap().file_name(), Some(OsStr::new("sh")));
        let program = inspect(&[&"env", &"-i", &"A=b", &"sh"]);
        assert_eq!(program.path.unwrap().file_name(), Some(OsStr::new("sh")));
        assert_eq!(inspect(&[&"env", &"no-such-command-anywhere"]).path, None);
    }

    #[test]
    fn a_program_without_an_interpreter_is_static() {
        let mut head = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        head.truncate(1 << 20);
        // Rename the segment that names the loader.
        let segments = u64::from_le_bytes(head[32..40].try_into().unwrap()) as usize;
        for at in (segments..segments + 56 * 20).step_by(56) {
            if head[at..at + 4] == [3, 0, 0, 0] {
                head[at] = 0;
            }
        }
        let Verdict::Untraceable(why) = inspect_elf(&head, "x") else { panic!() };
        assert!(why.contains("statically"));
    }

    #[test]
    fn a_program_of_another_group_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        executable(&program, "", 0o2755);
        // Of our own group it raises nothing.
        assert_eq!(inspect(&[&program]).untraceable(), None);
        if chown(&program, None, Some(rustix::process::getegid().as_raw() + 1)).is_err() {
            eprintln!("skipped: another group's programs: not allowed to make one");
            return;
        }
        set_permissions(&program, Permissions::from_mode(0o2755)).unwrap();
        let why = inspect(&[&program]).untraceable().unwrap().to_owned();
        assert!(why.contains("set-gid"), "{why}");
    }
}
