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

/// One more shared library of a fixture: a source that is built in several ways, or put into another folder.
#[derive(Debug)]
pub struct Part {
    /// Whose it is.
    pub fixture: &'static str,
    /// Its file, beside the executable.
    pub file: &'static str,
    /// In the fixture's folder.
    pub source: &'static str,
    /// For compiling and linking, after the flag set's.
    pub flags: &'static [&'static str],
    /// Earlier parts (or the fixture's own library) that it is linked with.
    pub with: &'static [&'static str],
    /// What is changed in the file, since no linker's option does it.
    pub edit: Edit,
}

/// A change of a library's headers.
#[derive(Debug)]
pub enum Edit {
    /// None.
    Nothing,
    /// Without section headers, which no program needs in order to run. (`objcopy` can do it since binutils 2.41.)
    NoSections,
    /// Less than a page more is said to be read-only after relocation. The loader protects whole pages only, so that
    /// it is not; some linkers' output is so by itself.
    RelroBeyond,
}

const fn part(
    fixture: &'static str,
    file: &'static str,
    source: &'static str,
    flags: &'static [&'static str],
    with: &'static [&'static str],
) -> Part {
    Part { fixture, file, source, flags, with, edit: Edit::Nothing }
}

/// In the order in which they are built.
pub const PARTS: &[Part] = &[
    part("shapes", "shapes-lazy.so", "shape.c", &["-Wl,-z,lazy"], &[]),
    part("shapes", "shapes-now.so", "shape.c", &["-Wl,-z,now,-z,relro"], &[]),
    part("shapes", "shapes-no-relro.so", "shape.c", &["-Wl,-z,norelro"], &[]),
    part("shapes", "shapes-sysv.so", "shape.c", &["-Wl,--hash-style=sysv"], &[]),
    part("shapes", "shapes-gnu.so", "shape.c", &["-Wl,--hash-style=gnu"], &[]),
    part("shapes", "shapes-no-plt.so", "shape.c", &["-fno-plt"], &[]),
    part("shapes", "shapes-symbolic.so", "shape.c", &["-Wl,-Bsymbolic"], &[]),
    part("shapes", "shapes-relative.so", "shape.c", &["-Wl,-z,pack-relative-relocs"], &[]),
    part("shapes", "shapes-text.so", "shape.c", &["-DTABLE_IN_CODE", "-Wl,-z,notext,-z,lazy"], &[]),
    part("shapes", "shapes-bare.so", "shape.c", &["-nostartfiles", "-Wl,-z,now"], &[]),
    Part {
        fixture: "shapes",
        file: "shapes-stripped.so",
        source: "shape.c",
        flags: &["-s"],
        with: &[],
        edit: Edit::NoSections,
    },
    Part {
        fixture: "shapes",
        file: "shapes-beyond.so",
        source: "shape.c",
        flags: &["-DTABLE_IS_WRITTEN", "-Wl,-z,relro"],
        with: &[],
        edit: Edit::RelroBeyond,
    },
    part("versions", "versions-new.so", "client.c", &[], &["libversions.so"]),
    part(
        "versions",
        "versions-first/libversions.so",
        "lib.c",
        &["-DFIRST_RELEASE", "-Wl,--version-script=c/versions/first.map"],
        &[],
    ),
    part("versions", "versions-old.so", "client.c", &[], &["versions-first/libversions.so"]),
    part("versions", "versions-none.so", "client.c", &[], &[]),
    part("versions", "versions-shadow.so", "client.c", &["-DOWN"], &["libversions.so"]),
    part("versions", "versions-symbolic.so", "client.c", &["-DOWN", "-Wl,-Bsymbolic"], &["libversions.so"]),
    part("opener", "opener-one/opener-leaf.so", "leaf.c", &["-DNAME=\"one\""], &[]),
    part("opener", "opener-two/opener-leaf.so", "leaf.c", &["-DNAME=\"two\""], &[]),
    part("opener", "opener-one/opener-bare.so", "leaf.c", &["-DNAME=\"bare\"", "-nostartfiles"], &[]),
    part(
        "opener",
        "opener-rpath.so",
        "branch.c",
        &[
            "-DNAME=\"rpath\"",
            "-DLEAVES=\"opener-leaf.so\",\"$ORIGIN/opener-two/opener-leaf.so\",\"opener-bare.so\"",
            "-Wl,--disable-new-dtags,-rpath,$ORIGIN/opener-one",
        ],
        &[],
    ),
    part(
        "opener",
        "opener-runpath.so",
        "branch.c",
        &[
            "-DNAME=\"runpath\"",
            "-DLEAVES=\"opener-leaf.so\",\"$ORIGIN/opener-one/opener-leaf.so\"",
            "-Wl,--enable-new-dtags,-rpath,$ORIGIN/opener-two",
        ],
        &[],
    ),
    part(
        "opener",
        "opener-nowhere.so",
        "branch.c",
        &["-DNAME=\"nowhere\"", "-DLEAVES=\"opener-leaf.so\""],
        &[],
    ),
    part(
        "opener",
        "opener-early.so",
        "branch.c",
        &[
            "-DNAME=\"early\"",
            "-DLEAVES=\"opener-leaf.so\"",
            "-DFROM_CONSTRUCTOR",
            "-Wl,--enable-new-dtags,-rpath,$ORIGIN/opener-one",
        ],
        &[],
    ),
    part(
        "opener",
        "opener-needs.so",
        "leaf.c",
        &["-DNAME=\"needs\"", "-Wl,-rpath,$ORIGIN/opener-two,--no-as-needed"],
        &["opener-two/opener-leaf.so"],
    ),
    part("opener", "opener-deep.so", "deep.c", &[], &[]),
    part("opener", "opener-apart.so", "apart.c", &[], &[]),
    part("churn", "churn-a.so", "leaf.c", &["-DSIZE=32"], &[]),
    part("churn", "churn-b.so", "leaf.c", &["-DSIZE=200", "-Wl,-z,now"], &[]),
    part("churn", "churn-c.so", "leaf.c", &["-DSIZE=64", "-fno-plt", "-Wl,--build-id=none"], &[]),
    part("churn", "churn-d.so", "leaf.c", &["-DSIZE=100", "-Wl,--build-id=none"], &[]),
];

/// In the order in which a reader would want to meet them.
pub const FIXTURES: &[Fixture] = &[
    plain("founding"),
    plain("nested"),
    plain("storm"),
    plain("names"),
    plain("parallel"),
    plain("tables"),
    plain("register"),
    plain("hand-over"),
    plain("inline"),
    plain("live"),
    plain("maps"),
    plain("abi"),
    plain("wide"),
    Fixture { name: "cxxhost", library: &["-fexceptions"] },
    plain("unwind-ways"),
    plain("annotate"),
    plain("annotate-cxx"),
    plain("forker"),
    plain("loader"),
    plain("shapes"),
    plain("opener"),
    plain("churn"),
    // With the hash table of the System V ABI alone.
    Fixture {
        name: "versions",
        library: &["-Wl,--version-script=c/versions/lib.map", "-Wl,--hash-style=sysv"],
    },
    plain("early"),
    plain("signals"),
    plain("stacks"),
    plain("ends"),
    plain("limits"),
    plain("sandbox"),
    plain("filters"),
    plain("leaks"),
    plain("spin"),
];
