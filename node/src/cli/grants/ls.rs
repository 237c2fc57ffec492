//! `quorate grants`.

use clap::Args;
use quorate_client::Env;

use super::{PATIENCE, client_name, database, describe, roles};
use crate::cli::{connect::Connect, fail::Fail, output::Output, table::Table};

const EXAMPLES: &str = "\
  quorate grants
  quorate grants app --json

A client that is not listed may do what is granted to '*'; if that is not listed either, it may do in
every database what its certificate says. With a certificate without role admin, only what holds for
this certificate is shown.

--json: one object per client: client, limited, all_databases [roles], databases [{database, id,
roles}].";

/// Show what clients are granted
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Grants {
    /// Only this client's, or '*'
    #[arg(value_name = "CLIENT", value_parser = client_name)]
    client: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Grants, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let (map, grants) = (client.map(), client.grants(PATIENCE).await);
    client.close().await;
    let mut grants = grants?;
    grants.retain(|entry| args.client.as_ref().is_none_or(|client| *client == entry.client));
    let mut out = Output::new();
    let mut table = Table::new(&["client", "database", "may"]);
    for entry in &grants {
        if args.connect.json {
            out.json(&describe(&map, entry))?;
            continue;
        }
        let name = || entry.client.clone();
        if !entry.all.is_none() {
            table.row([name(), "(all)".to_owned(), roles(entry.all).join(", ")]);
        }
        for grant in &entry.databases {
            let roles = roles(grant.access).join(", ");
            table.row([name(), database(&map, grant.database), roles]);
        }
        if entry.all.is_none() && entry.databases.is_empty() {
            table.row([name(), "(none)".to_owned(), "nothing".to_owned()]);
        }
    }
    if !args.connect.json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()
}
