//! Which libraries a program will have, in the order in which the loader looks
//! for names: the loader itself says so, without running any of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the loader says.
#[derive(Debug, Default)]
pub(crate) struct Libraries {
    /// Their files, in order; the program itself isn't among them.
    pub(crate) paths: Vec<PathBuf>,
    /// Names that aren't found.
    pub(crate) missing: Vec<String>,
    /// What else it complains about.
    pub(crate) complaints: Vec<String>,
    /// Whether it gives up.
    pub(crate) fails: bool,
}

/// Asks `loader` what it would load for the file at `path`, with this value of
/// LD_PRELOAD. `--list` maps the files and runs nothing of them; but it is the
/// program that names its loader, and that one does run. So it must be one that
/// the system's administrator has installed.
pub(crate) fn list(loader: &Path, path: &Path, preload: &OsStr) -> Result<Libraries, String> {
    let shown = loader.display();
    let metadata = loader.metadata().map_err(|error| format!("its loader {shown}: {error}"))?;
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err(format!("its loader {shown} isn't the system's, and isn't run"));
    }
    let mut command = Command::new(loader);
    command.arg("--list").arg(path).env("LD_PRELOAD", preload).stdin(Stdio::null());
    // These would run code, or say more.
    for name in ["LD_AUDIT", "LD_DEBUG", "LD_VERBOSE", "LD_WARN", "LD_PROFILE"] {
        command.env_remove(name);
    }
    let output = command.output().map_err(|error| format!("its loader {shown}: {error}"))?;
    let mut libraries = parse(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    libraries.complaints.extend(stderr.lines().map(|line| line.trim().to_owned()));
    libraries.fails = !output.status.success();
    if libraries.fails && libraries.complaints.is_empty() {
        libraries.complaints.push(format!("its loader {shown} can't list its libraries: {}", output.status));
    }
    Ok(libraries)
}

/// Lines as `libc.so.6 => /lib/libc.so.6 (0x7f..)`, `/lib/ld.so (0x7f..)`.
fn parse(output: &[u8]) -> Libraries {
    let mut libraries = Libraries::default();
    for line in output.split(|&b| b == b'\n').map(<[u8]>::trim_ascii) {
        let (name, target) = match find(line, b" => ") {
            Some(at) => (&line[..at], &line[at + 4..]),
            None => (line, line),
        };
        if target == b"not found" {
            libraries.missing.push(String::from_utf8_lossy(name).into_owned());
        } else if let Some(end) = find(target, b" (0x") {
            // The vdso has a name and no file. Some are linked by a path that is
            // relative to where we are.
            let path = &target[..end];
            let is_path = path.contains(&b'/');
            libraries.paths.extend(is_path.then(|| Path::new(OsStr::from_bytes(path)).to_owned()));
        } else if line == b"statically linked" {
            // It needs none.
        } else if !line.is_empty() {
            libraries.complaints.push(String::from_utf8_lossy(line).into_owned());
        }
    }
    libraries
}

fn find(line: &[u8], part: &[u8]) -> Option<usize> {
    line.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_prints() {
        let found = parse(
            b"\tlinux-vdso.so.1 (0x00007ffd)\n\t/opt/a shim.so (0x7f)\n\t./liba.so (0x7f)\n\tlibx.so.1 => /lib/libx.so.1 (0x7f)\n\
              \tliby.so => not found\n/x: version `V' not found\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n",
        );
        let paths = ["/opt/a shim.so", "./liba.so", "/lib/libx.so.1", "/lib64/ld-linux-x86-64.so.2"]
            .map(PathBuf::from);
        assert_eq!(found.paths, paths);
        assert_eq!(found.missing, ["liby.so"]);
        assert_eq!(found.complaints, ["/x: version `V' not found"]);
    }

    #[test]
    fn a_loader_that_anybody_may_have_put_there_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let loader = dir.path().join("ld.so");
        std::fs::write(&loader, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&loader, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let why = list(&loader, Path::new("/bin/true"), OsStr::new("")).unwrap_err();
        assert!(why.contains("isn't the system's"), "{why}");
    }
}
