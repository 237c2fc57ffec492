//! What a query asks for, and that it reads no more than that, answers wholly or says so, and waits for its reader.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use bytes::Bytes;
use quorate_client::{Client, ClientConfig, Error, Query, QueryError, WriteOptions};
use quorate_protocol::{
    code::Code,
    consistency::Level,
    id::NodeId,
    message::{MAX_PATTERN_BYTES, Scan, TagMatch},
    point::{Point, text::write_line},
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::Ledger,
    limit::{real, simulated},
    load::{EPOCH, large, write},
    observe::{PATIENCE, create_database},
    process::Processes,
    raw::Raw,
};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep, timeout},
};

const THREE: NodeId = NodeId(3);
const WEEK: i64 = 7 * 24 * 3600 * 1_000_000_000;
const LEVELS: [Level; 3] = [Level::One, Level::Quorum, Level::All];

/// Canonical lines of a query's answer.
async fn lines(client: &Client, query: &Query) -> Vec<String> {
    let mut rows = client.query(query.clone()).await.unwrap();
    let mut lines = Vec::new();
    while let Some(series) = rows.next().await {
        let (key, rows) = series.unwrap();
        for row in 0..rows.len() {
            let fields = rows.columns.iter();
            let fields = fields.filter_map(|column| Some((&column.name[..], column.get(row)?)));
            let mut line = Vec::new();
            write_line(&mut line, &key, fields, rows.times[row]);
            lines.push(String::from_utf8(line).unwrap());
        }
    }
    lines
}

/// `hosts` series of `rows` rows in each of `weeks` groups, in three regions; every other row lacks a field.
async fn fill(client: &Client, hosts: i64, weeks: i64, rows: i64) {
    create_database(client, "db", 3).await;
    let ledger = Ledger::new();
    for host in 0..hosts {
        let point = |week: i64, row: i64| {
            let point = Point::builder("cpu").tag("host", format!("h{host}"));
            let point = point.tag("region", ["eu", "us", "as"][host as usize % 3]);
            let point = point.field("n", week * rows + row);
            let point = if row % 2 == 0 { point.field("even", true) } else { point };
            point.at(EPOCH - week * WEEK + row).unwrap()
        };
        let points: Vec<Point> =
            (0..weeks).flat_map(|week| (0..rows).map(move |row| point(week, row))).collect();
        write(client, "db", &points, &WriteOptions::at(Level::All), &ledger).await.unwrap();
    }
}

#[test]
fn tags_fields_and_times_choose_what_they_say() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 901).await;
        let client = cluster.client().await;
        fill(&client, 7, 2, 10).await;
        let all = lines(&client, &Query::all("db")).await;
        assert_eq!(all.len(), 140);
        let new = || Query::builder("db").measurement("cpu");
        type Wanted = fn(&str) -> bool;
        let cases: [(_, Wanted); 8] = [
            (new().tag("host", "h3"), |line| line.contains("host=h3,")),
            (new().tag_in("host", ["h1", "h4", "none"]), |line| {
                line.contains("host=h1,") || line.contains("host=h4,")
            }),
            (new().tag_matches("host", "^h[2-5]$"), |line| {
                ["h2", "h3", "h4", "h5"].iter().any(|host| line.contains(&format!("={host},")))
            }),
            (
                new().tag_in("host", ["h1", "h4"]).tag("region", "us").tag_matches("host", "1"),
                |line| line.contains("host=h1,"),
            ),
            (new().tag("rack", ""), |_| true),
            (new().tag("rack", "r1"), |_| false),
            (new().field("even"), |line| line.contains("even=true")),
            (new().range(EPOCH + 3..=EPOCH + 5), |line| {
                let time: i64 = line.rsplit(' ').next().unwrap().parse().unwrap();
                (EPOCH + 3..=EPOCH + 5).contains(&time)
            }),
        ];
        for (builder, wanted) in cases {
            for level in LEVELS {
                let query = builder.clone().level(level).build().unwrap();
                let mut expected: Vec<String> =
                    all.iter().filter(|line| wanted(line)).cloned().collect();
                if !query.fields.is_empty() {
                    for line in &mut expected {
                        let n = line.find(",n=").unwrap();
                        let end = n + line[n..].find(' ').unwrap();
                        line.replace_range(n..end, "");
                    }
                }
                assert_eq!(lines(&client, &query).await, expected, "{query:?}");
            }
        }
        cluster.finish().await;
    });
}

