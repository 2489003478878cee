//! Whether a program can be traced at all, and why not.

use std::ffi::OsStr;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Nothing speaks against it.
    Traceable,
    /// The loader ignores LD_PRELOAD for it, or has none.
    Untraceable(String),
    /// It can't be found or read; whoever runs it will say so.
    Unknown,
}

impl Program {
    /// Looks at the program that `command` names.
    pub(crate) fn inspect(command: &OsStr) -> Program {
        match in_path(command) {
            Some(path) => inspect_file(&path, SCRIPT_DEPTH),
            None => Program::Unknown,
        }
    }
}

/// Why nothing was recorded, for a command that ran.
pub(crate) fn why_untraced(program: &Program, any_ring: bool) -> String {
    match program {
        Program::Untraceable(why) => why.clone(),
        _ if any_ring => "no thread was made, no callback was called, and nothing was logged".to_owned(),
        Program::Traceable => "no thread was made, no callback was called, and nothing was logged, \
                               unless the shim said above why it doesn't trace"
            .to_owned(),
        Program::Unknown => "the command ran only programs that record nothing or can't load the shim \
                             (static, set-uid, musl, a cleared environment), or the shim said why above"
            .to_owned(),
    }
}

/// As the shell finds it.
fn in_path(command: &OsStr) -> Option<PathBuf> {
    if command.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(command));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(command))
        .find(|file| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

pub(crate) fn inspect_file(path: &Path, depth: usize) -> Program {
    let Ok(metadata) = path.metadata() else { return Program::Unknown };
    if !metadata.is_file() {
        return Program::Unknown;
    }
    let shown = path.display();
    let mode = metadata.mode();
    let own = crate::input::own_uid();
    if mode & 0o4000 != 0 && metadata.uid() != own || mode & 0o2010 == 0o2010 {
        return Program::Untraceable(format!(
            "{shown} is set-uid or set-gid: the loader ignores LD_PRELOAD for it"
        ));
    }
    let mut capability = [0; 64];
    let has_capabilities = rustix::fs::getxattr(path, "security.capability", &mut capability[..]).is_ok();
    if own != 0 && has_capabilities {
        return Program::Untraceable(format!(
            "{shown} has capabilities: the loader ignores LD_PRELOAD for it"
        ));
    }
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1 << 20).read_to_end(&mut head));
    if read.is_err() {
        return Program::Unknown;
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
        let interpreter = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        return match depth {
            0 => Program::Unknown,
            _ => inspect_file(Path::new(OsStr::from_bytes(interpreter)), depth - 1),
        };
    }
    inspect_elf(&head, &shown.to_string())
}

fn inspect_elf(head: &[u8], shown: &str) -> Program {
    let no = |why: &str| Program::Untraceable(format!("{shown} {why}"));
    if !head.starts_with(&[0x7f, b'E', b'L', b'F']) {
        return Program::Unknown;
    }
    let Ok(header) = elf::FileHeader64::<object::Endianness>::parse(head) else {
        return no("is not a 64-bit program: the shim is, and can't be loaded into it");
    };
    let Ok(endian) = header.endian() else { return Program::Unknown };
    let machine = if cfg!(target_arch = "x86_64") { elf::EM_X86_64 } else { elf::EM_AARCH64 };
    if header.e_machine(endian) != machine {
        return no("is a program for another processor than the shim");
    }
    let Ok(segments) = header.program_headers(endian, head) else { return Program::Unknown };
    let interpreter = segments.iter().find_map(|s| s.interpreter(endian, head).ok().flatten());
    match interpreter {
        None => no("is statically linked: there is no loader that could load the shim"),
        Some(name) if name.windows(7).any(|part| part == b"ld-musl") => {
            no("uses musl, and the shim needs glibc")
        }
        Some(_) => Program::Traceable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};

    #[test]
    fn programs_that_can_and_that_cannot() {
        let exe = std::env::current_exe().unwrap();
        assert_eq!(Program::inspect(exe.as_os_str()), Program::Traceable);
        assert_eq!(Program::inspect(OsStr::new("sh")), Program::Traceable);
        assert_eq!(Program::inspect(OsStr::new("/no/such/file")), Program::Unknown);
        assert_eq!(Program::inspect(OsStr::new("no-such-command-anywhere")), Program::Unknown);
    }

    #[test]
    fn scripts_are_what_their_interpreter_is() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        write(&script, "#! /bin/sh -e\necho\n").unwrap();
        assert_eq!(Program::inspect(script.as_os_str()), Program::Traceable);
        write(&script, format!("#!{}\n", script.display())).unwrap();
        assert_eq!(Program::inspect(script.as_os_str()), Program::Unknown);
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
        let Program::Untraceable(why) = inspect_elf(&head, "x") else { panic!() };
        assert!(why.contains("statically"));
    }

    #[test]
    fn set_gid_programs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        write(&program, "").unwrap();
        set_permissions(&program, Permissions::from_mode(0o2755)).unwrap();
        assert!(matches!(Program::inspect(program.as_os_str()), Program::Untraceable(_)));
    }
}
