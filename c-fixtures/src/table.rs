//! What is built and how. The build script includes this file too.

/// A way of compiling and linking a fixture.
#[derive(Debug)]
pub struct FlagSet {
    /// As in `O2-fp`.
    pub name: &'static str,
    /// For the host and the C library alike.
    pub compile: &'static [&'static str],
    /// For compiling and linking the host.
    pub host: &'static [&'static str],
    /// For linking both.
    pub link: &'static [&'static str],
}

/// Keeps a frame pointer in every function, leaves included.
const FRAME_POINTERS: &str = "-fno-omit-frame-pointer";
const NO_FRAME_POINTERS: &str = "-fomit-frame-pointer";

/// The C library is built without frame pointers in all of them.
pub const FLAG_SETS: &[FlagSet] = &[
    FlagSet {
        name: "O0-fp",
        compile: &["-O0"],
        host: &[FRAME_POINTERS, "-fPIE", "-pie"],
        link: &["-Wl,-z,lazy"],
    },
    FlagSet {
        name: "O0-nofp",
        compile: &["-O0"],
        host: &[NO_FRAME_POINTERS, "-fPIE", "-pie"],
        link: &["-Wl,-z,lazy"],
    },
    FlagSet {
        name: "O2-fp",
        compile: &["-O2"],
        host: &[FRAME_POINTERS, "-fPIE", "-pie"],
        link: &["-Wl,-z,lazy"],
    },
    FlagSet {
        name: "O2-nofp",
        compile: &["-O2"],
        host: &[NO_FRAME_POINTERS, "-fPIE", "-pie"],
        link: &["-Wl,-z,lazy"],
    },
    FlagSet {
        name: "O2-fp-noplt",
        compile: &["-O2", "-fno-plt"],
        host: &[FRAME_POINTERS, "-fPIE", "-pie"],
        link: &["-Wl,-z,lazy"],
    },
    FlagSet {
        name: "O2-fp-now",
        compile: &["-O2"],
        host: &[FRAME_POINTERS, "-fPIE", "-pie"],
        link: &["-Wl,-z,now,-z,relro"],
    },
    FlagSet {
        name: "O2-fp-nopie",
        compile: &["-O2"],
        host: &[FRAME_POINTERS, "-fno-pie", "-no-pie"],
        link: &["-Wl,-z,lazy"],
    },
];

/// A folder of `c/`: `host.c` or `host.cc` becomes the executable, `lib.c` the shared library that it is linked
/// with, `plugin-X.c` a shared library that it opens. Each host's first comment says what it does and which events
/// it yields.
#[derive(Debug)]
pub struct Fixture {
    /// Of the folder and the executable.
    pub name: &'static str,
    /// For compiling the C side, beside the flag set's.
    pub library: &'static [&'static str],
}

const fn plain(name: &'static str) -> Fixture {
    Fixture { name, library: &[] }
}

/// In the order in which a reader would want to meet them.
pub const FIXTURES: &[Fixture] = &[
    plain("founding"),
    plain("nested"),
    plain("storm"),
    plain("names"),
    plain("parallel"),
    plain("tables"),
    plain("register"),
    plain("abi"),
    plain("wide"),
    Fixture { name: "cxxhost", library: &["-fexceptions"] },
    plain("unwind-ways"),
    plain("annotate"),
    plain("annotate-cxx"),
    plain("forker"),
    plain("loader"),
    plain("early"),
    plain("signals"),
    plain("spin"),
];