#[test]
fn a_limit_gives_the_first_rows_and_reads_no_others() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 902).await;
        let client = cluster.client().await;
        fill(&client, 3, 2, 5_000).await;
        let all = lines(&client, &Query::all("db")).await;
        assert_eq!(all.len(), 30_000);
        for level in LEVELS {
            for limit in [1, 7, 5_000, 5_001, 29_999, 50_000] {
                let query = Query::builder("db").level(level).limit(limit).build().unwrap();
                let before = cluster.net().counters().delivered_bytes;
                let found = lines(&client, &query).await;
                assert!(found == all[..limit.min(all.len())], "{level}, {limit}: {}", found.len());
                let moved = cluster.net().counters().delivered_bytes - before;
                // Rows of two groups from up to three owners, and what nodes say to each other meanwhile.
                assert!(limit > 7 || moved < 30_000, "{level}, {limit}: {moved} bytes");
            }
        }
        // An owner that lacks the first rows does not hide them, and one that has them alone does not add any.
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[NodeId(1), NodeId(2)]).await;
        let early = Point::builder("cpu").tag("host", "h0").tag("region", "eu");
        let early = early.field("n", -1_i64).at(EPOCH - 2 * WEEK).unwrap();
        let quorum = WriteOptions::default();
        write(&client, "db", &[early], &quorum, &Ledger::new()).await.unwrap();
        let query = Query::builder("db").limit(2).build().unwrap();
        let found = lines(&client, &query).await;
        assert!(found.len() == 2 && found[0].contains("n=-1i") && found[1] == all[0], "{found:?}");

        // Of windows, as many come.
        let query = Query::builder("db").field("n").limit(3).level(Level::One).build().unwrap();
        for level in [Level::One, Level::Quorum] {
            let query = Query { level, ..query.clone() };
            let mut windows = client.aggregate(query, WEEK as u64).await.unwrap();
            let mut starts = Vec::new();
            while let Some(series) = windows.next().await {
                let series = series.unwrap();
                let of = series.fields.iter().flat_map(|field| &field.windows);
                starts.extend(of.map(|(start, _)| (series.key.clone(), *start)));
            }
            assert_eq!(starts.len(), 3, "{starts:?}");
            assert_eq!(starts.iter().cloned().collect::<BTreeSet<_>>().len(), 3, "{starts:?}");
        }
        cluster.finish().await;
    });
}

/// Rows of about 2 kB, so many in a series.
async fn fill_large(client: &Client, rows: u64, in_series: u64) {
    let ledger = Ledger::new();
    create_database(client, "db", 3).await;
    for n in 0..rows {
        let text = large(n, 2 << 10);
        let text = text.fields()[0].1.clone();
        let point =
            Point::builder("large").tag("t", format!("t{:05}", n / in_series)).field("text", text);
        let point = point.at(EPOCH + n as i64).unwrap();
        write(client, "db", &[point], &WriteOptions::at(Level::All), &ledger).await.unwrap();
    }
}

#[test]
fn nothing_is_read_ahead_for_who_does_not_read_beyond_what_is_said() {
    const ROWS: u64 = 1_200;
    simulated(async {
        let mut plan = Plan::of(3);
        // Pages have 256 KiB at least.
        plan.client =
            ClientConfig { query_bytes: 1, read_ahead_bytes: 64 << 10, ..ClientConfig::default() };
        let mut cluster = Cluster::simulated_with(plan, 903).await;
        let client = cluster.client().await;
        fill_large(&client, ROWS, 30).await;
        sleep(Duration::from_secs(10)).await;
        let before = cluster.net().counters().delivered_bytes;
        sleep(Duration::from_secs(60)).await;
        let idle = cluster.net().counters().delivered_bytes - before;

        // With a limit, a page ends where nobody wants more.
        let few = Query::builder("db").limit(5).build().unwrap();
        let before = cluster.net().counters().delivered_bytes;
        assert_eq!(lines(&client, &few).await.len(), 5);
        let moved = cluster.net().counters().delivered_bytes - before;
        assert!(moved < 2 * 5 * (3 << 10), "{moved} bytes for five rows");

        let mut rows = client.query(Query::all("db")).await.unwrap();
        let before = cluster.net().counters().delivered_bytes;
        sleep(Duration::from_secs(60)).await;
        let ahead = cluster.net().counters().delivered_bytes - before - idle;
        // Two owners, of each a page that is kept, and perhaps one before it that waits.
        assert!(ahead > 256 << 10, "{ahead} bytes: nothing was read");
        assert!(ahead < 4 * (300 << 10), "{ahead} bytes of some {}", 2 * ROWS * (2 << 10));
        let mut count = 0;
        while let Some(series) = rows.next().await {
            count += series.unwrap().1.len() as u64;
        }
        assert_eq!(count, ROWS);
        cluster.finish().await;
    });
}

