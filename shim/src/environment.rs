//! The environment, before libc's own constructor has said where it is.
//!
//! Ours runs first of all. What libc would find then, its `environ`, is set a
//! moment later to what the kernel put behind the program's arguments.
#![allow(unsafe_code)]

unsafe extern "C" {
    static mut environ: *const *const libc::c_char;
}

/// The arguments' count, and behind it the arguments and the environment, as
/// the kernel laid them out; 0 where the loader doesn't say.
pub(crate) fn stack_end() -> u64 {
    let end = crate::real::dlsym(libc::RTLD_DEFAULT, c"__libc_stack_end") as *const u64;
    if end.is_null() {
        return 0;
    }
    // SAFETY: the loader's variable of this name is a pointer.
    unsafe { end.read() }
}

/// Sets `environ` where libc has not done so yet.
pub(crate) fn provide() {
    let place = &raw mut environ;
    // SAFETY: libc's variable; nobody else runs yet who could change it.
    let missing = unsafe { place.read() }.is_null();
    let end = stack_end() as *const u64;
    if missing && !end.is_null() {
        // SAFETY: the count of arguments is the first word there.
        let arguments = unsafe { end.read() } as usize;
        // One word for the count, and one that ends the arguments.
        let environment = end.wrapping_add(arguments + 2);
        // SAFETY: as above; libc will set it to the same value.
        unsafe { place.write(environment.cast()) };
    }
}
