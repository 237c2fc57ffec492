//! Bytes of strangers, and what reads them.
//!
//! Invariant: whatever the bytes are, reading them does not panic, takes no more memory than a bound, and
//! ends. Shared by the tests, which change inputs blindly for a bounded count, and by the targets of
//! cargo-fuzz, which are guided by coverage; both begin with the same inputs.

pub mod allocator;
pub mod mutate;
mod seal;
pub mod seeds;
pub mod targets;

/// Something that reads bytes of strangers.
#[derive(Clone, Copy)]
pub struct Target {
    /// Names its folder in the corpus, and its fuzz target.
    pub name: &'static str,
    /// Bytes of memory that reading an input may take, beside 64 for each of its own.
    pub bound: usize,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads an input.
    pub read: fn(&[u8]),
}

/// Reads an input as the target does.
///
/// # Panics
/// If that panics, or takes more memory than it may.
pub fn check(target: &Target, input: &[u8]) {
    let peak = allocator::peak_of(|| (target.read)(input));
    let bound = target.bound + 64 * input.len();
    assert!(peak <= bound, "{}: took {peak} bytes, {bound} are allowed", target.name);
}
