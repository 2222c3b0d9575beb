//! Memory as a property: an allocator that counts, and a bound on what one input may take.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static NOW: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts; past the limit there is no more, which ends the process where the memory was wanted.
fn take(size: usize) -> bool {
    let now = NOW.fetch_add(size, Relaxed) + size;
    if now <= LIMIT.load(Relaxed) || std::thread::panicking() {
        return true;
    }
    NOW.fetch_sub(size, Relaxed);
    // Whoever tells of it needs some.
    LIMIT.store(usize::MAX, Relaxed);
    false
}

#[expect(unsafe_code, reason = "an allocator is unsafe by nature; all the work is the system's")]
// SAFETY: every call is the system allocator's, or none at all, which a null pointer says.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !take(size.saturating_sub(layout.size())) {
            return std::ptr::null_mut();
        }
        NOW.fetch_sub(layout.size().saturating_sub(size), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `work`, which may hold at most `limit` bytes more than there are now.
///
/// Only memory of Rust code counts; libFuzzer's limit is for that of C libraries.
pub fn within<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    LIMIT.store(NOW.load(Relaxed) + limit, Relaxed);
    let done = work();
    LIMIT.store(usize::MAX, Relaxed);
    done
}
