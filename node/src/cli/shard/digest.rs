//! `quorate shard digest`: whether the owners of a shard hold the same.
//!
//! Invariant: all owners are asked for the same values: those up to one version. What differs is
//! asked for again a few times, so that a write that was on its way is not reported.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use quorate_client::{BucketDigest, Client, DigestRange, Env, Error};
use quorate_protocol::{
    id::{NodeId, ShardId, Version},
    map::ClusterMap,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::cli::{
    connect::Connect,
    fail::Fail,
    output::Output,
    table::{Table, count},
    time::{Time, format_time, parse_positive, parse_time},
};

/// How long one owner may take for one shard.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often owners that differ are asked again, and after what time.
const AGAIN: u32 = 3;
const PAUSE: Duration = Duration::from_millis(700);
/// Digits of a digest in tables.
const DIGITS: usize = 8;

const ABOUT: &str = "\
A digest is a number made of all values that a node holds for a stretch of time, whatever the order
in which they came and however they are stored: replicas that hold the same values have the same
digests. Every owner answers from its own disk and memory, for the values written until --up-to, so
that writes that are still on their way make no difference. Owners that differ are asked again
for two seconds before they are reported.

  quorate shard digest metrics                       one line per shard
  quorate shard digest metrics --bucket 1h --from now-1d
  quorate shard digest 7 --bucket 10m --json

Exit code 1: owners differ, or one could not be asked. Hints that are pending are one reason:
'quorate status --wait drained' waits for them.";

/// Compare what the owners of shards hold
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct DigestArgs {
    /// A database, or the number of a shard
    #[arg(value_name = "DB|SHARD")]
    target: String,
    /// Length of the stretches of time that are compared [default: all of a shard]
    #[arg(long, value_name = "D", value_parser = parse_positive)]
    bucket: Option<u64>,
    /// From this time on: ns, RFC 3339 or now-1h
    #[arg(long, value_name = "T", value_parser = parse_time, allow_hyphen_values = true)]
    from: Option<Time>,
    /// Before this time
    #[arg(long, value_name = "T", value_parser = parse_time, allow_hyphen_values = true)]
    to: Option<Time>,
    /// Leave out what was written after this time [default: now]
    #[arg(long, value_name = "T", value_parser = parse_time, allow_hyphen_values = true)]
    up_to: Option<Time>,
    /// The retention policy [default: the database's default one]
    #[arg(long, value_name = "POLICY")]
    rp: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

/// A shard to compare.
struct Wanted {
    id: ShardId,
    start: i64,
    owners: Vec<NodeId>,
}

/// What each owner said, or why it said nothing.
type Answers = BTreeMap<NodeId, Result<Vec<BucketDigest>, Error>>;

pub(super) async fn run(args: DigestArgs, env: Env) -> Result<(), Fail> {
    let now = env.clock.wall_ns();
    let range = DigestRange {
        from: args.from.map_or(i64::MIN, |time| time.resolve(now)),
        to: args.to.map_or(i64::MAX, |time| time.resolve(now)),
        bucket: args.bucket.unwrap_or(0),
        up_to: Version(args.up_to.map_or(now, |time| time.resolve(now).max(0).cast_unsigned())),
    };
    let client = args.connect.open(&env).await?;
    let ended = compare(&client, &args, range).await;
    client.close().await;
    ended
}

async fn compare(client: &Client, args: &DigestArgs, range: DigestRange) -> Result<(), Fail> {
    let map = client.map();
    let shards = wanted(&map, args, range)?;
    let mut report = Report::new(&map, &shards, args.connect.json);
    for shard in &shards {
        let mut answers = ask(client, shard, range).await;
        for _ in 0..AGAIN {
            if agree(&answers) {
                break;
            }
            sleep(PAUSE).await;
            answers = ask(client, shard, range).await;
        }
        report.add(shard, &answers)?;
    }
    report.finish()
}

/// The shards that are meant, in order of time.
fn wanted(map: &ClusterMap, args: &DigestArgs, range: DigestRange) -> Result<Vec<Wanted>, Fail> {
    let number = args.target.parse().ok().map(ShardId);
    let database = map.database_named(&args.target);
    if database.is_none() && !map.shards().any(|place| Some(place.shard.id) == number) {
        return Err(Fail::failed(format!(
            "{:?} is no database and no shard; 'quorate shard ls' lists both",
            args.target
        )));
    }
    if let Some(database) = database
        && database.policy_named(args.rp.as_deref()).is_none()
    {
        return Err(Fail::failed(format!(
            "database {:?} has no policy {:?}; 'quorate rp ls {0}' lists them",
            args.target,
            args.rp.as_deref().unwrap_or_default()
        )));
    }
    let policy = database.and_then(|database| database.policy_named(args.rp.as_deref()));
    let places = map.shards().filter(|place| match policy {
        Some(policy) => place.policy.id == policy.id,
        None => Some(place.shard.id) == number,
    });
    let within =
        places.filter(|place| place.group.start < range.to && range.from < place.group.end);
    let mut shards: Vec<Wanted> = within
        .map(|place| Wanted {
            id: place.shard.id,
            start: place.group.start,
            owners: place.shard.owners.clone(),
        })
        .collect();
    shards.sort_by_key(|shard| (shard.start, shard.id));
    Ok(shards)
}

/// Asks all owners at the same time.
async fn ask(client: &Client, shard: &Wanted, range: DigestRange) -> Answers {
    let mut asked = JoinSet::new();
    for owner in shard.owners.iter().copied() {
        let (client, id) = (client.clone(), shard.id);
        asked.spawn(async move { (owner, client.shard_digest(id, owner, range, PATIENCE).await) });
    }
    asked.join_all().await.into_iter().collect()
}

/// Whether all owners that answered hold the same.
fn agree(answers: &Answers) -> bool {
    let mut good = answers.values().flatten();
    let first = good.next();
    good.all(|other| Some(other) == first)
}

/// What was found, as it is shown.
struct Report<'a> {
    map: &'a ClusterMap,
    /// All owners of all shards.
    nodes: Vec<NodeId>,
    json: bool,
    out: Output,
    table: Table,
    differing: usize,
    unasked: BTreeMap<NodeId, String>,
}

impl<'a> Report<'a> {
    fn new(map: &'a ClusterMap, shards: &[Wanted], json: bool) -> Self {
        let mut nodes: Vec<NodeId> =
            shards.iter().flat_map(|shard| shard.owners.iter().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let names = nodes.iter().map(|node| name(map, *node));
        let header: Vec<String> = [">shard", "from", ">values"]
            .map(str::to_owned)
            .into_iter()
            .chain(names)
            .chain([String::new()])
            .collect();
        let (table, out) = (Table::new(&header), Output::new());
        Self { map, nodes, json, out, table, differing: 0, unasked: BTreeMap::new() }
    }

    fn add(&mut self, shard: &Wanted, answers: &Answers) -> Result<(), Fail> {
        for (node, answer) in answers {
            if let Err(error) = answer {
                self.unasked.entry(*node).or_insert_with(|| error.to_string());
            }
        }
        let mut starts: Vec<i64> =
            answers.values().flatten().flatten().map(|bucket| bucket.start).collect();
        starts.sort_unstable();
        starts.dedup();
        for start in starts {
            let at = |node: &NodeId| {
                let buckets = answers.get(node)?.as_ref().ok()?;
                let found = buckets.binary_search_by_key(&start, |bucket| bucket.start).ok();
                // An owner without values there has a digest too.
                let nothing = BucketDigest { start, values: 0, digest: 0 };
                Some(found.and_then(|at| buckets.get(at)).copied().unwrap_or(nothing))
            };
            let found: Vec<(NodeId, Option<BucketDigest>)> =
                shard.owners.iter().map(|node| (*node, at(node))).collect();
            let mut held = found.iter().filter_map(|(_, bucket)| *bucket);
            let first = held.next();
            let equal = held.all(|other| Some(other) == first);
            self.differing += usize::from(!equal);
            let from = start.max(shard.start);
            if self.json {
                self.line(shard.id, from, &found, equal)?;
            } else {
                self.row(shard.id, from, &found, equal);
            }
        }
        Ok(())
    }

    fn line(
        &mut self,
        shard: ShardId,
        from: i64,
        found: &[(NodeId, Option<BucketDigest>)],
        equal: bool,
    ) -> Result<(), Fail> {
        let nodes: Vec<Value> = found
            .iter()
            .map(|(node, bucket)| {
                json!({
                    "node": node,
                    "name": name(self.map, *node),
                    "values": bucket.map(|bucket| bucket.values),
                    "digest": bucket.map(|bucket| format!("{:032x}", bucket.digest)),
                })
            })
            .collect();
        self.out.json(&json!({ "shard": shard, "from": from, "equal": equal, "owners": nodes }))
    }

    fn row(
        &mut self,
        shard: ShardId,
        from: i64,
        found: &[(NodeId, Option<BucketDigest>)],
        equal: bool,
    ) {
        let most = found.iter().filter_map(|(_, bucket)| Some((*bucket)?.values)).max();
        let mut cells =
            vec![shard.to_string(), format_time(from), most.unwrap_or_default().to_string()];
        for node in &self.nodes {
            let cell = match found.iter().find(|(owner, _)| owner == node) {
                None => String::new(),
                Some((_, None)) => "?".to_owned(),
                Some((_, Some(bucket))) if bucket.values == 0 => "-".to_owned(),
                Some((_, Some(bucket))) => format!("{:032x}", bucket.digest)[..DIGITS].to_owned(),
            };
            cells.push(cell);
        }
        cells.push(if equal { String::new() } else { "differ".to_owned() });
        self.table.row(cells);
    }

    fn finish(mut self) -> Result<(), Fail> {
        if !self.json {
            self.out.bytes(self.table.render().as_bytes())?;
        }
        self.out.flush()?;
        if let Some((node, why)) = self.unasked.first_key_value() {
            return Err(Fail::failed(format!(
                "{} could not be asked: {why}; see 'quorate status'",
                name(self.map, *node)
            )));
        }
        match self.differing {
            0 => Ok(()),
            differing => Err(Fail::failed(format!(
                "owners differ in {}; 'quorate status --wait drained' waits for hints, \
                 'quorate hints ls' shows them",
                count(differing, "bucket", "buckets")
            ))),
        }
    }
}

fn name(map: &ClusterMap, id: NodeId) -> String {
    map.node(id).map_or_else(|| id.to_string(), |node| node.name.clone())
}
