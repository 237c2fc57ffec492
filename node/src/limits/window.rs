//! How large the QUIC windows of a connection are, so that those of all have a bound.
//!
//! Invariant: the windows of clients are together at most the pool and one [`LEAST`] for each
//! connection. What arrives out of order, or for a stream that is not read, is kept by QUIC itself and
//! bounded by these windows alone. Used by [`super::Limits`] once it is known who a peer is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The smallest window: enough for a lane at 100 MB/s and 2 ms. Not a setting: SPEC.md promises it to
/// diallers, and `max_connections` bounds how many there are.
pub(crate) const LEAST: u64 = 256 << 10;
/// A connection gets this part of what is left. Not a setting: `window_bytes` bounds all of them, whatever the part.
const PART: u64 = 16;

/// A pool of windows, in bytes.
#[derive(Debug)]
pub(crate) struct Windows(AtomicU64);

/// A window out of the pool; it goes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Window {
    pool: Arc<Windows>,
    taken: u64,
}

impl Windows {
    pub(crate) const fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// A window of `want` bytes at most.
    pub(crate) fn open(self: &Arc<Self>, want: u64) -> Window {
        let mut left = self.0.load(Ordering::Relaxed);
        loop {
            let taken = (left / PART).min(want);
            let taken = if taken < LEAST { 0 } else { taken };
            let swap = self.0.compare_exchange_weak(
                left,
                left - taken,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swap {
                Ok(_) => return Window { pool: Arc::clone(self), taken },
                Err(now) => left = now,
            }
        }
    }
}

impl Window {
    pub(crate) fn bytes(&self) -> u64 {
        self.taken.max(LEAST)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.pool.0.fetch_add(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_never_exceeded_and_comes_back() {
        let total = 512 << 20;
        let pool = Arc::new(Windows::new(total));
        let windows: Vec<Window> = (0..4096).map(|_| pool.open(64 << 20)).collect();
        assert_eq!(windows[0].bytes(), 32 << 20);
        assert_eq!(windows[4095].bytes(), LEAST);
        let beyond = windows.iter().filter(|window| window.taken == 0).count() as u64;
        let sum: u64 = windows.iter().map(Window::bytes).sum();
        assert!(sum <= total + beyond * LEAST, "{sum}");
        drop(windows);
        assert_eq!(pool.0.load(Ordering::Relaxed), total);
        assert_eq!(pool.open(1 << 20).bytes(), 1 << 20);
    }
}
