//! Windowed aggregates: the nodes' own and those made of rows are the same, whoever answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_client::{Client, Error, Query, WriteOptions};
use quorate_protocol::{
    aggregate::{Function, Partial},
    consistency::Level,
    id::FieldId,
    message::TagMatch,
    placement::group_bounds,
    point::{Point, Value},
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::Ledger,
    limit::{real, simulated},
    load::{EPOCH, write},
    observe::{create_database, wait_healthy},
    process::Processes,
};

const DAY: i64 = 24 * 3600 * 1_000_000_000;
const ALL: [Function; 7] = [
    Function::Count,
    Function::Sum,
    Function::Min,
    Function::Max,
    Function::Mean,
    Function::First,
    Function::Last,
];

/// By series, field and start of the window.
type Windows = BTreeMap<(Bytes, FieldId, i64), Partial>;

/// All windows, with their order verified.
async fn windows(client: &Client, query: Query, every: u64) -> Result<Windows, Error> {
    let mut stream = client.aggregate(query, every).await?;
    let mut found = Windows::new();
    let mut last: Option<(Bytes, i64)> = None;
    while let Some(series) = stream.next().await {
        let series = series?;
        let starts = || series.fields.iter().flat_map(|field| &field.windows).map(|(at, _)| *at);
        let first = (series.key.clone(), starts().min().unwrap());
        assert!(last.as_ref().is_none_or(|last| *last < first), "{first:?} behind {last:?}");
        last = Some((series.key.clone(), starts().max().unwrap()));
        for field in series.fields {
            for (start, partial) in field.windows {
                let at = (series.key.clone(), field.field, start);
                assert_eq!(found.insert(at.clone(), partial), None, "{at:?} twice");
            }
        }
    }
    Ok(found)
}

/// A small generator of numbers, so that the same test always does the same.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Points of five series with every type of field over some weeks, some of them more than once.
fn points(draw: &mut Draw, count: usize) -> Vec<Point> {
    let point = |draw: &mut Draw| {
        let n = i64::try_from(draw.below(1000)).unwrap();
        let mut point = Point::builder("cpu")
            .tag("host", format!("h{}", draw.below(5)))
            .tag("zone", if n % 2 == 0 { "north" } else { "south" })
            .field("count", n - 500);
        if n % 3 != 0 {
            point = point.field("usage", n as f64 / 7.0 + 1e-9);
        }
        if n % 5 == 0 {
            point = point.field("up", n % 2 == 0).field("state", format!("s{n}"));
        }
        let time = i64::try_from(draw.below(60 * 24)).unwrap() * (DAY / 48);
        point.field("bytes", Value::Unsigned(u64::MAX / 2 - n as u64)).at(EPOCH - time).unwrap()
    };
    (0..count).map(|_| point(draw)).collect()
}

/// Nothing but the last bits of a sum of floats may differ, and no result shows them.
fn same(a: &Windows, b: &Windows) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (at, one) in a {
        let other = &b[at];
        assert_eq!(
            (one.count, &one.min, &one.max),
            (other.count, &other.min, &other.max),
            "{at:?}"
        );
        assert_eq!((&one.first, &one.last), (&other.first, &other.last), "{at:?}");
        for function in ALL {
            assert_eq!(one.result(function), other.result(function), "{at:?} {function:?}");
        }
    }
}

