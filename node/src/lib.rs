//! placeholder

pub mod endpoint;
pub mod server;
pub mod session;
