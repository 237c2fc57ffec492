//! `quorate hints import`: hints that another system has left, written into a database.
//!
//! Invariants: queues come one after the other, each in its own order, one batch at a time, so that
//! of two values of one point the later one stays; a file that is damaged costs what is behind the
//! damage in it and nothing else; every block is counted as imported or as sent before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use quorate_client::{Client, Env, WriteOptions};
use quorate_protocol::{
    consistency::Level,
    line::{Options, Precision},
    map::ClusterMap,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    connect::{Connect, map_with},
    fail::Fail,
    legacy::{
        self,
        files::{self, File, Found, Queue},
    },
    output::Output,
    table::{Table, bytes, count, grouped},
    tell,
    time::parse_positive,
    write::{Chunk, Cutter, Parsed, Patience, Rejects, Sending, Target, verdict},
};

/// A batch is sent when it has so many lines, or bytes of text.
const BATCH_LINES: usize = 5_000;
const BATCH_BYTES: usize = 4 << 20;
/// The largest file that is read; that system made none above 10 MiB.
const MAX_FILE: u64 = 1 << 30;

const EXAMPLES: &str = "\
  quorate hints import --legacy /var/lib/influxdb/hh metrics --dry-run
  quorate hints import --legacy /var/lib/influxdb/hh metrics --node-map 2=n2,3=n3
  quorate hints import --legacy /var/lib/influxdb/hh/2 metrics --rejects bad.lp

Reads the hint queues of InfluxDB 0.11, hh/NODE/NUMBER, and changes nothing in them; stop that
system first. Points go to whoever owns them today: which node and shard a hint was for is counted
and not used, and all of it goes into the one database. Importing again is harmless. A hint has no
version, so import before newer values of the same points are written.";

/// Import the hint queues of InfluxDB 0.11
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Import {
    /// The folder 'hh', or the folder of one node in it
    #[arg(long, value_name = "DIR")]
    legacy: PathBuf,
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// The retention policy [default: the database's default one]
    #[arg(long, value_name = "POLICY")]
    rp: Option<String>,
    /// Which node of today an old node id was, for the report
    #[arg(long, value_name = "ID=NAME,...", value_delimiter = ',', value_parser = parse_node)]
    node_map: Vec<(u64, String)>,
    /// Unit of the times; that system writes ns
    #[arg(long, value_name = "P", default_value = "ns")]
    precision: Precision,
    /// Durable copies to wait for: any, one, quorum or all
    #[arg(long, value_name = "L", default_value = "quorum")]
    consistency: Level,
    /// How long a batch may take to reach its level
    #[arg(long, value_name = "D", default_value = "10s", value_parser = parse_positive)]
    timeout: u64,
    /// File for lines that were not written, with reasons
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Import also what that system had sent already
    #[arg(long)]
    all: bool,
    /// Contact nobody; read everything and say what would be imported
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: Connect,
}

fn parse_node(text: &str) -> Result<(u64, String), String> {
    let pair = text.split_once('=').filter(|(_, name)| !name.is_empty());
    pair.and_then(|(id, name)| Some((id.parse().ok()?, name.to_owned())))
        .ok_or_else(|| format!("{text:?} is not ID=NAME"))
}

