//! `quorate hints`: what every node keeps for its peers, whether it is sound, and what becomes of it.
//!
//! Invariant: only `retry`, `drop`, `hand-on` and `import` change anything, and `drop` only if told so
//! twice.

mod drop;
mod export;
mod hand_on;
mod holders;
mod ls;
mod retry;
mod show;
mod verify;

use clap::Subcommand;
use quorate_client::Env;

use super::{fail::Fail, hints_import};

const EXAMPLES: &str = "\
A hint is a write that a node keeps for a peer that was down. Every hint that was accepted is
delivered, pending, quarantined, expired or discarded, and nothing else:
  quorate hints ls
  quorate hints ls --json | jq -s 'map(.pending) | add'
Hints that a node refuses for good are quarantined. Look at them, mend the reason, try again:
  quorate hints show n3 --quarantined
  quorate hints retry n3";

/// The hint queues: writes kept for nodes that are down
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Hints {
    Ls(ls::LsArgs),
    Show(show::ShowArgs),
    Verify(verify::VerifyArgs),
    Export(export::ExportArgs),
    Retry(retry::RetryArgs),
    Drop(drop::DropArgs),
    HandOn(hand_on::HandOnArgs),
    Import(hints_import::Import),
}

pub(crate) async fn run(command: Hints, env: Env) -> Result<(), Fail> {
    match command {
        Hints::Ls(args) => ls::run(args, env).await,
        Hints::Show(args) => show::run(args, env).await,
        Hints::Verify(args) => verify::run(args, env).await,
        Hints::Export(args) => export::run(args, env).await,
        Hints::Retry(args) => retry::run(args, env).await,
        Hints::Drop(args) => drop::run(args, env).await,
        Hints::HandOn(args) => hand_on::run(args, env).await,
        Hints::Import(args) => hints_import::run(args, env).await,
    }
}
