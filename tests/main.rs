//! The one test binary: one module per behaviour.

mod crash;
mod determinism;
mod hints;
mod levels;
mod meta;
mod mute;
mod torn;
mod transport;
mod versions;
