//! The batching writer: many tasks, each with its own outcomes, over nodes that come and go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quorate_client::{Client, Pending, PushError, Pushed, WriteOptions, Writer, WriterConfig};
use quorate_node::disk::Keep;
use quorate_protocol::{
    change::{Change, PolicySpec},
    code::Code,
    consistency::Level,
    id::NodeId,
    point::Point,
};
use quorate_tests::harness::{
    cluster::{Cluster, client_host, host},
    history::Ledger,
    limit::simulated,
    load::{EPOCH, sample, write},
    observe::{PATIENCE, create_database, exports, wait_drained, wait_healthy, wait_until},
};
use tokio::time::{Instant, sleep, timeout};

/// Notes what became of a push as the ledger of all writes has it.
fn note(ledger: &Ledger, point: &Point, outcome: &Result<Pushed, PushError>) {
    match outcome {
        Ok(Pushed::Written(version)) => ledger.stored(std::slice::from_ref(point), *version),
        Err(PushError { version: Some(version), certainty, .. }) => {
            ledger.uncertain(point, *version, *certainty);
        }
        _ => {}
    }
}

/// Everything that is acknowledged is on all nodes, which are equal.
async fn check(cluster: &Cluster, client: &Client, ledger: &Ledger) {
    assert!(client.settle(PATIENCE).await);
    wait_healthy(client, &cluster.ids()).await;
    wait_drained(client, &cluster.ids()).await;
    ledger.check(&exports(client, "db", &cluster.ids()).await).assert_whole();
}

#[test]
fn pushes_of_many_tasks_travel_together_and_each_hears_of_its_own() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 601).await;
        let client = cluster.client().await;
        let policy = PolicySpec {
            name: "default".to_owned(),
            duration: 30 * 24 * 3_600_000_000_000,
            group_duration: 0,
            replication: 3,
        };
        let change = Change::CreateDatabase { name: "db".to_owned(), policy };
        client.change(change).await.unwrap();
        let ledger = Arc::new(Ledger::new());
        let first = [sample(0, 0)];
        write(&client, "db", &first, &WriteOptions::default(), &ledger).await.unwrap();
        let writer = client.writer("db", WriterConfig::default());
        let tasks = (0..200).map(|task| {
            let (writer, ledger) = (writer.clone(), Arc::clone(&ledger));
            tokio::spawn(async move {
                for n in 0..20 {
                    let point = sample(task, n);
                    let outcome = writer.write(&point).await;
                    note(&ledger, &point, &outcome);
                    outcome.unwrap();
                }
            })
        });
        let tasks: Vec<_> = tasks.collect();
        // Among them one that can never be right, and one that nobody wants any more.
        let wrong = Point::builder("cpu").tag("host", "x").field("usage", 1_i64).at(EPOCH).unwrap();
        let error = writer.write(&wrong).await.unwrap_err();
        assert_eq!((error.code, error.retryable()), (Code::TypeConflict, false), "{error}");
        let year = 365 * 24 * 3_600_000_000_000;
        let old = Point::builder("cpu").tag("host", "x").field("usage", 1.0).at(EPOCH - year);
        assert_eq!(writer.write(&old.unwrap()).await, Ok(Pushed::Dropped));
        for task in tasks {
            task.await.unwrap();
        }
        let stats = writer.stats();
        assert_eq!(
            (stats.pushed, stats.written, stats.dropped, stats.failed),
            (4_002, 4_000, 1, 1)
        );
        assert!(stats.batches * 5 < stats.written, "{stats:?}");
        assert_eq!(writer.waiting_bytes(), 0);
        check(&cluster, &client, &ledger).await;
        cluster.finish().await;
    });
}

#[test]
fn of_two_pushes_of_one_place_the_later_wins_whatever_batches_they_travel_in() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 602).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let ledger = Ledger::new();
        let config =
            WriterConfig { max_rows: 3, linger: Duration::ZERO, ..WriterConfig::default() };
        let writer = client.writer("db", config);
        let mut last: Vec<(Point, Pending)> = Vec::new();
        for n in 0..500_i64 {
            let place = n % 2;
            let tag = if place == 0 { "a" } else { "b" };
            let point = Point::builder("m").tag("t", tag).field("v", n).at(EPOCH).unwrap();
            let pending = writer.push(&point).await.unwrap();
            last.push((point, pending));
            if n % 7 == 0 {
                sleep(Duration::from_millis(3)).await;
            }
        }
        let mut versions = Vec::new();
        for (point, pending) in last {
            let outcome = pending.await;
            note(&ledger, &point, &outcome);
            match outcome {
                Ok(Pushed::Written(version)) => versions.push(version),
                other => panic!("{other:?}"),
            }
        }
        assert!(versions.is_sorted());
        let export = exports(&client, "db", &[NodeId(1)]).await.remove(0).1;
        assert_eq!(export, format!("m,t=a v=498i {EPOCH}\nm,t=b v=499i {EPOCH}\n"));
        check(&cluster, &client, &ledger).await;
        cluster.finish().await;
    });
}

