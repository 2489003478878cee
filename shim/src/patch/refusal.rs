//! Why a function's entry is left as it is.

use std::fmt;
use std::io::Error;

#[derive(Debug)]
pub(super) enum Refusal {
    NotCalled,
    Chooser,
    Unsized,
    NoSymbol,
    NotCode,
    Differs,
    Short,
    Undecodable,
    NoTables,
    Call,
    Unmovable,
    JumpsBack,
    SecondEntry,
    OtherThreads,
    NoFile(Error),
    NoRoom(Option<Error>),
    NoStub,
    NoWriting(Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Refusal::NotCalled => "it is not called as C calls functions, or returns more than once",
            Refusal::Chooser => "it only chooses the function that is called (IFUNC)",
            Refusal::Unsized => "its symbol has no size",
            Refusal::NoSymbol => "the module's file has no such symbol",
            Refusal::NotCode => "it is not in the module's code",
            Refusal::Differs => "its code isn't what the file has: a breakpoint, or somebody else's patch",
            Refusal::Short => "it is shorter than a jump",
            Refusal::Undecodable => "it has bytes that can't be decoded, or instructions of AVX-512",
            Refusal::NoTables => "the process was forked in the middle of what decoding takes",
            Refusal::Call => "it begins with a call that can't be moved",
            Refusal::Unmovable => "it begins with an instruction that can't be moved",
            Refusal::JumpsBack => "it jumps back to its first instructions",
            Refusal::SecondEntry => "another symbol is among its first instructions",
            Refusal::OtherThreads => "other threads run already, and one may be in its first instructions",
            Refusal::NoFile(error) => return write!(f, "the module's file can't be read: {error}"),
            Refusal::NoRoom(None) => "there is no room for it within 2 GiB",
            Refusal::NoRoom(Some(error)) => {
                return write!(f, "the system gives no memory for code within 2 GiB: {error}");
            }
            Refusal::NoStub => "there are no more trampolines",
            Refusal::NoWriting(error) => {
                return write!(f, "the system doesn't let the program's code be changed: {error}");
            }
        };
        f.write_str(why)
    }
}
