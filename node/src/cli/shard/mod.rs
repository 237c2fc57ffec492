//! `quorate shard`: where data is kept, whether replicas agree, whether what is stored is sound.
//!
//! Invariant: none of these changes anything on any node.

mod digest;
mod ls;
mod verify;

use clap::Subcommand;
use quorate_client::Env;

use super::{connect::Connect, fail::Fail};

/// Shards: where they are, whether replicas agree, whether they are sound
#[derive(Debug, Subcommand)]
pub(crate) enum Shard {
    /// List shards, their owners and how much there is of them
    Ls(Connect),
    Digest(digest::DigestArgs),
    Verify(verify::VerifyArgs),
}

pub(crate) async fn run(command: Shard, env: Env) -> Result<(), Fail> {
    match command {
        Shard::Ls(connect) => ls::run(connect, env).await,
        Shard::Digest(args) => digest::run(args, env).await,
        Shard::Verify(args) => verify::run(args, env).await,
    }
}