#[test]
fn what_may_still_succeed_is_tried_again_within_its_time_and_nothing_else_is() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 603).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let ledger = Ledger::new();
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        cluster.stop(NodeId(3)).await;
        cluster.wait_up(&client, &[NodeId(1), NodeId(2)]).await;
        // Out of reach for two seconds, and in reach then.
        let config =
            |attempts| WriterConfig { options: all.clone(), attempts, ..WriterConfig::default() };
        let patient = client.writer("db", config(100));
        let hasty = client.writer("db", config(2));
        let (one, two) = (sample(1, 1), sample(1, 2));
        let pending = patient.push(&one).await.unwrap();
        let begun = Instant::now();
        let error = hasty.write(&two).await.unwrap_err();
        assert_eq!((error.code, hasty.stats().retries), (Code::Unavailable, 1));
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        note(&ledger, &two, &Err(error));
        sleep(Duration::from_secs(2)).await;
        cluster.restart(NodeId(3)).await;
        let outcome = pending.await;
        note(&ledger, &one, &outcome);
        outcome.unwrap();
        assert!(patient.stats().retries > 2, "{:?}", patient.stats());
        // Nobody waits for longer than a write may take.
        let short = WriteOptions { timeout: Duration::from_secs(1), ..all.clone() };
        let config = WriterConfig { options: short, attempts: 100, ..WriterConfig::default() };
        let short = client.writer("db", config);
        cluster.stop(NodeId(3)).await;
        cluster.wait_up(&client, &[NodeId(1), NodeId(2)]).await;
        let begun = Instant::now();
        let error = short.write(&sample(1, 3)).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
        cluster.restart(NodeId(3)).await;
        check(&cluster, &client, &ledger).await;
        cluster.finish().await;
    });
}

#[test]
fn what_needs_metadata_holds_up_nothing_else() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 606).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let ledger = Ledger::new();
        let options =
            WriteOptions { timeout: Duration::from_secs(3), ..WriteOptions::at(Level::One) };
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        cluster.stop(NodeId(1)).await;
        cluster.stop(NodeId(2)).await;
        cluster.wait_up(&client, &[NodeId(3)]).await;
        let writer = client.writer("db", WriterConfig { options, ..WriterConfig::default() });
        let fresh = |n: i64| {
            let point = Point::builder("cpu").tag("host", "0").field("fresh", 1.0);
            point.at(EPOCH + n).unwrap()
        };
        let mut needy = Vec::new();
        for n in 1..50 {
            needy.push(writer.push(&fresh(n as i64)).await.unwrap());
            let begun = Instant::now();
            let known = sample(0, n);
            let outcome = writer.write(&known).await;
            note(&ledger, &known, &outcome);
            outcome.unwrap();
            assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
        }
        for pending in needy {
            assert!(pending.await.unwrap_err().retryable());
        }
        cluster.restart(NodeId(1)).await;
        cluster.restart(NodeId(2)).await;
        check(&cluster, &client, &ledger).await;
        cluster.finish().await;
    });
}

#[test]
fn a_client_is_closed_without_waiting_for_a_writer_s_timers() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 608).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let linger = Duration::from_secs(3600);
        let writer = client.writer("db", WriterConfig { linger, ..WriterConfig::default() });
        let mut all = Vec::new();
        for n in 0..10 {
            all.push(writer.push(&sample(1, n)).await.unwrap());
        }
        for pending in all {
            pending.await.unwrap();
        }
        let begun = Instant::now();
        client.close().await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        cluster.finish().await;
    });
}

#[test]
fn points_of_many_missing_groups_are_not_too_many_for_one_write() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 607).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let ledger = Arc::new(Ledger::new());
        let writer = client.writer("db", WriterConfig::default());
        let mut all = Vec::new();
        for n in 0..200 {
            let week = 7 * 24 * 3_600_000_000_000;
            let point = Point::builder("m").field("v", n).at(EPOCH - n * week).unwrap();
            all.push((writer.push(&point).await.unwrap(), point));
        }
        for (pending, point) in all {
            let outcome = pending.await;
            note(&ledger, &point, &outcome);
            outcome.unwrap();
        }
        check(&cluster, &client, &ledger).await;
        cluster.finish().await;
    });
}

