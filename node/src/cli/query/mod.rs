//! `quorate query`: rows read back, as they are or aggregated over windows.
//!
//! Invariant: rows come in order of (series key, time) and are shown as they come. Who computes
//! aggregates, the nodes or the client, is the client's choice by the read level; what is shown is
//! the same.

mod aggregate;
mod format;
mod tags;

use bytes::Bytes;
use clap::Args;
use quorate_client::{Client, Env, Query};
use quorate_protocol::{consistency::Level, map::Measurement, message::TagMatch};

use super::{
    connect::{Connect, database, map_with},
    export::node_id,
    fail::Fail,
    fields::FieldNames,
    series::{self, Series},
    time::{Time, parse_positive, parse_time},
};
use aggregate::Aggregate;
use format::{Format, Formatter};
use tags::parse_tag;

const EXAMPLES: &str = "\
  quorate query metrics cpu --from now-1h
  quorate query metrics cpu --tag host=web1 --field usage_user --limit 20
  quorate query metrics cpu --tag 'host=web1|web2' --tag 'region=~^eu-' --format csv
  quorate query metrics cpu --every 5m --agg mean --from now-6h --json
  quorate query metrics cpu --every 1h --agg max --consistency one    computed by the nodes

Times are integer nanoseconds, RFC 3339, or now-1h; --from is included, --to is not.";

/// Read rows back
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct QueryArgs {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// The measurement
    #[arg(value_name = "MEASUREMENT")]
    measurement: String,
    /// Only this field; may repeat
    #[arg(long, value_name = "F")]
    field: Vec<String>,
    /// Only series with this tag: KEY=VALUE, KEY=A|B or KEY=~REGEX; may repeat, all must hold
    #[arg(long, value_name = "K=V", value_parser = parse_tag)]
    tag: Vec<TagMatch>,
    /// From this time on
    #[arg(long, value_name = "T", value_parser = parse_time, allow_hyphen_values = true)]
    from: Option<Time>,
    /// Before this time
    #[arg(long, value_name = "T", value_parser = parse_time, allow_hyphen_values = true)]
    to: Option<Time>,
    /// Length of windows to aggregate over: 10s, 5m, 1d
    #[arg(long, value_name = "D", value_parser = parse_positive, requires = "agg")]
    every: Option<u64>,
    /// What to compute per window, series and field
    #[arg(long, value_name = "A", requires = "every")]
    agg: Option<Aggregate>,
    /// At most this many rows; no more are read
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    limit: Option<usize>,
    /// How many owners of each shard must be read: one, quorum or all
    #[arg(long, value_name = "L", default_value = "quorum")]
    consistency: Level,
    /// The retention policy [default: the database's default one]
    #[arg(long, value_name = "POLICY")]
    rp: Option<String>,
    /// Only what this node has on its own disk
    #[arg(long, value_name = "ID|NAME", hide = true)]
    node: Option<String>,
    /// How to show rows [default: table, or json with --json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: QueryArgs, env: Env) -> Result<(), Fail> {
    let now = env.clock.wall_ns();
    let client = args.connect.open(&env).await?;
    let map = map_with(&client, &args.database).await?;
    let measurement = database(&map, &args.database)?.measurement(args.measurement.as_bytes());
    let measurement = measurement.ok_or_else(|| {
        Fail::failed(format!(
            "nothing was ever written to measurement {:?}; 'quorate schema {}' lists what there is",
            args.measurement, args.database
        ))
    })?;
    let fields = wanted_fields(&args, measurement)?;
    let node = args.node.as_deref().map(|text| node_id(&map, text)).transpose()?;
    let query = Query {
        database: args.database.clone(),
        policy: args.rp.clone(),
        measurement: Some(measurement.name.clone()),
        tags: args.tag.clone(),
        fields: if args.field.is_empty() { Vec::new() } else { fields.clone() },
        from: args.from.map_or(i64::MIN, |time| time.resolve(now)),
        to: args.to.map_or(i64::MAX, |time| time.resolve(now)),
        level: args.consistency,
        node,
        // Of windows, those count that have the aggregate; that is seen here only.
        limit: args.limit.filter(|_| args.agg.is_none()),
    };
    let default = if args.connect.json { Format::Json } else { Format::Table };
    let formatter = Formatter::new(args.format.unwrap_or(default), fields)?;
    let ended = show(&client, query, &args, formatter).await;
    client.close().await;
    // Whoever has some rows must not take them for all.
    ended.map_err(|fail| match fail {
        Fail::Failed(text) => Fail::Failed(format!("not all rows could be read: {text}")),
        other => other,
    })
}

fn parse_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("a limit of 0 rows asks for nothing".to_owned()),
        Ok(limit) => Ok(limit),
        Err(error) => Err(format!("{text:?} is no number of rows: {error}")),
    }
}

/// The fields that rows can have, sorted; those asked for must exist and have the aggregate.
fn wanted_fields(args: &QueryArgs, measurement: &Measurement) -> Result<Vec<Bytes>, Fail> {
    let mut fields = Vec::new();
    for name in &args.field {
        let field = measurement.field(name.as_bytes()).ok_or_else(|| {
            Fail::failed(format!(
                "measurement {:?} has no field {name:?}; 'quorate schema {}' lists what there is",
                args.measurement, args.database
            ))
        })?;
        if args.agg.is_some_and(|aggregate| aggregate.result(field.kind).is_none()) {
            return Err(Fail::usage(format!(
                "field {name:?} is of type {}, which has count, first and last only",
                field.kind.name()
            )));
        }
        fields.push(field.name.clone());
    }
    if args.field.is_empty() {
        let possible = measurement.fields.iter().filter(|field| {
            args.agg.is_none_or(|aggregate| aggregate.result(field.kind).is_some())
        });
        fields.extend(possible.map(|field| field.name.clone()));
    }
    fields.sort();
    fields.dedup();
    Ok(fields)
}

async fn show(
    client: &Client,
    query: Query,
    args: &QueryArgs,
    mut formatter: Formatter,
) -> Result<(), Fail> {
    let mut names = FieldNames::new(client, &query.database);
    let mut left = args.limit.unwrap_or(usize::MAX);
    if let Some((every, aggregate)) = args.every.zip(args.agg) {
        let mut windows = client.aggregate(query, every).await?;
        while left > 0
            && let Some(rows) = aggregate::next(&mut windows, aggregate, &mut names).await?
        {
            show_some(&mut formatter, rows, &mut left)?;
        }
        return formatter.finish();
    }
    let mut stream = client.query(query).await?;
    while left > 0
        && let Some(piece) = series::next(&mut stream, &mut names).await?
    {
        show_some(&mut formatter, piece, &mut left)?;
    }
    formatter.finish()
}

/// Shows at most `left` rows and counts them off.
fn show_some(formatter: &mut Formatter, mut piece: Series, left: &mut usize) -> Result<(), Fail> {
    piece.truncate(*left);
    if piece.times.is_empty() {
        return Ok(());
    }
    *left -= piece.times.len();
    formatter.show(&piece)
}
