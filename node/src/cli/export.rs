//! `quorate export`: everything as canonical line protocol, sorted by (series key, time).
//!
//! Invariant: two replicas with the same points give the same bytes. With `--node`, only that
//! node's disk answers, which is how replicas are compared.

use clap::Args;
use quorate_client::{Client, Env, Query};
use quorate_protocol::{consistency::Level, id::NodeId, map::ClusterMap};

use super::{
    connect::{Connect, map_with},
    fail::Fail,
    fields::FieldNames,
    output::Output,
    series,
    time::{Time, parse_time},
};

const EXAMPLES: &str = "\
  quorate export metrics > metrics.lp
  quorate export metrics --from now-1d --to now

Are the replicas the same? Each node answers from its own disk:
  for n in n1 n2 n3; do quorate export metrics --node $n | sha256sum; done";

/// Write a database out as line protocol, sorted by series and time
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Export {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// The retention policy [default: the database's default one]
    #[arg(long, value_name = "POLICY")]
    rp: Option<String>,
    /// Only what this node has on its own disk
    #[arg(long, value_name = "ID|NAME")]
    node: Option<String>,
    /// From this time on: ns, RFC 3339 or now-1h
    #[arg(long, value_name = "T", value_parser = parse_time, allow_hyphen_values = true)]
    from: Option<Time>,
    /// Before this time
    #[arg(long, value_name = "T", value_parser = parse_time, allow_hyphen_values = true)]
    to: Option<Time>,
    #[command(flatten)]
    connect: Connect,
}

/// The node that a person means.
pub(crate) fn node_id(map: &ClusterMap, text: &str) -> Result<NodeId, Fail> {
    map.node_named(text).map(|node| node.id).ok_or_else(|| {
        Fail::failed(format!("there is no node {text:?}; 'quorate node-ctl ls' lists the nodes"))
    })
}

pub(crate) async fn run(args: Export, env: Env) -> Result<(), Fail> {
    let now = env.clock.wall_ns();
    let client = args.connect.open(&env).await?;
    let map = map_with(&client, &args.database).await?;
    let node = args.node.as_deref().map(|text| node_id(&map, text)).transpose()?;
    let query = Query {
        policy: args.rp.clone(),
        from: args.from.map_or(i64::MIN, |time| time.resolve(now)),
        to: args.to.map_or(i64::MAX, |time| time.resolve(now)),
        level: if node.is_some() { Level::One } else { Level::Quorum },
        node,
        ..Query::all(args.database.as_str())
    };
    let ended = print(&client, query).await;
    client.close().await;
    ended
}

async fn print(client: &Client, query: Query) -> Result<(), Fail> {
    let mut names = FieldNames::new(client, &query.database);
    let mut stream = client.query(query).await?;
    let mut out = Output::new();
    let mut lines = Vec::new();
    while let Some(series) = series::next(&mut stream, &mut names).await? {
        lines.clear();
        series.write_lines(&mut lines);
        out.bytes(&lines)?;
    }
    out.flush()
}