pub(crate) async fn run(args: Import, env: Env) -> Result<(), Fail> {
    let found = files::find(&args.legacy).map_err(|error| cannot_read(&args.legacy, &error))?;
    if found.queues.is_empty() {
        return Err(Fail::failed(format!(
            "{} has no hint segments; give the folder 'hh' of InfluxDB 0.11, or one in it",
            args.legacy.display()
        )));
    }
    let rejects = Rejects::open(args.rejects.as_deref())?;
    let client = if args.dry_run { None } else { Some(args.connect.open(&env).await?) };
    if let Some(client) = &client {
        let map = map_with(client, &args.database).await?;
        check_names(&args.node_map, &map)?;
    }
    let started = Instant::now();
    let mut import = Importing::new(&args, &env, client.clone(), rejects, &found);
    let ended = import.all(&found).await;
    let ended = ended.and(import.sending.rejects.finish());
    import.sending.bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    if let Some(client) = client {
        client.close().await;
    }
    import.report(seconds)?;
    ended?;
    if import.unread > 0 {
        let places = count(import.unread, "place", "places");
        return Err(Fail::failed(format!("{places} in {} not read", args.legacy.display())));
    }
    verdict(&import.sending.tally, &import.sending.rejects)
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Fail {
    Fail::failed(format!("cannot read {}: {error}", path.display()))
}

/// A name that no node has is more likely a mistake than a node that is gone.
fn check_names(names: &[(u64, String)], map: &ClusterMap) -> Result<(), Fail> {
    match names.iter().find(|(_, name)| !map.nodes.iter().any(|node| node.name == *name)) {
        Some((id, name)) => Err(Fail::usage(format!(
            "--node-map {id}={name}: there is no node {name:?}; 'quorate status' lists them"
        ))),
        None => Ok(()),
    }
}

/// What was found in one node's queue.
#[derive(Debug, Default)]
struct Counts {
    segments: usize,
    blocks: usize,
    /// Blocks that had been sent, and were passed over.
    sent: usize,
    bytes: u64,
    shards: BTreeSet<u64>,
    unread: usize,
}

struct Importing<'a> {
    args: &'a Import,
    sending: Sending,
    /// The batch being filled, and its bytes of text.
    filling: (Parsed, usize),
    queues: Vec<(Option<u64>, Counts)>,
    /// Blocks of every shard of that system.
    shards: BTreeMap<u64, usize>,
    /// Places that were told and not imported.
    unread: usize,
}

impl<'a> Importing<'a> {
    fn new(
        args: &'a Import,
        env: &Env,
        client: Option<Client>,
        rejects: Rejects,
        found: &Found,
    ) -> Self {
        let target = Target {
            client,
            database: args.database.clone(),
            options: WriteOptions {
                timeout: Duration::from_nanos(args.timeout),
                retention_policy: args.rp.clone(),
                ..WriteOptions::at(args.consistency)
            },
            // The versions of the batches are to be in their order.
            in_flight: 1,
            patience: Patience::new(Duration::ZERO, env.clone()),
        };
        let now = i64::try_from(env.clock.wall_ns()).unwrap_or(i64::MAX);
        let parsing = Options { precision: args.precision, default_time: now };
        let size = found.queues.iter().flat_map(|queue| &queue.files).map(|file| file.bytes).sum();
        Self {
            args,
            sending: Sending::new(target, parsing, rejects, Some(size)),
            filling: (Parsed::default(), 0),
            queues: Vec::new(),
            shards: BTreeMap::new(),
            unread: 0,
        }
    }

    async fn all(&mut self, found: &Found) -> Result<(), Fail> {
        for path in &found.strangers {
            self.tell_unread(path, "no segment of this layout, left alone");
        }
        for queue in &found.queues {
            self.queue(queue).await?;
        }
        self.flush().await?;
        self.sending.finish().await
    }

    /// Says what is not imported, and counts it.
    fn tell_unread(&mut self, path: &Path, reason: impl std::fmt::Display) {
        self.unread += 1;
        if let Some((_, counts)) = self.queues.last_mut() {
            counts.unread += 1;
        }
        let line = format!("{}: {reason}", path.display());
        self.sending.bar.suspend(|| tell(&line));
    }

    async fn queue(&mut self, queue: &Queue) -> Result<(), Fail> {
        self.queues.push((queue.node, Counts::default()));
        for file in &queue.files {
            let name = match queue.node {
                Some(node) => format!("{node}/{}", file.number),
                None => file.number.to_string(),
            };
            match read(file) {
                Ok(bytes) => self.segment(file, &name, &bytes).await?,
                Err(error) => self.tell_unread(&file.path, error),
            }
            self.sending.bar.inc(file.bytes);
        }
        Ok(())
    }

    async fn segment(&mut self, file: &File, name: &str, bytes: &[u8]) -> Result<(), Fail> {
        let segment = legacy::parse(bytes);
        if let Some(broken) = segment.broken {
            self.tell_unread(&file.path, format!("{broken}; what is before it is imported"));
        }
        let sent = if self.args.all { 0 } else { segment.sent };
        if let Some((_, counts)) = self.queues.last_mut() {
            counts.segments += 1;
            counts.blocks += segment.blocks.len();
            counts.sent += sent;
            counts.bytes += bytes.len() as u64;
            counts.shards.extend(segment.blocks.iter().map(|block| block.shard));
        }
        for block in segment.blocks.iter().skip(sent) {
            *self.shards.entry(block.shard).or_default() += 1;
            self.block(format!("{name} byte {}", block.offset), block.text).await?;
        }
        Ok(())
    }

