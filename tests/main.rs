//! The one test binary: one module per behaviour.

mod transport;
