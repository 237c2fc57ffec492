//! `quorate grant`.

use clap::Args;
use quorate_client::Env;
use quorate_protocol::change::Change;

use super::{Role, access, change, client_name};
use crate::cli::{connect::Connect, fail::Fail};

const EXAMPLES: &str = "\
  quorate grant app metrics                      read and write 'metrics', and no other database
  quorate grant app metrics events --role write  write these two
  quorate grant dash --all-databases --role read
  quorate grant '*' public --role read           whoever has no grants of its own
  quorate grant app --by-certificate             no limit but the certificate again

Without grants, a client may do in every database what the roles in its certificate say. The first
grant (or 'quorate revoke') of a client limits it: from then on it may do only what is granted, and
never more than its certificate says. Certificates with role admin, and nodes, are not limited.
Close a cluster to all clients that are not named: quorate revoke '*' --everything

A client is known by the name in its certificate: 'quorate certs show DIR'. Needs a certificate with
role admin.";

/// Allow a client to read or write a database
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Grant {
    /// The client's name, as in its certificate; '*' for all that have no grants of their own
    #[arg(value_name = "CLIENT", value_parser = client_name)]
    client: String,
    /// The databases
    #[arg(value_name = "DATABASE", required_unless_present_any = ["all_databases", "by_certificate"])]
    databases: Vec<String>,
    /// All databases, those to come included
    #[arg(long, conflicts_with = "databases")]
    all_databases: bool,
    /// Forget the client's grants: its certificate alone decides again, or what '*' is granted
    #[arg(long, conflicts_with_all = ["databases", "all_databases", "role"])]
    by_certificate: bool,
    /// What it may do; may repeat [default: both]
    #[arg(long, value_name = "ROLE")]
    role: Vec<Role>,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Grant, env: Env) -> Result<(), Fail> {
    let Grant { client, databases, all_databases, by_certificate, role, connect } = args;
    let access = access(&role);
    let grant = |database| Change::Grant { client: client.clone(), database, access };
    let changes = if by_certificate {
        vec![Change::ForgetGrants { client: client.clone() }]
    } else if all_databases {
        vec![grant(None)]
    } else {
        databases.into_iter().map(|name| grant(Some(name))).collect()
    };
    change(&connect, &env, &client, changes).await
}
