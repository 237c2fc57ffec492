//! What the fuzz targets share: all of them are targets of `quorate_tests::harness::fuzz`.

use quorate_tests::harness::fuzz::allocator::Counting;

pub use libfuzzer_sys;
pub use quorate_tests::harness::fuzz::{check, seeds, targets};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The fuzz target of this name.
#[macro_export]
macro_rules! fuzz {
    ($target:ident) => {
        libfuzzer_sys::fuzz_target!(
            init: $crate::seeds::write(&$crate::targets::$target()),
            |input: &[u8]| $crate::check(&$crate::targets::$target(), input)
        );
    };
}
