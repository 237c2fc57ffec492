//! `quorate bench`: how fast a cluster is, and what this machine can do, for ratios.
//!
//! Invariant: nothing is pretended: real files with real syncs, real processes behind real
//! certificates, the settings that clients and nodes have by default.

mod append;
mod limits;
mod memory;
mod peer;
mod process;
mod quic;
mod samples;
mod write;

use clap::Subcommand;
use quorate_client::Env;

use super::{block_on, fail::Fail};

/// Measure how fast writes are, and what this machine can do
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Write(write::Write),
    Limits(limits::Limits),
    #[command(hide = true)]
    Peer(peer::Peer),
}

pub(crate) fn run(command: &Bench, env: &Env) -> Result<(), Fail> {
    match command {
        Bench::Write(args) => block_on(write::run(args, env)),
        Bench::Limits(args) => limits::run(args, env),
        Bench::Peer(args) => block_on(peer::run(args, env)),
    }
}
