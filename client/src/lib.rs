//! placeholder

pub mod backoff;
pub mod config;
pub mod connection;
pub mod env;
pub mod lane;
pub mod pool;
