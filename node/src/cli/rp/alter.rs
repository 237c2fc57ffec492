//! `quorate rp alter`.

use clap::Args;
use quorate_client::Env;
use quorate_protocol::change::{Change, PolicyChange};

use super::change;
use crate::cli::{
    connect::Connect,
    fail::Fail,
    time::{parse_positive, parse_retention},
};

/// Change what is given of a policy; shard groups that exist stay as they are
#[derive(Args, Debug)]
pub(crate) struct Alter {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// The policy
    name: String,
    /// Copies of each shard of new groups
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    replication: Option<u32>,
    /// How long points are kept: 30d, 12h; 0 for ever
    #[arg(long, alias = "duration", value_name = "D", value_parser = parse_retention)]
    retention: Option<u64>,
    /// Time range of one shard of new groups [default: as it was, or by a retention shorter than that]
    #[arg(long, value_name = "D", value_parser = parse_positive)]
    shard_duration: Option<u64>,
    /// Writes and queries that name no policy use this one from now on
    #[arg(long)]
    default: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Alter, env: Env) -> Result<(), Fail> {
    let alter = PolicyChange {
        duration: args.retention,
        group_duration: args.shard_duration,
        replication: args.replication,
    };
    let (database, name) = (args.database.clone(), args.name.clone());
    let mut changes = Vec::new();
    if alter != PolicyChange::default() {
        let (database, name) = (database.clone(), name.clone());
        changes.push(Change::AlterPolicy { database, name, change: alter });
    }
    if args.default {
        changes.push(Change::SetDefaultPolicy { database, name });
    }
    if changes.is_empty() {
        return Err(Fail::usage(
            "nothing to alter: give --retention, --shard-duration, --replication or --default",
        ));
    }
    change(&args.connect, &env, &args.database, changes, ("altered", &args.name)).await
}
