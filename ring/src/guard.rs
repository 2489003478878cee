//! Mapped files that get shorter, in the collector's process.
//!
//! Touching a mapping behind the end of its file is a SIGBUS, and anybody who
//! may write to a file may cut it, at any time. So the places that hold such
//! mappings are known here, and a handler puts zeroed memory where a page is
//! gone: whoever reads there finds nothing, and [`faults`] tells them why. The
//! shim installs no handler; it uses nothing of this.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io::{Error, Result};
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// A mapping that is looked after, as long as this lives.
#[derive(Debug)]
pub(crate) struct Guarded(&'static Place);

/// Places are only ever added, so that the handler can walk them at any time;
/// an empty one is used again.
#[derive(Debug)]
struct Place {
    start: AtomicUsize,
    /// 0 where the place is empty.
    bytes: AtomicUsize,
    next: *const Place,
}

// SAFETY: `next` is set before the place is shared, and points to another one
// that is never freed.
unsafe impl Sync for Place {}

static PLACES: AtomicPtr<Place> = AtomicPtr::new(null_mut());
/// Whether the handler is there; held by whoever changes the list.
static INSTALLED: Mutex<bool> = Mutex::new(false);

thread_local! {
    /// Constant at first and without a destructor: a word that a handler may use.
    static FAULTS: Cell<usize> = const { Cell::new(0) };
}

/// How often this thread met memory in the place of a file that got shorter.
pub fn faults() -> usize {
    FAULTS.get()
}

/// Looks after the `bytes` bytes that are mapped at `start`.
pub(crate) fn guard(start: *const u8, bytes: usize) -> Result<Guarded> {
    let mut installed = INSTALLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !*installed {
        install()?;
        *installed = true;
    }
    let free = places().find(|place| place.bytes.load(Ordering::Relaxed) == 0);
    let place = free.unwrap_or_else(|| {
        let next = PLACES.load(Ordering::Relaxed);
        let place = Place { start: AtomicUsize::new(0), bytes: AtomicUsize::new(0), next };
        let place = Box::leak(Box::new(place));
        PLACES.store(place, Ordering::Release);
        place
    });
    place.start.store(start.addr(), Ordering::Relaxed);
    place.bytes.store(bytes, Ordering::Release);
    Ok(Guarded(place))
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.bytes.store(0, Ordering::Release);
    }
}

fn places() -> impl Iterator<Item = &'static Place> {
    let first: *const Place = PLACES.load(Ordering::Acquire);
    // SAFETY: null, or a place, which is never freed.
    let as_place = |at: *const Place| unsafe { at.as_ref() };
    std::iter::successors(as_place(first), move |place| as_place(place.next))
}

fn install() -> Result<()> {
    // SAFETY: all zeros is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does
    // only what a handler may.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid one.
    let info = unsafe { &*info };
    // SAFETY: the field is there for this signal.
    let address = unsafe { info.si_addr() }.addr();
    let is_in = |place: &Place| {
        let bytes = place.bytes.load(Ordering::Acquire);
        address.wrapping_sub(place.start.load(Ordering::Relaxed)) < bytes
    };
    if info.si_code == libc::BUS_ADRERR && places().any(is_in) && replace_page(address) {
        FAULTS.set(FAULTS.get() + 1);
        return;
    }
    // None of ours: the access is tried again, and ends the process as ever.
    // SAFETY: sets the default action.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

/// Maps zeroed memory over the page that holds `address`.
fn replace_page(address: usize) -> bool {
    // SAFETY: asks for a constant.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return false };
    let at = null::<libc::c_void>().with_addr(address / page * page).cast_mut();
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the page belongs to a mapping of ours whose file has no such page
    // any more. It is seen as atomics, or as bytes that others may change.
    let new = unsafe { libc::mmap(at, page, access, kind | libc::MAP_FIXED, -1, 0) };
    new != libc::MAP_FAILED
}
