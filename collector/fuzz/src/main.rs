//! libFuzzer's program: tries the target that `FUZZ_TARGET` names.
//!
//! `scripts/fuzz.sh` builds it with coverage. The targets themselves, and the
//! test that replays the corpus without a fuzzer, are in `collector/src/fuzz.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod target {
    use std::sync::OnceLock;
    use traceshim_collector::fuzz::TARGETS;

    type Target = fn(&[u8]);

    fn chosen() -> Target {
        static CHOSEN: OnceLock<Target> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
            match TARGETS.iter().find(|(name, _)| *name == wanted) {
                Some(&(_, target)) => target,
                None => {
                    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
                    eprintln!("FUZZ_TARGET={wanted}: must be one of {}", names.join(", "));
                    std::process::exit(2)
                }
            }
        })
    }

    libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chosen()(bytes));
}

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without the fuzzer; see scripts/fuzz.sh");
    std::process::exit(2);
}
