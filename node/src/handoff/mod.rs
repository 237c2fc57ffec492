//! Hints (being built).
mod config;
mod error;
mod terminal;
pub use config::HandoffConfig;
pub use error::HandoffError;
pub use terminal::{DiscardReason, QuarantineReason, Terminal};
