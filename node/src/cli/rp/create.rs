//! `quorate rp create`.

use clap::Args;
use quorate_client::Env;
use quorate_protocol::change::{Change, PolicySpec};

use super::change;
use crate::cli::{
    connect::Connect,
    fail::Fail,
    time::{parse_positive, parse_retention},
};

/// Make a policy; the same again is no error, with other settings it is
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// Name: 1 to 64 letters, digits, '.', '_' and '-'
    name: String,
    /// Copies of each shard; no more than there are nodes are made
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    replication: u32,
    /// How long points are kept: 30d, 12h; 0 for ever
    #[arg(long, alias = "duration", value_name = "D", default_value = "0", value_parser = parse_retention)]
    retention: u64,
    /// Time range of one shard [default: by the retention, 7d if for ever]
    #[arg(long, value_name = "D", value_parser = parse_positive)]
    shard_duration: Option<u64>,
    /// Writes and queries that name no policy use this one from now on
    #[arg(long)]
    default: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Create, env: Env) -> Result<(), Fail> {
    let policy = PolicySpec {
        name: args.name.clone(),
        duration: args.retention,
        group_duration: args.shard_duration.unwrap_or(0),
        replication: args.replication,
    };
    let (database, default) = (args.database.clone(), args.default);
    let create = Change::CreatePolicy { database, policy, default };
    change(&args.connect, &env, &args.database, vec![create], ("created", &args.name)).await
}
