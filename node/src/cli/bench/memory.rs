//! How fast a core moves bytes and checks them.
//!
//! Invariant: what is computed is used, so that nothing is left out by the compiler. What a batch
//! costs at the least on its way: it is copied and checksummed.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// More than the caches hold.
const MEMORY: usize = 64 << 20;
/// About an encoded batch; caches hold it.
const CACHE: usize = 64 << 10;

/// What is measured, in bytes/s.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    pub(super) copy: f64,
    pub(super) copy_cached: f64,
    pub(super) crc32: f64,
    pub(super) crc32_cached: f64,
}

/// Measures each for about `time`.
pub(super) fn measure(time: Duration) -> Memory {
    let from: Vec<u8> = (0..MEMORY).map(|at| (at * 167 % 251) as u8).collect();
    let mut to = vec![1; MEMORY];
    let (some, mut room) = (&from[..CACHE], vec![1; CACHE]);
    Memory {
        copy: rate(time, MEMORY, || black_box(&mut to).copy_from_slice(black_box(&from))),
        copy_cached: rate(time, CACHE, || black_box(&mut room).copy_from_slice(black_box(some))),
        crc32: rate(time, MEMORY, || {
            black_box(crc32fast::hash(black_box(&from)));
        }),
        crc32_cached: rate(time, CACHE, || {
            black_box(crc32fast::hash(black_box(some)));
        }),
    }
}

fn rate(time: Duration, bytes: usize, mut work: impl FnMut()) -> f64 {
    work();
    let (begun, mut times) = (Instant::now(), 0_u32);
    loop {
        work();
        times += 1;
        let took = begun.elapsed();
        if took >= time {
            return f64::from(times) * bytes as f64 / took.as_secs_f64();
        }
    }
}