#[test]
fn ten_thousand_tasks_hear_everything_with_one_node_killed_and_one_silent() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 604).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let ledger = Arc::new(Ledger::new());
        let one = WriteOptions::at(Level::One);
        write(&client, "db", &[sample(0, 0)], &one, &ledger).await.unwrap();
        let budget_bytes = 256 << 10;
        let config = WriterConfig { options: one, budget_bytes, ..WriterConfig::default() };
        let writer = client.writer("db", config);
        // Each takes 256 bytes at least.
        let waiting = |writer: &Writer| {
            let stats = writer.stats();
            (stats.pushed - stats.written - stats.dropped - stats.failed) as usize * 256
        };
        let heard = Arc::new(AtomicU64::new(0));
        let tasks = (0..10_000_u64).map(|task| {
            let (writer, ledger) = (writer.clone(), Arc::clone(&ledger));
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                for n in 0.. {
                    let point = sample(task, n);
                    let pending = match writer.push(&point).await {
                        Ok(pending) => pending,
                        Err(PushError { code: Code::ShuttingDown, .. }) => return n,
                        Err(full) => panic!("{full}"),
                    };
                    assert!(waiting(&writer) <= budget_bytes, "{:?}", writer.stats());
                    let outcome = pending.await;
                    heard.fetch_add(1, Ordering::Relaxed);
                    note(&ledger, &point, &outcome);
                }
                0
            })
        });
        let tasks: Vec<_> = tasks.collect();
        sleep(Duration::from_millis(20)).await;
        cluster.crash(NodeId(2), Keep::Synced);
        for other in [host(NodeId(1)), client_host(1)] {
            cluster.net().partition(host(NodeId(3)), other);
        }
        wait_until("outcomes", async || heard.load(Ordering::Relaxed) > 20_000).await;
        // While all of them go on pushing.
        timeout(PATIENCE, writer.close()).await.expect("the writer closes");
        let mut pushed = 0;
        for task in tasks {
            pushed += task.await.unwrap();
        }
        let stats = writer.stats();
        assert_eq!((stats.pushed, heard.load(Ordering::Relaxed)), (pushed, pushed));
        assert_eq!(stats.written + stats.failed, stats.pushed, "{stats:?}");
        assert!(stats.written > 19_000, "{stats:?}");
        assert_eq!(writer.waiting_bytes(), 0);
        assert_eq!(writer.push(&sample(0, 9)).await.unwrap_err().code, Code::ShuttingDown);
        cluster.net().heal_all();
        cluster.restart(NodeId(2)).await;
        check(&cluster, &client, &ledger).await;
        assert_eq!(client.usage().budget_bytes, 0);
        cluster.finish().await;
    });
}

#[test]
fn what_is_given_up_on_costs_nothing_and_what_was_pushed_goes_without_its_writer() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 605).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let ledger = Ledger::new();
        write(&client, "db", &[sample(0, 0)], &WriteOptions::default(), &ledger).await.unwrap();
        // Room for one or two points only.
        let linger = Duration::from_secs(3600);
        let config = WriterConfig { budget_bytes: 600, linger, ..WriterConfig::default() };
        let writer: Writer = client.writer("db", config);
        let held = writer.push(&sample(1, 0)).await.unwrap();
        let mut others = Vec::new();
        while let Ok(pending) = writer.try_push(&sample(1, 1 + others.len() as u64)) {
            others.push(pending);
            assert!(others.len() < 3, "there is always room");
        }
        let room = writer.waiting_bytes();
        assert!(room > 300, "{room}");
        let error = writer.try_push(&sample(2, 0)).unwrap_err();
        assert_eq!((error.code, error.retryable()), (Code::Busy, true));
        // Each takes a millisecond, and an answer ten.
        for n in 0..4 {
            let point = sample(3, n);
            let waiting = writer.push(&point);
            assert!(tokio::time::timeout(Duration::from_micros(1), waiting).await.is_err());
        }
        drop(others);
        let begun = Instant::now();
        writer.flush().await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(writer.waiting_bytes(), 0);
        assert!(held.await.is_ok());
        // The first leaves at once, the second waits for it.
        let one = writer.push(&sample(4, 0)).await.unwrap();
        let two = writer.push(&sample(4, 1)).await.unwrap();
        drop(writer);
        let begun = Instant::now();
        for (n, pending) in [one, two].into_iter().enumerate() {
            let outcome = pending.await;
            note(&ledger, &sample(4, n as u64), &outcome);
            outcome.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        cluster.finish().await;
    });
}
