//! The decision grid of the system this descends from, on live clusters: levels, owners, and what becomes of each
//! owner's copy. `protocol/tests/consistency_cases.rs` has all of it for the tracker alone.
//!
//! Each cluster has one node more than owners, which may keep hints: it stands for the node that coordinated there.
//! Clusters of five owners have none, as all nodes of a simulated cluster vote: somebody is up there.
//! Where this design differs, it is [`Differs`] that says so.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use quorate_client::{
    Client, WriteOptions,
    error::{Certainty, WriteErrorKind},
    receipt::CopyState,
};
use quorate_protocol::batch::Batch;
use quorate_protocol::{consistency::Level, id::NodeId, point::Point};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    limit::{simulated, soak},
    load::EPOCH,
    observe::{PATIENCE, create_database, export, queues},
};
use serde_json::Value;
use tokio::time::Instant;

/// Nodes that vote at most.
const VOTERS: usize = 5;
const LEVELS: [Level; 4] = [Level::Any, Level::One, Level::Quorum, Level::All];
/// No write takes as long: what cannot be is told before.
const TIMEOUT: Duration = Duration::from_secs(6);
/// Longer than any answer takes, shorter than any timer.
const AT_ONCE: Duration = Duration::from_millis(200);

/// What becomes of an owner's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// It is stored.
    Ok,
    /// The owner is down; hints are kept.
    Retry,
    /// The owner is down; every queue of hints is full.
    RetryFull,
    /// The owner refuses it for good. There by a type conflict, which cannot come about here: by its clock.
    Conflict,
    /// The owner falls silent.
    Hang,
}

use Outcome::{Conflict, Hang, Ok as Stored, Retry, RetryFull};

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Stored => "ok",
            Retry => "retry",
            RetryFull => "retry_hhfull",
            Conflict => "conflict",
            Hang => "hang",
        }
    }
}

/// Where this design decides otherwise than the grid, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Differs {
    /// A silent owner is down after `mute_after` and gets a hint, which is enough for `any`: there it timed out.
    SilentIsHinted,
    /// What silence makes impossible is told after `mute_after`: there it timed out.
    ToldBeforeTheTimeout,
    /// What is impossible beforehand is not sent: there some owners stored it, others got hints.
    NothingIsSent,
}

/// What a row must come to.
struct Expected {
    reached: bool,
    differs: Option<Differs>,
}

fn expected(level: Level, outcomes: &[Outcome]) -> Expected {
    let count = |wanted: Outcome| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let required = level.required(outcomes.len());
    let full = count(RetryFull) > 0;
    let (ok, hang) = (count(Stored), count(Hang));
    let by_hints = level == Level::Any && !full && count(Retry) + hang > 0;
    let reached = ok >= required || by_hints;
    let up = outcomes.len() - count(Retry) - count(RetryFull);
    let differs = if level != Level::Any && up < required {
        (up > 0 || count(Retry) > 0).then_some(Differs::NothingIsSent)
    } else if hang == 0 || ok >= required {
        None
    } else if reached && count(Retry) == 0 {
        Some(Differs::SilentIsHinted)
    } else {
        (!reached).then_some(Differs::ToldBeforeTheTimeout)
    };
    Expected { reached, differs }
}

/// What the grid says of these outcomes at a level; none where it is not on this machine.
fn grid() -> BTreeMap<(String, Vec<String>), Value> {
    let shared = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let dir = std::env::var_os("QUORATE_DATA").map_or(shared, PathBuf::from);
    let Ok(text) = std::fs::read_to_string(dir.join("consistency_cases.jsonl")) else {
        println!("NOTE: no grid at {}; set QUORATE_DATA to compare with it", dir.display());
        return BTreeMap::new();
    };
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows = rows.filter(|row| row["kind"] == "grid" && row["local_owner_index"].is_null());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let key = |row: &Value| {
        let outcomes = row["outcomes"].as_array().unwrap().iter().map(text).collect();
        (text(&row["consistency"]), outcomes)
    };
    rows.map(|row| (key(&row), row)).collect()
}

/// Every multiset of outcomes for so many owners that one cluster can have: queues are full for all targets.
fn possible(owners: usize) -> Vec<Vec<Outcome>> {
    let mut all: Vec<Vec<Outcome>> = vec![Vec::new()];
    for _ in 0..owners {
        let longer = all.iter().flat_map(|some| {
            let kinds = [Stored, Retry, RetryFull, Conflict, Hang].into_iter();
            let from = some.last().copied().unwrap_or(Stored);
            kinds.filter(move |kind| *kind >= from).map(move |kind| {
                let mut more = some.clone();
                more.push(kind);
                more
            })
        });
        all = longer.collect();
    }
    all.retain(|some| !(some.contains(&Retry) && some.contains(&RetryFull)));
    all.retain(|some| owners < VOTERS || some.contains(&Stored) || some.contains(&Conflict));
    all
}

