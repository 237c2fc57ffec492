//! A Quorate node: journal, shards, hinted handoff and metadata; and the `quorate` command.
//!
//! Reading order: [`start`] puts a node together; `server` and `session` take requests, `service`
//! hands them to `write`, `query`, `change`, `hints` and `status`; `http` serves metrics and `health`; [`journal`], [`shard`], [`handoff`] and
//! [`meta`] keep what must last, over [`segment`] and [`disk`].

mod accepted;
mod background;
mod cardinality;
mod certificates;
mod change;
pub mod cli;
pub mod config;
mod core;
mod data;
mod directory;
pub mod disk;
pub mod endpoint;
pub mod executor;
mod feed;
#[doc(hidden)]
pub mod fleet;
mod grants;
pub mod handoff;
mod health;
mod hints;
mod http;
mod intake;
pub mod journal;
mod leaving;
mod lifecycle;
pub mod limits;
pub mod meta;
mod metrics_help;
pub mod poison;
mod query;
mod raft;
pub mod segment;
pub mod server;
mod service;
pub mod session;
pub mod shard;
mod sink;
#[cfg(test)]
#[path = "../../protocol/tests/spec/mod.rs"]
mod spec;
pub mod start;
mod status;
mod survey;
mod truncate;
mod watch;
mod write;

pub use crate::{
    config::NodeConfig,
    start::{Node, NodeEnv, StartError, StartMode},
};
