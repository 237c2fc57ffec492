//! The one test binary: one module per behaviour.

mod levels;
mod meta;