/// A seeded choice.
fn sample(owners: usize, count: usize, seed: u64) -> Vec<Vec<Outcome>> {
    let mut left = possible(owners);
    let mut state = seed;
    let mut chosen = Vec::new();
    while chosen.len() < count && !left.is_empty() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chosen.push(left.swap_remove((state >> 33) as usize % left.len()));
    }
    chosen
}

/// One cluster and one series whose owners are all nodes but the last.
struct World {
    cluster: Cluster,
    client: Client,
    outcomes: Vec<Outcome>,
    host: String,
    rows: i64,
}

impl World {
    async fn start(outcomes: &[Outcome], seed: u64) -> Self {
        let owners = outcomes.len() as u64;
        let full = outcomes.contains(&RetryFull);
        let nodes = (owners + 1).min(VOTERS as u64);
        let mut plan = Plan::of(nodes).configured(move |_, config| {
            if full {
                config.handoff.max_bytes = 1;
            }
        });
        for (node, outcome) in (1..).zip(outcomes) {
            if *outcome == Conflict {
                plan.skew_ms.insert(NodeId(node), -300_000);
            }
        }
        let mut cluster = Cluster::simulated_with(plan, seed).await;
        let client = cluster.client().await;
        create_database(&client, "db", owners as u32).await;
        let mut world =
            Self { cluster, client, outcomes: outcomes.to_vec(), host: String::new(), rows: 0 };
        let keeper = NodeId(owners + 1);
        for host in 0..200 {
            world.host = format!("h{host}");
            let batch = world.batch();
            let one = WriteOptions::at(Level::One);
            let parts = match world.client.write("db", &batch, &one).await {
                Ok(receipt) => receipt.parts,
                Err(error) => error.receipt.parts,
            };
            let copies = &parts[0].copies;
            assert_eq!(copies.len() as u64, owners);
            if copies.iter().all(|copy| copy.owner != keeper) {
                assert!(world.client.settle(PATIENCE).await);
                return world;
            }
        }
        panic!("no series has its shard on all nodes but {keeper}");
    }

    /// One more row of the series.
    fn batch(&mut self) -> Batch {
        self.rows += 1;
        let point = Point::builder("cpu").tag("host", &self.host).field("n", self.rows);
        let mut batch = Batch::new();
        batch.push(&point.at(EPOCH + self.rows).unwrap());
        batch
    }

    /// Owners with this outcome.
    fn owners(&self, wanted: &[Outcome]) -> Vec<NodeId> {
        let all = (1..).zip(&self.outcomes);
        all.filter(|(_, outcome)| wanted.contains(outcome)).map(|(node, _)| NodeId(node)).collect()
    }

    /// Nodes that the client reaches, but these.
    fn but(&self, gone: &[NodeId]) -> Vec<NodeId> {
        self.cluster.ids().into_iter().filter(|node| !gone.contains(node)).collect()
    }

    /// Hints accepted for each target, wherever they are kept.
    async fn hints(&self, live: &[NodeId]) -> BTreeMap<NodeId, u64> {
        let mut accepted = BTreeMap::new();
        for ((_, target), queue) in queues(&self.client, live).await.unwrap() {
            *accepted.entry(target).or_default() += queue.accepted;
        }
        accepted
    }

