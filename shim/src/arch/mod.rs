//! What only assembly can do, one folder per architecture with the same file
//! names in each.

#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod current;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
compile_error!("traceshim supports x86-64 Linux with glibc: other ABIs need a folder beside src/arch/x86_64");

pub(crate) use current::*;
