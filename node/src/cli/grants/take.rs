//! `quorate revoke`.

use clap::Args;
use quorate_client::Env;
use quorate_protocol::{change::Change, grant::GrantScope};

use super::{Role, access, change, client_name};
use crate::cli::{connect::Connect, fail::Fail};

const EXAMPLES: &str = "\
  quorate revoke app metrics                   no longer 'metrics'
  quorate revoke app metrics --role write      reading stays allowed
  quorate revoke app --all-databases           only the databases that are granted by name
  quorate revoke app --everything              lock it out, now, whatever its certificate says
  quorate revoke '*' --everything              ... and everybody that has no grants of its own

A client whose last grant was taken away may do nothing; 'quorate grant CLIENT --by-certificate' lets
its certificate decide again. What is under way is finished; subscriptions end. To keep out whoever
holds a stolen key, revoke its certificate as well. Needs a certificate with role admin.";

/// Take away what a client was granted
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Revoke {
    /// The client's name, as in its certificate; '*' for all that have no grants of their own
    #[arg(value_name = "CLIENT", value_parser = client_name)]
    client: String,
    /// The databases
    #[arg(value_name = "DATABASE", required_unless_present_any = ["all_databases", "everything"])]
    databases: Vec<String>,
    /// What was granted with --all-databases; grants of single ones stay
    #[arg(long, conflicts_with = "databases")]
    all_databases: bool,
    /// All of it; also what its certificate alone has allowed until now
    #[arg(long, conflicts_with_all = ["databases", "all_databases"])]
    everything: bool,
    /// What it may do no longer; may repeat [default: both]
    #[arg(long, value_name = "ROLE")]
    role: Vec<Role>,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Revoke, env: Env) -> Result<(), Fail> {
    let Revoke { client, databases, all_databases, everything, role, connect } = args;
    let access = access(&role);
    let revoke = |scope| Change::Revoke { client: client.clone(), scope, access };
    let changes = if everything {
        vec![revoke(GrantScope::Everything)]
    } else if all_databases {
        vec![revoke(GrantScope::AllDatabases)]
    } else {
        databases.into_iter().map(|name| revoke(GrantScope::Database(name))).collect()
    };
    change(&connect, &env, &client, changes).await
}