    async fn row(&mut self, level: Level, grid: &BTreeMap<(String, Vec<String>), Value>) {
        let down = self.owners(&[Retry, RetryFull]);
        let silent = self.owners(&[Hang]);
        let (before_silence, live) = (self.but(&down), self.but(&[&down[..], &silent].concat()));
        down.iter().for_each(|node| self.cluster.isolate(*node));
        self.cluster.wait_up(&self.client, &before_silence).await;
        let before = self.hints(&live).await;
        silent.iter().for_each(|node| self.cluster.isolate(*node));

        let batch = self.batch();
        let row = self.rows;
        let options = WriteOptions { timeout: TIMEOUT, ..WriteOptions::at(level) }.with_history();
        let begun = Instant::now();
        let result = self.client.write("db", &batch, &options).await;
        let took = begun.elapsed();
        let said = result.as_ref().map_or_else(ToString::to_string, |_| "reached".to_owned());
        let what = format!("{level} {:?}: {said} after {took:?}", self.outcomes);
        let history = match &result {
            Ok(receipt) => receipt.history.as_ref(),
            Err(error) => error.history(),
        };
        let what = format!("{what}\n{}", history.unwrap());

        let Expected { reached, differs } = expected(level, &self.outcomes);
        assert_eq!(result.is_ok(), reached, "{what}");
        let ok = self.owners(&[Stored]).len();
        let required = level.required(self.outcomes.len());
        // Silence is waited for, also by hints that travel with a silent owner's copy.
        let nothing_sent = differs == Some(Differs::NothingIsSent);
        let waits = !silent.is_empty() && ok < required && !nothing_sent;
        assert!(if waits { took < TIMEOUT / 2 } else { took < AT_ONCE }, "{what}");

        // What is durable is what the answer says.
        let sleep_past_silence = Duration::from_secs(3);
        tokio::time::sleep(sleep_past_silence).await;
        let hints = self.hints(&live).await;
        let of = |all: &BTreeMap<NodeId, u64>, node: &NodeId| all.get(node).copied().unwrap_or(0);
        let hinted = |node: &NodeId| of(&hints, node) > of(&before, node);
        let mut holders = Vec::new();
        for node in &live {
            let text = export(&self.client, "db", Some(*node)).await.unwrap();
            if text.contains(&format!(" n={row}i ")) {
                holders.push(*node);
            }
        }
        match &result {
            Ok(receipt) => {
                let part = &receipt.parts[0];
                let stored = part.copies.iter().filter(|copy| copy.state.held()).count();
                let in_hints =
                    part.copies.iter().any(|copy| matches!(copy.state, CopyState::Hinted { .. }));
                assert!(stored >= required || (level == Level::Any && in_hints), "{what}");
                assert_eq!(holders, self.owners(&[Stored]), "{what}");
                // Whoever lacks it has a hint, but not who refused it.
                let lacks = self.owners(&[Retry, Hang]);
                assert!(
                    self.owners(&[RetryFull]).len() + lacks.len() == 0
                        || lacks.iter().all(hinted)
                        || self.outcomes.contains(&RetryFull),
                    "{what}"
                );
                assert!(!self.owners(&[Conflict]).iter().any(hinted), "{what}");
            }
            Err(error) => {
                let certainty = error.failed[0].certainty;
                let definite = certainty == Certainty::Definite;
                let nowhere = holders.is_empty() && !self.but(&[]).iter().any(hinted);
                assert!(nowhere || !definite, "{holders:?}, {hints:?}: {what}");
                assert_eq!(definite, error.kind() == WriteErrorKind::Definite, "{what}");
                if nothing_sent {
                    assert!(definite && nowhere, "{what}");
                } else {
                    assert_eq!(definite, ok == 0 && silent.is_empty() && nowhere, "{what}");
                }
            }
        }
        self.compare(level, grid, reached, differs, &what);

        [&down[..], &silent].concat().iter().for_each(|node| self.cluster.rejoin(*node));
        self.cluster.wait_up(&self.client, &self.cluster.ids()).await;
        assert!(self.client.settle(Duration::from_secs(120)).await);
    }

    /// With what the grid says.
    fn compare(
        &self,
        level: Level,
        grid: &BTreeMap<(String, Vec<String>), Value>,
        reached: bool,
        differs: Option<Differs>,
        what: &str,
    ) {
        let outcomes = self.outcomes.iter().map(|outcome| outcome.name().to_owned()).collect();
        let Some(row) = grid.get(&(level.name().to_owned(), outcomes)) else {
            assert!(grid.is_empty(), "not in the grid: {what}");
            return;
        };
        assert_eq!(level.required(self.outcomes.len()) as u64, row["required"].as_u64().unwrap());
        let there = row["v0_11_result"].as_str().unwrap();
        match differs {
            None => assert_eq!(reached, there == "success", "{row}: {what}"),
            Some(Differs::SilentIsHinted) => {
                assert!(reached && there == "timeout", "{row}: {what}")
            }
            Some(Differs::ToldBeforeTheTimeout) => {
                assert!(!reached && there == "timeout", "{row}: {what}");
            }
            Some(Differs::NothingIsSent) => {
                assert!(!reached && there != "success", "{row}: {what}")
            }
        }
    }
}

#[test]
fn a_sample_of_the_grid_on_live_clusters() {
    let grid = grid();
    let rows = [(1, 5), (2, 5), (3, 5), (5, 1)];
    for (owners, count) in rows {
        for (at, outcomes) in sample(owners, soak(count), 20_261_126).iter().enumerate() {
            simulated(async {
                let mut world = World::start(outcomes, 1_000 + (owners * 100 + at) as u64).await;
                for level in LEVELS {
                    world.row(level, &grid).await;
                }
                world.cluster.finish().await;
            });
        }
    }
}
