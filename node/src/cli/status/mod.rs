//! `quorate status`: nodes, leader, shards and hint queues, as each node answers right now.
//!
//! Any one node is enough, also where no other can be reached from here: it is asked for all, and asks
//! the others. `look` is one such look, `picture` shows it to people and `describe` to scripts; `wait` and
//! `watch` look again and again.

mod describe;
mod look;
mod picture;
#[cfg(test)]
mod tests;
mod wait;
mod watch;

use clap::Args;
use quorate_client::Env;

use self::{look::Look, wait::Wait};
use super::{connect::Connect, fail::Fail, output::Output, time::parse_positive};

const EXAMPLES: &str = "\
  quorate status
  quorate status --wait healthy --timeout 30s      after starting nodes
  quorate status --wait drained                    before comparing replicas
  quorate status --watch --every 500ms
  quorate status --json | jq .hints.pending

One node in --connect is enough, any one: it asks the others. LAG is how many entries of
the metadata's log a node is behind the leader. A replica is behind while hints for it are
pending, or marks say that it lacks something. --wait ends with 0 once it is so, with 1
when the time is up, and then says what was still missing. --wait healthy does not wait
for replicas that are behind: they take writes and answer. --wait drained waits for the
hints; marks stay until somebody has repaired what they are about.";

/// Nodes, leader, shards and hint queues
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, after_long_help = long_help())]
pub(crate) struct Status {
    /// Wait until all nodes and replicas are up and sound under one leader (healthy), or until no
    /// hint is pending (drained)
    #[arg(long, value_name = "STATE")]
    wait: Option<Wait>,
    /// How long to wait
    #[arg(
        long,
        value_name = "D",
        default_value = "60s",
        requires = "wait",
        value_parser = parse_positive
    )]
    timeout: u64,
    /// Show it again and again until stopped: in place on a terminal, else one after the other
    #[arg(long, conflicts_with = "wait")]
    watch: bool,
    /// Time between two looks of --watch
    #[arg(
        long,
        value_name = "D",
        default_value = "2s",
        requires = "watch",
        value_parser = parse_positive
    )]
    every: u64,
    #[command(flatten)]
    connect: Connect,
}

fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", describe::KEYS)
}

pub(crate) async fn run(args: Status, env: Env) -> Result<(), Fail> {
    if let Some(wait) = args.wait {
        return wait::run(wait, &args, &env).await;
    }
    let client = args.connect.open(&env).await?;
    if args.watch {
        return watch::run(&client, &args).await;
    }
    let look = Look::take(&client).await;
    client.close().await;
    show(&look, &args.connect, &mut Output::new())
}

fn show(look: &Look, connect: &Connect, out: &mut Output) -> Result<(), Fail> {
    if connect.json {
        out.json(&describe::describe(look))?;
    } else {
        out.bytes(picture::picture(look).as_bytes())?;
    }
    out.flush()
}
