//! `quorate schema DB`: measurements, fields with their types, tag keys.
//!
//! Fields and types are metadata; tag keys are not, so they are collected from the series keys of
//! one replica, which takes a scan.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use quorate_client::{Client, Env, Query};
use quorate_protocol::{consistency::Level, point::key::SeriesName};
use serde_json::json;

use super::{
    connect::{Connect, database, map_with},
    fail::Fail,
    output::Output,
    table::pack,
    time::{Time, parse_time},
};

/// Measurements of a database, their fields with types and their tag keys
#[derive(Args, Debug)]
pub(crate) struct Schema {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// Look for tag keys from this time on only, which is faster
    #[arg(long, value_name = "T", value_parser = parse_time, allow_hyphen_values = true)]
    from: Option<Time>,
    #[command(flatten)]
    connect: Connect,
}

type TagKeys = BTreeMap<Vec<u8>, BTreeSet<String>>;

pub(crate) async fn run(args: Schema, env: Env) -> Result<(), Fail> {
    let from = args.from.map_or(i64::MIN, |time| time.resolve(env.clock.wall_ns()));
    let client = args.connect.open(&env).await?;
    let map = map_with(&client, &args.database).await?;
    let tags = tag_keys(&client, &args.database, from).await;
    client.close().await;
    let tags = tags?;
    let mut out = Output::new();
    for measurement in &database(&map, &args.database)?.measurements {
        let name = String::from_utf8_lossy(&measurement.name);
        let keys: Vec<String> =
            tags.get(measurement.name.as_ref()).into_iter().flatten().cloned().collect();
        let fields = measurement.fields.iter();
        let fields = fields.map(|field| (String::from_utf8_lossy(&field.name), field.kind.name()));
        if args.connect.json {
            let fields: Vec<_> =
                fields.map(|(name, kind)| json!({"name": name, "type": kind})).collect();
            out.json(&json!({"measurement": name, "fields": fields, "tags": keys}))?;
        } else {
            out.line(&name)?;
            out.bytes(pack(fields.map(|(name, kind)| format!("{name}:{kind}")), "  ").as_bytes())?;
            if !keys.is_empty() {
                out.line("  tags")?;
                out.bytes(pack(keys, "    ").as_bytes())?;
            }
        }
    }
    out.flush()
}

async fn tag_keys(client: &Client, database: &str, from: i64) -> Result<TagKeys, Fail> {
    let query = Query { from, level: Level::One, ..Query::all(database) };
    let mut stream = client.query(query).await?;
    let mut tags = TagKeys::new();
    while let Some(series) = stream.next().await {
        let name = SeriesName::parse(&series?.0);
        let keys = tags.entry(name.measurement).or_default();
        keys.extend(name.tags.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()));
    }
    Ok(tags)
}
