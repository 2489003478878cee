//! The program's errno outlives whatever we do.
#![allow(unsafe_code)]

/// Puts errno back when it goes out of scope.
pub(crate) struct KeepErrno(i32);

impl KeepErrno {
    pub(crate) fn new() -> KeepErrno {
        // SAFETY: the location is this thread's and always valid.
        KeepErrno(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: see above.
        unsafe { *libc::__errno_location() = self.0 };
    }
}
