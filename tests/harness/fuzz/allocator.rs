//! How much memory a thread has, and has had at most, while it reads bytes of strangers.
//!
//! Invariant: counts what this thread allocates less what it frees; the rest of the process does not
//! matter. [`Counting`] is the allocator of the test binary and of the fuzz targets; in a process that has
//! another one, [`peak_of`] panics.

// A global allocator cannot be had otherwise; it hands everything on as it comes.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
    sync::Once,
};

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts, and leaves the rest to the system's.
pub struct Counting;

fn add(bytes: isize) {
    // Fails only while the thread ends.
    let _ = LIVE.try_with(|live| {
        let now = live.get() + bytes;
        live.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

// SAFETY: everything is what `System` does; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Bytes that `work` has had at once, at most.
///
/// # Panics
/// If the process does not count.
pub fn peak_of(work: impl FnOnce()) -> usize {
    static COUNTS: Once = Once::new();
    COUNTS.call_once(|| assert!(measure(|| drop(black_box(vec![1u8; 4096]))) >= 4096));
    measure(work)
}

fn measure(work: impl FnOnce()) -> usize {
    let before = LIVE.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    work();
    usize::try_from(PEAK.with(Cell::get) - before).unwrap_or(0)
}