#[test]
fn both_ways_to_aggregate_give_the_same_fresh_and_folded() {
    simulated(async {
        // Pages of a few series, rounds of a few windows, runs of a few rows.
        let mut plan = Plan::of(3).configured(|_, config| {
            config.shard.aggregate_partials = 40;
            config.shard.scan_bytes = 2000;
        });
        plan.client.query_bytes = 1;
        let mut cluster = Cluster::simulated_with(plan, 401).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        // With two copies on three nodes there are three shards per group.
        create_database(&client, "db", 2).await;
        let mut draw = Draw(401);
        let all = WriteOptions::at(Level::All);
        let mut model: BTreeMap<(Bytes, i64), i64> = BTreeMap::new();
        for round in 0..4 {
            let some = points(&mut draw, 400);
            write(&client, "db", &some, &all, &ledger).await.unwrap();
            for point in &some {
                let count = point.fields().iter().find(|(name, _)| &name[..] == b"count").unwrap();
                let Value::Integer(count) = &count.1 else { panic!("a count is an integer") };
                model.insert((point.key().clone(), point.time()), *count);
            }
            if round % 2 == 1 {
                for node in cluster.ids() {
                    cluster.node(node).fold().await;
                }
            }
            let host = TagMatch {
                key: "host".into(),
                values: vec!["h1".into(), "h3".into()],
                pattern: None,
            };
            let ranges = [
                (i64::MIN, i64::MAX, Vec::new(), Vec::new()),
                (
                    EPOCH - 9 * DAY - 77,
                    EPOCH - DAY,
                    vec![host],
                    vec!["usage".into(), "count".into()],
                ),
            ];
            for (from, to, tags, fields) in ranges {
                // Longer than a group, over its bounds; shorter; all at once.
                for every in [0, 3600, 86_400 * 5, 86_400 * 30].map(|s: u64| s * 1_000_000_000) {
                    let query = Query {
                        from,
                        to,
                        tags: tags.clone(),
                        fields: fields.clone(),
                        ..Query::all("db")
                    };
                    let one = Query { level: Level::One, ..query.clone() };
                    let pushed = windows(&client, one, every).await.unwrap();
                    let fetched = windows(&client, query, every).await.unwrap();
                    same(&pushed, &fetched);
                    assert!(!pushed.is_empty());
                }
            }
        }
        // And they are what a naive sum over the points says.
        let every = 5 * DAY.unsigned_abs();
        let mut sums: BTreeMap<(Bytes, i64), (u64, i64)> = BTreeMap::new();
        for ((key, time), count) in model {
            let sum = sums.entry((key, group_bounds(time, every).0)).or_default();
            *sum = (sum.0 + 1, sum.1 + count);
        }
        let query = Query { level: Level::One, fields: vec!["count".into()], ..Query::all("db") };
        let found = windows(&client, query, every).await.unwrap();
        assert_eq!(found.len(), sums.len());
        for ((key, _, start), partial) in found {
            let (count, sum) = sums[&(key, start)];
            assert_eq!(partial.count, count);
            assert_eq!(partial.result(Function::Sum), Ok(Some(Value::Integer(sum))));
        }
        cluster.finish().await;
    });
}

#[test]
fn another_owner_goes_on_where_one_has_failed() {
    simulated(async {
        let mut plan = Plan::of(3);
        plan.client.query_bytes = 1;
        let mut cluster = Cluster::simulated_with(plan, 402).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        // So many windows that a reader is in the middle of them.
        let points: Vec<Point> = (0..40_000)
            .map(|n| {
                let point = Point::builder("cpu").tag("host", format!("h{:02}", n % 100));
                point.field("n", n).at(EPOCH - n * 1_000_000_000).unwrap()
            })
            .collect();
        let all = WriteOptions::at(Level::All);
        for some in points.chunks(5000) {
            write(&client, "db", some, &all, &ledger).await.unwrap();
        }
        let query = Query { level: Level::One, ..Query::all("db") };
        let whole = windows(&client, query.clone(), 1_000_000_000).await.unwrap();
        assert_eq!(whole.len(), points.len());

        let mut stream = client.aggregate(query, 1_000_000_000).await.unwrap();
        let mut found = Windows::new();
        // The first two that are asked, at a tenth and at half of it.
        let mut asked = client.map().shards().next().unwrap().shard.owners.clone();
        asked.truncate(2);
        let mut at = points.len() / 10;
        while let Some(series) = stream.next().await {
            let series = series.unwrap();
            for field in series.fields {
                for (start, partial) in field.windows {
                    let at = (series.key.clone(), field.field, start);
                    assert_eq!(found.insert(at, partial), None, "a window twice");
                }
            }
            if found.len() > at && !asked.is_empty() {
                cluster.stop(asked.remove(0)).await;
                at = points.len() / 2;
            }
        }
        same(&found, &whole);
        cluster.finish().await;
    });
}

#[test]
fn the_command_shows_the_same_at_every_level() {
    real(async {
        let cluster = Processes::start(env!("CARGO_BIN_EXE_quorate-under-test"), 3).await;
        let client = cluster.client().await;
        wait_healthy(&client, &cluster.ids()).await;
        create_database(&client, "db", 3).await;
        let points = points(&mut Draw(403), 600);
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &points, &all, &Ledger::new()).await.unwrap();
        client.close().await;
        for function in ["count", "sum", "min", "max", "mean", "first", "last"] {
            let mut shown = Vec::new();
            for level in ["one", "quorum", "all"] {
                let mut args = vec!["query", "db", "cpu", "--every", "3d", "--agg", function];
                if matches!(function, "sum") {
                    args.extend(["--field", "count", "--field", "usage"]);
                }
                args.extend(["--consistency", level, "--format", "csv"]);
                shown.push(cluster.quorate(&args).await);
            }
            let first = &shown[0];
            assert_eq!(first.code, Some(0), "{}", first.stderr);
            assert!(first.stdout.lines().count() > 20, "{}", first.stdout);
            assert!(shown.iter().all(|other| other.stdout == first.stdout), "{function}");
        }
        // A sum that has no value of its type is an error that says what to do.
        let args = ["query", "db", "cpu", "--every", "30d", "--agg", "sum", "--field", "bytes"];
        let ended = cluster.quorate(&args).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
        assert!(ended.stderr.contains("shorter windows"), "{}", ended.stderr);
    });
}
