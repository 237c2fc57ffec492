//! The one test binary: one module per behaviour.

mod hints;
mod levels;
mod meta;
mod mute;
mod torn;
mod transport;
mod versions;
