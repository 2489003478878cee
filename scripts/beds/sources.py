#!/usr/bin/env python3
"""Builds test programs of Debian's source packages and runs them; prints how each ended, sorted.

    sources.py [-j N] [--only GLOB...] DIRECTORY posix|glibc

posix is the Open POSIX Test Suite; glibc is what can be built of libc's own tests without libc's build. They are
fetched and built in DIRECTORY, unless they are there. Needs apt-get and gcc, and no root.
"""

import argparse
import concurrent.futures
import contextlib
import fnmatch
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import tempfile

SUPPORT_DEFINES = [f'-D{name}="/"' for name in (
    "OBJDIR_PATH", "SRCDIR_PATH", "LIBDIR_PATH", "SLIBDIR_PATH", "BINDIR_PATH", "SBINDIR_PATH", "ROOTSBINDIR_PATH",
    "INSTDIR_PATH", "COMPLOCALEDIR_PATH", "SYSCONFDIR_PATH")] + [
    '-DOBJDIR_ELF_LDSO_PATH="/lib64/ld-linux-x86-64.so.2"', "-Dattribute_hidden=", "-Dlibc_hidden_proto(x)=",
    "-Dlibc_hidden_def(x)="]
GLIBC_DEFINES = ["-w", "-std=gnu11", "-O2", "-D_GNU_SOURCE", "-DIN_MODULE=0", "-DMODULE_NAME=testsuite",
                 "-DTIMEOUTFACTOR=1", "-include", "limits.h"]
GLIBC_TESTS = ("nptl", "sysdeps/pthread", "sysdeps/unix/sysv/linux", "setjmp", "signal", "posix", "stdlib", "malloc",
               "debug", "rt", "misc", "time", "elf", "io", "socket")
# They take every key of thread-specific data that there is, and one is the shim's.
TAKE_ALL_KEYS = ("sysdeps_pthread_tst-key1", "sysdeps_pthread_tst-key4", "sysdeps_pthread_tst-tss-basic")


def quietly(command, **more):
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, **more)


def compiles(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def fetch(where, package):
    """The unpacked sources, as their authors released them."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    sources = where / "sources.list"
    sources.write_text("deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
                       f"http://deb.debian.org/debian {release} main\n")
    (where / "lists/partial").mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-", "-o",
           f"Dir::State::lists={where}/lists", "-o", f"Dir::Cache={where}/cache"]
    (where / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    quietly([*apt, "update"], cwd=where)
    quietly([*apt, "source", "--download-only", package], cwd=where)
    archive = next(where.glob(f"{package}_*.orig.tar.*"))
    quietly(["tar", "xf", archive.name], cwd=where)
    return next(path for path in where.iterdir() if path.is_dir() and path.name.startswith(package))


def in_parallel(function, what):
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(function, what))


def build_posix(where, programs):
    root = fetch(where, "posixtestsuite")

    def build(source):
        name = "_".join(source.relative_to(root).with_suffix("").parts)
        compiles(["gcc", "-w", "-std=gnu99", "-O1", "-D_GNU_SOURCE", f"-I{root}/include", "-pthread", "-rdynamic", "-o",
                  programs / name, source, "-lrt", "-lm"])

    in_parallel(build, sorted([*root.glob("conformance/interfaces/*/*.c"), *root.glob("functional/**/*.c")]))


def build_glibc(where, programs):
    root = fetch(where, "glibc")
    # Their helpers, and of the internal headers as few as these can do with.
    headers, objects = where / "include", where / "support"
    shutil.rmtree(headers, ignore_errors=True)
    (headers / "malloc").mkdir(parents=True)
    objects.mkdir(exist_ok=True)
    (headers / "support").symlink_to(root / "support")
    for name in ("array_length.h", "intprops.h", "libc-diag.h", "file_change_detection.h", "libc-pointer-arith.h"):
        shutil.copy(root / "include" / name, headers)
    for source in root.glob("malloc/dynarray*.[ch]"):
        shutil.copy(source, headers / "malloc")
    shutil.copy(root / "test-skeleton.c", headers)
    shutil.copy(root / "test-skeleton.c", root / "sysdeps")
    (headers / "config.h").write_text("")
    (headers / "stackinfo.h").write_text(
        "#include <elf.h>\n#define _STACK_GROWS_DOWN 1\n#define DEFAULT_STACK_PERMS (PF_R | PF_W | PF_X)\n")
    here = [f"-I{headers}", f"-I{root}/support"]

    def build_support(source):
        compiles(["gcc", *GLIBC_DEFINES, *SUPPORT_DEFINES, *here, "-c", "-o", objects / f"{source.stem}.o", source])

    own_main = ("tst-", "test-", "shell-container", "links-dso-program", "true-container", "echo-container")
    in_parallel(build_support, [source for source in root.glob("support/*.c") if not source.name.startswith(own_main)])
    library = where / "libsupport.a"
    quietly(["ar", "rcs", library, *objects.glob("*.o")])

    def build(source):
        name = "_".join(source.relative_to(root).with_suffix("").parts)
        compiles(["gcc", *GLIBC_DEFINES, *here, f"-I{source.parent}", "-fexceptions", "-pthread", "-rdynamic", "-o",
                  programs / name, source, library, "-lm"])

    in_parallel(build, sorted(source for folder in GLIBC_TESTS for source in (root / folder).glob("tst-*.c")))


def run(program):
    """One line: how the program ended."""
    with tempfile.TemporaryDirectory(prefix="test-program-") as home:
        process = subprocess.Popen([program], env={**os.environ, "HOME": home, "TMPDIR": home}, cwd=home,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        try:
            how = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            how = "timeout"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"{program.name} {how}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-j", type=int, default=8, help="programs at once: they wait, mostly")
    parser.add_argument("--only", nargs="+", default=[], metavar="GLOB")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("suite", choices=("posix", "glibc"))
    asked = parser.parse_args()
    where = asked.directory.resolve() / asked.suite
    programs = where / "programs"
    if not (where / "ready").exists():
        programs.mkdir(parents=True, exist_ok=True)
        {"posix": build_posix, "glibc": build_glibc}[asked.suite](where, programs)
        (where / "ready").touch()
    wanted = [path for path in sorted(programs.iterdir()) if path.name not in TAKE_ALL_KEYS
              and any(fnmatch.fnmatch(path.name, glob) for glob in asked.only or ["*"])]
    with concurrent.futures.ThreadPoolExecutor(asked.j) as pool:
        for line in pool.map(run, wanted):
            print(line)


if __name__ == "__main__":
    main()
