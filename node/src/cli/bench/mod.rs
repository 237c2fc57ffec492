//! `quorate bench limits`: what this machine can do, for ratios.
//!
//! Invariant: nothing is pretended: real files with real syncs, a real second process behind real
//! certificates, the settings that clients and nodes have by default.

mod append;
mod limits;
mod memory;
mod peer;
mod quic;
mod samples;

use clap::Subcommand;
use quorate_client::Env;

use super::{block_on, fail::Fail};

/// Measure what this machine can do
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Limits(limits::Limits),
    #[command(hide = true)]
    Peer(peer::Peer),
}

pub(crate) fn run(command: &Bench, env: &Env) -> Result<(), Fail> {
    match command {
        Bench::Limits(args) => limits::run(args, env),
        Bench::Peer(args) => block_on(peer::run(args, env)),
    }
}
