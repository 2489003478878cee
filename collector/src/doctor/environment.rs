//! This machine and this user's settings, whatever the program.

use std::ffi::OsString;
use std::path::PathBuf;

use rustix::process::{Resource, getrlimit};
use traceshim_ring::env::Config;

use super::finding::Finding;
use crate::launch::{SessionDir, find, parent, preload};

/// What every program would meet here.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// The library to preload, and the value of LD_PRELOAD that does it.
    pub(crate) shim: Option<(PathBuf, OsString)>,
    /// Where `record` puts its session directories.
    pub(crate) session_parent: PathBuf,
    /// How many bytes are free there.
    pub(crate) free_bytes: Option<u64>,
    /// What a process's ring takes of them.
    pub(crate) ring_bytes: u64,
}

impl Environment {
    /// Looks at it, and adds what there is to say to `findings`.
    pub(crate) fn check(config: &Config, findings: &mut Vec<Finding>) -> Environment {
        let session_parent = parent();
        let mut environment =
            Environment { session_parent, ring_bytes: config.ring_bytes, ..Environment::default() };
        environment.find_shim(findings);
        environment.try_session(findings);
        limits(config, findings);
        kernel(findings);
        environment
    }

    fn find_shim(&mut self, findings: &mut Vec<Finding>) {
        let present = std::env::var_os("LD_PRELOAD").filter(|value| !value.is_empty());
        let found = find().and_then(|path| Ok((preload(&path, present.clone())?, path)));
        match found {
            Ok((value, path)) => self.shim = Some((path, value)),
            Err(error) => findings.push(Finding::blocker("shim", format!("{error:#}"))),
        }
        let file = std::fs::read_to_string("/etc/ld.so.preload").unwrap_or_default();
        if !file.trim().is_empty() {
            let what = format!("/etc/ld.so.preload puts {} into every program, too", file.trim());
            findings.push(Finding::note("preload", what));
        }
        if let Some(present) = present {
            let what = format!("LD_PRELOAD holds {}; the shim comes before it", present.display());
            findings.push(Finding::note("preload", what));
        }
    }

    /// Makes a session directory as `record` does, and removes it.
    fn try_session(&mut self, findings: &mut Vec<Finding>) {
        let advice = "name a directory with TRACESHIM_DIR";
        if let Err(error) = SessionDir::create() {
            findings.push(Finding::blocker("session", format!("{error:#}")).advise(advice));
            return;
        }
        let Ok(there) = rustix::fs::statvfs(&self.session_parent) else { return };
        let free = there.f_bavail.saturating_mul(there.f_frsize);
        self.free_bytes = Some(free);
        let (shown, rings) = (self.session_parent.display(), free / self.ring_bytes.max(1));
        let what = format!("{shown} has {} free, and a ring takes {}", bytes(free), bytes(self.ring_bytes));
        let advice = "choose a smaller --ring-size, or name a directory with TRACESHIM_DIR";
        match rings {
            0 => findings.push(Finding::blocker("space", what).advise(advice)),
            1..8 => {
                let what = format!("{what}: enough for {rings} processes at a time");
                findings.push(Finding::note("space", what).advise(advice));
            }
            _ => {}
        }
        if rustix::fs::statfs(&self.session_parent).is_ok_and(|fs| !IN_MEMORY.contains(&fs.f_type)) {
            let what = format!("{shown} is on a disk, to which rings are written back all the time");
            let advice = "a directory in memory costs less: TRACESHIM_DIR=/dev/shm";
            findings.push(Finding::note("session", what).advise(advice));
        }
    }
}

/// What statfs(2) calls tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// A number of bytes, for people.
pub(crate) fn bytes(count: u64) -> String {
    let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    match units.iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} bytes"),
    }
}

fn limits(config: &Config, findings: &mut Vec<Finding>) {
    for (resource, name) in [(Resource::Fsize, "RLIMIT_FSIZE"), (Resource::As, "RLIMIT_AS")] {
        if let Some(limit) = getrlimit(resource).current
            && limit < config.ring_bytes
        {
            let (limit, ring) = (bytes(limit), bytes(config.ring_bytes));
            let what = format!("{name} is {limit}, and a ring takes {ring}");
            findings
                .push(Finding::blocker("limits", what).advise("raise it, or choose a smaller --ring-size"));
        }
    }
}

fn kernel(findings: &mut Vec<Finding>) {
    if std::fs::read_link("/proc/self/exe").is_err() {
        let what = "/proc is not mounted: the executable isn't recognised, so that nothing of it is hooked, \
                    and its threads are called born in C";
        findings.push(Finding::limit("proc", what).advise("mount -t proc proc /proc"));
    }
    // A page that is wiped in a child (MADV_WIPEONFORK) tells of forks.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    if let (Some(major), Some(minor)) = (numbers.next(), numbers.next())
        && (major, minor) < (4, 14)
    {
        let what = format!("Linux {} is older than 4.14: forked children aren't noticed", release.trim());
        findings.push(Finding::limit("kernel", what));
    }
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find_map(|line| line.strip_prefix("flags"));
    if flags.is_some_and(|flags| !flags.split_whitespace().any(|flag| flag == "nonstop_tsc")) {
        let what = "the processor's time-stamp counter isn't invariant: each time is asked of the kernel";
        findings.push(Finding::note("clock", what));
    }
    let setting = |path: &str| std::fs::read_to_string(path).ok().map(|value| value.trim().to_owned());
    let ptrace = setting("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_else(|| "none".into());
    let perf = setting("/proc/sys/kernel/perf_event_paranoid").unwrap_or_else(|| "none".into());
    let what = format!(
        "no privileges are needed: neither ptrace (ptrace_scope {ptrace}) nor perf (perf_event_paranoid \
         {perf}) is used"
    );
    findings.push(Finding::note("privileges", what));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(16 << 20), "16.0 MB");
        assert_eq!(bytes(3 << 29), "1.5 GB");
        assert_eq!(bytes(12), "12 bytes");
    }
}
