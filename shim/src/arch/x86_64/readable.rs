//! Whether memory can be read, without touching it.
#![allow(unsafe_code)]

/// Asks the system to block the signals that rsi points to, in a way that there
/// isn't: it looks whether it can read them first, and says [`IS`] in eax if so.
/// What is mapped but may not be read (a guard page) is told as well, which
/// `mincore` doesn't. Changes rax, rcx, rdx, rdi, r10 and r11.
macro_rules! ask {
    () => {
        "mov edi, -1
        xor edx, edx
        mov r10d, 8
        mov eax, 14
        syscall"
    };
}
pub(super) use ask;

/// The system's answer where it has read the eight bytes.
pub(super) const IS: i32 = -libc::EINVAL;

/// Whether the eight bytes at `address` can be read.
pub(crate) fn is_readable(address: u64) -> bool {
    let answer: i32;
    // SAFETY: changes nothing, as there is no such way to change the mask.
    unsafe {
        std::arch::asm!(
            ask!(),
            in("rsi") address,
            out("eax") answer,
            out("rcx") _, out("rdx") _, out("rdi") _, out("r10") _, out("r11") _,
            options(nostack),
        );
    }
    answer == IS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_can_be_read() {
        const PAGE: usize = 4096;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        for (access, is) in [(libc::PROT_READ, true), (libc::PROT_NONE, false)] {
            // SAFETY: a fresh page.
            let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, kind, -1, 0) };
            assert_ne!(page, libc::MAP_FAILED);
            assert_eq!(is_readable(page as u64), is);
            // SAFETY: the same page.
            assert_eq!(unsafe { libc::munmap(page, PAGE) }, 0);
        }
        assert!(!is_readable(0) && !is_readable(u64::MAX << 47));
    }
}
