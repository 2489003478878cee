#![allow(unsafe_code)]
#![allow(dead_code)] // Each test uses its part.
//! What the tests that walk real stacks share: the modules and the stack of
//! this process, C code built on the spot, and the registers of a caller.

pub(crate) mod stub;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use traceshim_unwind::{FramePointers, ModuleDesc, Regs, StackBounds, sections_of};

/// The modules that the loader knows, with `load_id` counted from 1.
pub(crate) fn modules(frame_pointers: FramePointers) -> Vec<ModuleDesc> {
    unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid entry, `modules` its vector.
        let info = unsafe { &*info };
        // SAFETY: as above.
        let out = unsafe { &mut *data.cast::<(Vec<ModuleDesc>, FramePointers)>() };
        // SAFETY: the loader's table has that many headers.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let range = |p: &libc::Elf64_Phdr| p.p_vaddr..p.p_vaddr + p.p_memsz;
        let loads: Vec<_> = headers
            .iter()
            .filter(|p| p.p_type == libc::PT_LOAD && p.p_flags & libc::PF_R != 0)
            .map(range)
            .collect();
        let all: Vec<_> = headers.iter().filter(|p| p.p_type == libc::PT_LOAD).map(range).collect();
        let lo = all.iter().map(|r| r.start).min().unwrap_or(0);
        let hi = all.iter().map(|r| r.end).max().unwrap_or(0);
        let bias = info.dlpi_addr;
        let sections = headers
            .iter()
            .find(|p| p.p_type == libc::PT_GNU_EH_FRAME)
            // SAFETY: the segments are mapped, and the tests unload nothing while a set is in use.
            .and_then(|p| unsafe { sections_of(bias, range(p), &loads, false) })
            .unwrap_or_default();
        out.0.push(ModuleDesc {
            avma_start: lo.wrapping_add(bias),
            avma_end: hi.wrapping_add(bias),
            bias,
            eh_frame_hdr_svma: sections.eh_frame_hdr_svma,
            eh_frame_hdr: sections.eh_frame_hdr,
            eh_frame_svma: sections.eh_frame_svma,
            eh_frame: sections.eh_frame,
            hidden: false,
            load_id: out.0.len() as u64 + 1,
            frame_pointers: out.1,
        });
        0
    }
    let mut out = (Vec::new(), frame_pointers);
    // SAFETY: `each` keeps the callback's contract and `out` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut out).cast()) };
    out.0
}

/// The calling thread's own stack, from a little below the caller. (The main
/// thread's isn't mapped down to its limit.)
pub(crate) fn own_stack() -> StackBounds {
    let whole = whole_stack();
    let here = (&raw const whole).addr() as u64;
    let lo = (here.saturating_sub(4096) & !7).max(whole.lo());
    // SAFETY: a part of what `whole_stack` has found.
    unsafe { StackBounds::new(lo, whole.hi()) }
}

/// The calling thread's own stack down to its limit.
pub(crate) fn whole_stack() -> StackBounds {
    let (mut base, mut len) = (std::ptr::null_mut(), 0);
    // One sequence of calls, for one reason.
    // SAFETY: plain calls with valid out-pointers; the stack is mapped while the thread runs.
    #[allow(clippy::multiple_unsafe_ops_per_block)]
    unsafe {
        let mut attr: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_getattr_np(libc::pthread_self(), &mut attr);
        libc::pthread_attr_getstack(&attr, &mut base, &mut len);
        libc::pthread_attr_destroy(&mut attr);
        StackBounds::new(base.addr() as u64, (base.addr() + len) as u64)
    }
}

/// A function like glibc's `backtrace`.
pub(crate) type Backtrace = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;

/// What glibc's own unwinder says about the stack here.
pub(crate) fn glibc_backtrace() -> Vec<u64> {
    unsafe extern "C" {
        fn backtrace(buffer: *mut *mut c_void, size: c_int) -> c_int;
    }
    backtrace_by(backtrace)
}

/// What another unwinder says.
pub(crate) fn backtrace_by(backtrace: Backtrace) -> Vec<u64> {
    let mut buffer = [std::ptr::null_mut(); 512];
    // SAFETY: the buffer has room for 512 addresses.
    let n = unsafe { backtrace(buffer.as_mut_ptr(), 512) };
    buffer.iter().take(n as usize).map(|a| a.addr() as u64).collect()
}

