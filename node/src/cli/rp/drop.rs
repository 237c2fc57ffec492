//! `quorate rp drop`.

use clap::Args;
use quorate_client::Env;
use quorate_protocol::change::Change;

use super::change;
use crate::cli::{connect::Connect, fail::Fail};

/// Drop a policy with everything that was written to it; not the default one
#[derive(Args, Debug)]
pub(crate) struct Drop {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// The policy
    name: String,
    /// Really do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Drop, env: Env) -> Result<(), Fail> {
    if !args.yes {
        return Err(Fail::usage(format!(
            "dropping {} loses everything that was written to it; say --yes to do it",
            args.name
        )));
    }
    let (database, name) = (args.database.clone(), args.name.clone());
    let drop = Change::DropPolicy { database, name };
    change(&args.connect, &env, &args.database, vec![drop], ("dropped", &args.name)).await
}
