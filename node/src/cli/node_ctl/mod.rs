//! `quorate node-ctl`: who is a member, who votes, and where.
//!
//! Invariant: what a command changes is one metadata command, decided when it is applied; what comes
//! before it can be repeated.

mod leave;
mod ls;
mod remove;
mod voting;
mod zone;

use clap::Subcommand;
use quorate_client::Env;

use super::{connect::Connect, fail::Fail};

const EXAMPLES: &str = "\
  quorate node-ctl ls
  quorate node-ctl leave n3              n3 runs: it hands its hints on, then stops for good
  quorate node-ctl remove n3 --yes       n3 is dead and does not come back
  quorate node-ctl demote n1             n1 goes on without a vote on metadata
  quorate node-ctl zone n2 rack-b        new shard groups spread over zones

A node that has left keeps its name and id: to use its machine again, start with an empty --data
directory, a certificate with a new name, and --join.";

/// Members of the cluster: list them, let them leave, say who votes and in which zone they are
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum NodeCtl {
    /// List members, and former ones
    Ls(Connect),
    Leave(leave::Leave),
    Remove(remove::Remove),
    /// Let a node vote on metadata again; it does as soon as a place among the voters is free
    Promote(voting::Voting),
    /// Take a node's vote on metadata; it follows and owns shards as before
    Demote(voting::Voting),
    Zone(zone::Zone),
}

pub(crate) async fn run(command: NodeCtl, env: Env) -> Result<(), Fail> {
    match command {
        NodeCtl::Ls(connect) => ls::run(connect, env).await,
        NodeCtl::Leave(args) => leave::run(args, env).await,
        NodeCtl::Remove(args) => remove::run(args, env).await,
        NodeCtl::Promote(args) => voting::run(args, true, env).await,
        NodeCtl::Demote(args) => voting::run(args, false, env).await,
        NodeCtl::Zone(args) => zone::run(args, env).await,
    }
}