/// libunwind's own backtrace, where it is installed.
pub(crate) fn libunwind() -> Option<Backtrace> {
    let found = Library::find("libunwind.so.8").and_then(|l| l.get("unw_backtrace"));
    if found.is_none() {
        println!("skipped: libunwind.so.8 is not installed");
    }
    // SAFETY: `unw_backtrace` is declared like `backtrace`.
    found.map(|f| unsafe { std::mem::transmute::<*mut c_void, Backtrace>(f) })
}

/// What gdb says about the stack here, taken from a copy of the process.
pub(crate) fn gdb_backtrace() -> Vec<u64> {
    // SAFETY: the child does nothing but wait to be looked at and killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    let script = "python\n\
        frame = gdb.newest_frame()\n\
        while frame is not None:\n\
        \x20   if frame.type() in (gdb.NORMAL_FRAME, gdb.SIGTRAMP_FRAME): print('pc', hex(frame.pc()))\n\
        \x20   frame = frame.older()\n\
        end\n";
    let path = output("frames.gdb");
    std::fs::write(&path, script).expect("a script");
    let out = Command::new("gdb")
        .args(["-batch", "-nx", "-iex", "set debuginfod enabled off", "-ex", "set backtrace past-main on"])
        .args(["-p", &child.to_string(), "-x"])
        .arg(&path)
        .output()
        .expect("gdb");
    let _ = std::fs::remove_file(&path);
    // SAFETY: ends our own child.
    unsafe { libc::kill(child, libc::SIGKILL) };
    // SAFETY: waits for our own child.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    let text = String::from_utf8_lossy(&out.stdout);
    let frames = text.lines().filter_map(|line| line.strip_prefix("pc 0x"));
    frames.map(|pc| u64::from_str_radix(pc, 16).expect("an address")).collect()
}

/// The name of the function around an address, where it is exported.
pub(crate) fn symbol(address: u64) -> String {
    // One sequence of calls, for one reason.
    // SAFETY: `dladdr` writes the structure that it is given.
    #[allow(clippy::multiple_unsafe_ops_per_block)]
    let info = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        libc::dladdr((address - 1) as *const c_void, &mut info);
        info
    };
    let text = |p: *const c_char| match p.is_null() {
        true => "?".to_owned(),
        // SAFETY: the loader's strings end with a zero byte.
        false => unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned(),
    };
    let file = text(info.dli_fname);
    format!(
        "{}@{}+{:#x}",
        text(info.dli_sname),
        file.rsplit('/').next().unwrap_or(""),
        address.wrapping_sub(info.dli_fbase.addr() as u64)
    )
}

/// Runs a compiler, with its output in the panic where it fails.
pub(crate) fn compile(compiler: &str, args: &[&str]) {
    let out = Command::new(compiler).args(args).output().expect(compiler);
    assert!(out.status.success(), "{compiler} {}:\n{}", args.join(" "), String::from_utf8_lossy(&out.stderr));
}

/// Whether a compiler can be run; says so where it can't.
pub(crate) fn have(compiler: &str) -> bool {
    let found = Command::new(compiler).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        println!("skipped: {compiler} is not installed");
    }
    found
}

/// A file of `tests/c`.
pub(crate) fn source(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name).display().to_string()
}

/// A place for what the tests build.
pub(crate) fn output(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()))
}

/// A library that stays open.
pub(crate) struct Library(*mut c_void);

impl Library {
    /// Opens a library that was just built.
    pub(crate) fn open(path: &Path) -> Library {
        let library = Self::find(path.to_str().expect("UTF-8"));
        library.unwrap_or_else(|| panic!("can't open {}", path.display()))
    }

    /// Opens a library by its name, where it is there.
    pub(crate) fn find(name: &str) -> Option<Library> {
        let name = CString::new(name).expect("no zero byte");
        // SAFETY: neither the tests' libraries nor those of the system mind.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        (!handle.is_null()).then_some(Library(handle))
    }

    pub(crate) fn get(&self, name: &str) -> Option<*mut c_void> {
        let name = CString::new(name).expect("no zero byte");
        // SAFETY: the handle is open and the name ends with a zero byte.
        let p = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!p.is_null()).then_some(p)
    }
}

/// The order that the tests' assembly stores registers in.
const _: () = assert!(std::mem::offset_of!(Regs, r15) == 56 && size_of::<Regs>() == 64);