    /// Takes the lines of one block. They are cut on their own, so that none can cost another block
    /// anything; one whose string is never closed ends with its first newline.
    async fn block(&mut self, source: String, text: &[u8]) -> Result<(), Fail> {
        let mut cutter = Cutter::of(source.into());
        cutter.push(text);
        loop {
            while let Some(chunk) = cutter.take(BATCH_LINES) {
                self.add(chunk).await?;
            }
            if !cutter.give_up() {
                break;
            }
        }
        match cutter.rest() {
            Some(chunk) => self.add(chunk).await,
            None => Ok(()),
        }
    }

    async fn add(&mut self, chunk: Chunk) -> Result<(), Fail> {
        let (parsed, bytes) = &mut self.filling;
        *bytes += chunk.text.len();
        parsed.add(chunk, self.sending.parsing);
        if parsed.points + parsed.errors.len() >= BATCH_LINES || *bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Fail> {
        let (parsed, _) = std::mem::take(&mut self.filling);
        self.sending.send(parsed).await
    }

    fn name(&self, node: Option<u64>) -> Option<&str> {
        let named = self.args.node_map.iter().find(|(id, _)| Some(*id) == node);
        named.map(|(_, name)| name.as_str())
    }

    fn report(&self, seconds: f64) -> Result<(), Fail> {
        let mut out = Output::new();
        if self.args.connect.json {
            out.json(&self.describe(seconds))?;
            return out.flush();
        }
        let header =
            ["node", "is now", ">segments", ">blocks", ">sent", ">shards", ">size", ">unread"];
        let mut table = Table::new(&header);
        for (node, counts) in &self.queues {
            table.row([
                node.map_or_else(|| "?".to_owned(), |node| node.to_string()),
                self.name(*node).unwrap_or_default().to_owned(),
                grouped(counts.segments as u64),
                grouped(counts.blocks as u64),
                grouped(counts.sent as u64),
                grouped(counts.shards.len() as u64),
                bytes(counts.bytes),
                grouped(counts.unread as u64),
            ]);
        }
        out.bytes(table.render().as_bytes())?;
        let what = if self.args.dry_run { "dry run: " } else { "" };
        out.line(&format!("{what}{}", self.sending.tally.sentence(seconds)))?;
        out.flush()
    }

    /// The object of `--json`: that of `write`, and what the points came from.
    fn describe(&self, seconds: f64) -> Value {
        let node = |(node, counts): &(Option<u64>, Counts)| {
            json!({
                "node": node,
                "node_name": self.name(*node),
                "segments": counts.segments,
                "blocks": counts.blocks,
                "sent": counts.sent,
                "shards": counts.shards.len(),
                "bytes": counts.bytes,
                "unread": counts.unread,
            })
        };
        let nodes: Vec<Value> = self.queues.iter().map(node).collect();
        let shard = |(shard, blocks): (&u64, &usize)| json!({ "shard": shard, "blocks": blocks });
        let shards: Vec<Value> = self.shards.iter().map(shard).collect();
        let sum = |figure: fn(&Counts) -> usize| -> usize {
            self.queues.iter().map(|(_, counts)| figure(counts)).sum()
        };
        let mut object = self.sending.tally.describe(seconds);
        let more = json!({
            "dry_run": self.args.dry_run,
            "segments": sum(|counts| counts.segments),
            "blocks": sum(|counts| counts.blocks),
            "sent": sum(|counts| counts.sent),
            "unread": self.unread,
            "nodes": nodes,
            "shards": shards,
        });
        if let (Some(object), Some(more)) = (object.as_object_mut(), more.as_object()) {
            object.extend(more.clone());
        }
        object
    }
}

/// All of a file.
fn read(file: &File) -> Result<Vec<u8>, String> {
    if file.bytes > MAX_FILE {
        return Err(format!("{} are too many for a segment", bytes(file.bytes)));
    }
    let open = fs::File::open(&file.path).map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    open.take(MAX_FILE).read_to_end(&mut content).map_err(|error| error.to_string())?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_nodes_are_named() {
        assert_eq!(parse_node("2=n2"), Ok((2, "n2".to_owned())));
        for bad in ["2", "2=", "n2=2", "=n2", ""] {
            assert!(parse_node(bad).is_err(), "{bad}");
        }
    }
}
