//! The program's errno outlives whatever we do.
#![allow(unsafe_code)]

/// Puts errno back when it goes out of scope.
pub(crate) struct KeepErrno(i32);

impl KeepErrno {
    pub(crate) fn new() -> KeepErrno {
        KeepErrno(*errno())
    }
}

/// The calling thread's.
pub(crate) fn get() -> i32 {
    *errno()
}

/// Sets the calling thread's.
pub(crate) fn set(value: i32) {
    *errno() = value;
}

fn errno() -> &'static mut i32 {
    // SAFETY: always succeeds.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the location is this thread's own and valid while the thread
    // runs; each borrow ends with the statement that makes it.
    unsafe { &mut *place }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        *errno() = self.0;
    }
}