#[test]
fn an_owner_that_fails_in_the_middle_ends_in_an_error_where_the_level_needs_it() {
    simulated(async {
        let mut plan = Plan::of(3);
        plan.client =
            ClientConfig { query_bytes: 1, read_ahead_bytes: 1, ..ClientConfig::default() };
        let mut cluster = Cluster::simulated_with(plan, 904).await;
        let client = cluster.client().await;
        fill_large(&client, 600, 1).await;
        let query = |level| Query::builder("db").level(level).build().unwrap();
        let mut whole = client.query(query(Level::Quorum)).await.unwrap();
        let mut broken = client.query(query(Level::All)).await.unwrap();
        let mut windows = client.aggregate(query(Level::All), 1_000).await.unwrap();
        assert!(whole.next().await.unwrap().is_ok());
        assert!(broken.next().await.unwrap().is_ok());
        assert!(windows.next().await.unwrap().is_ok());
        cluster.stop(THREE).await;
        let (mut count, mut error) = (1, None);
        while let Some(next) = broken.next().await {
            match next {
                Ok(_) => count += 1,
                Err(failed) => error = Some(failed),
            }
        }
        // The error is the last of it.
        let error = error.expect("partial rows pass as whole");
        assert!(matches!(error, Error::ReadLevel { answered: 2, required: 3, .. }), "{error}");
        assert!(count < 600, "all rows were there already, nothing was tested");
        let mut last = None;
        while let Some(next) = windows.next().await {
            last = Some(next.is_err());
        }
        assert_eq!(last, Some(true), "partial windows pass as whole");
        // Another owner answers for it where the level allows that.
        let mut count = 1;
        while let Some(next) = whole.next().await {
            next.unwrap();
            count += 1;
        }
        assert_eq!(count, 600);
        cluster.finish().await;
    });
}

#[test]
fn what_makes_no_sense_is_told_before_anything_is_sent_and_refused_by_nodes() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 905).await;
        let client = cluster.client().await;
        fill(&client, 1, 1, 1).await;
        let host = |pattern: &str| TagMatch {
            key: "host".into(),
            values: Vec::new(),
            pattern: Some(pattern.to_owned()),
        };
        let long = "a".repeat(MAX_PATTERN_BYTES + 1);
        let map = client.map();
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        let connection = raw.connect(&map, NodeId(1)).await;
        let shard = map.shards().next().unwrap().shard.id;
        for pattern in ["(", "(a{100}){100}", &long] {
            let query = Query { tags: vec![host(pattern)], ..Query::all("db") };
            let sent = cluster.net().counters().sent;
            let begun = Instant::now();
            for error in [
                client.query(query.clone()).await.map(drop).unwrap_err(),
                client.aggregate(query, 0).await.map(drop).unwrap_err(),
            ] {
                assert!(matches!(error, Error::Query(QueryError::Pattern { .. })), "{error}");
                assert_eq!((error.code(), error.retryable()), (Code::Invalid, false));
            }
            assert_eq!((cluster.net().counters().sent, begun.elapsed()), (sent, Duration::ZERO));
            // A node does not rely on that.
            let request = Scan {
                shard,
                meta_index: map.index,
                measurement: None,
                tags: vec![host(pattern)],
                fields: Vec::new(),
                from: i64::MIN,
                to: i64::MAX,
                after: None,
                limit: 0,
                rows: 0,
            };
            let deadline = Instant::now() + PATIENCE;
            let reply = connection.open_stream(&request, Bytes::new(), deadline).await;
            let error = reply.unwrap().next().await.unwrap_err();
            assert_eq!(error.code(), Code::Invalid, "{error}");
        }
        cluster.finish().await;
    });
}

#[test]
fn the_command_ends_with_1_when_it_could_not_read_all() {
    const ROWS: usize = 16_000;
    real(async {
        let mut cluster = Processes::start(env!("CARGO_BIN_EXE_quorate-under-test"), 3).await;
        let args = ["db", "create", "db", "--replication", "3"];
        assert_eq!(cluster.quorate(&args).await.code, Some(0));
        // More than pipes, pages and what is read ahead can hold: 32 MB.
        let file = cluster.root().join("lines");
        let mut state = 1_u64;
        let mut text = String::new();
        for row in 0..ROWS {
            let noise: String = (0..2_000)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    char::from(b'a' + (state >> 33) as u8 % 26)
                })
                .collect();
            text.push_str(&format!("m,t=t{row:05} f=\"{noise}\" 1700000000000000000\n"));
        }
        std::fs::write(&file, text).unwrap();
        let args = ["write", "db", file.to_str().unwrap(), "--batch", "500"];
        let written = cluster.quorate(&args).await;
        assert_eq!(written.code, Some(0), "{written:?}");

        for format in [&["--json"][..], &["--format", "table"]] {
            let mut args = vec!["query", "db", "m", "--consistency", "all"];
            args.extend(format);
            let mut child = cluster.spawn_quorate(&args, Stdio::null());
            // It has begun, and waits for somebody to read on.
            let mut stdout = child.stdout.take().unwrap();
            let mut text = vec![0; 100];
            stdout.read_exact(&mut text).await.unwrap();
            cluster.kill(THREE).await;
            stdout.read_to_end(&mut text).await.unwrap();
            let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            let why = "has 2 of 3 owners readable";
            assert!(stderr.contains(why) && stderr.contains("not all rows"), "{stderr}");
            assert!(text.len() > 2_000 && text.len() < ROWS * 2_000, "{} bytes", text.len());
            cluster.restart(THREE).await;
            let healthy = ["status", "--wait", "healthy", "--timeout", "30s"];
            assert_eq!(cluster.quorate(&healthy).await.code, Some(0));
        }
    });
}
