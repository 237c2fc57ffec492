//! Consistency levels: what is reached, refused and known, with 0, 1 and 2 of 3 nodes down.
//!
//! On the simulated network, so that "at once" is a number: virtual time moves only when somebody
//! waits for the network or a timer.

use std::{sync::Arc, time::Duration};

use quorate_client::{
    Client, WriteOptions,
    error::{Certainty, WriteErrorKind},
    receipt::CopyState,
};
use quorate_protocol::{batch::Batch, code::Code, consistency::Level, id::NodeId, point::Point};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::simulated,
    load::{sample, write},
    observe::{
        create_database, export, exports, queues, total, wait_drained, wait_healthy, wait_until,
    },
};
use tokio::time::{Instant, sleep};

const ALL: [Level; 4] = [Level::Any, Level::One, Level::Quorum, Level::All];

/// Writes one known point, so that groups and fields are there and no later write waits for them.
async fn warm_up(client: &Client, database: &str, replication: u32, ledger: &Ledger) {
    create_database(client, database, replication).await;
    write(client, database, &[sample(0, 0)], &WriteOptions::at(Level::All), ledger).await.unwrap();
}

#[test]
fn f23_levels_are_reached_or_refused_at_once_with_nodes_down() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 11).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        warm_up(&client, "db", 3, &ledger).await;
        let mut number = 0;
        for down in 0..=2_u64 {
            for level in ALL {
                number += 1;
                let points = [sample(1, number), sample(2, number)];
                let begun = Instant::now();
                let result = write(&client, "db", &points, &WriteOptions::at(level), &ledger).await;
                let took = begun.elapsed();
                let up = 3 - down;
                let reachable = match level {
                    Level::Any | Level::One => true,
                    Level::Quorum => up >= 2,
                    Level::All => up >= 3,
                };
                if reachable {
                    let receipt =
                        result.unwrap_or_else(|e| panic!("{level} with {down} down: {e}"));
                    // A round trip takes 10 ms; nothing here may wait for a timer of a second.
                    assert!(took < Duration::from_millis(100), "{level}, {down} down: {took:?}");
                    check_copies(&receipt.parts[0].copies, level, up);
                } else {
                    let error = result.unwrap_err();
                    assert_eq!(took, Duration::ZERO, "{level}, {down} down: it waited to say no");
                    assert_eq!(error.kind(), WriteErrorKind::Definite, "{error}");
                    assert_eq!(error.code(), Code::Unavailable, "{error}");
                    assert!(error.retryable());
                }
            }
            if down < 2 {
                cluster.stop(NodeId(3 - down)).await;
                let left: Vec<NodeId> = (1..3 - down).map(NodeId).collect();
                cluster.wait_up(&client, &left).await;
            }
        }
        assert!(client.settle(Duration::from_secs(10)).await);
        let hinted = total(&queues(&client, &[NodeId(1)]).await.unwrap());
        assert!(hinted.pending > 0, "nobody kept hints for the nodes that are down");
        cluster.restart(NodeId(2)).await;
        cluster.restart(NodeId(3)).await;
        wait_healthy(&client, &cluster.ids()).await;
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

/// What a receipt must say with `up` of three owners up, the highest ids down.
fn check_copies(copies: &[quorate_client::receipt::OwnerCopy], level: Level, up: u64) {
    let stored = copies.iter().filter(|copy| matches!(copy.state, CopyState::Stored { .. }));
    let stored = u64::try_from(stored.count()).unwrap();
    let required = u64::try_from(level.required(3)).unwrap();
    assert!(stored <= up && stored >= required.min(up), "{level} with {up} up: {copies:?}");
    for copy in copies.iter().filter(|copy| copy.owner.0 > up) {
        match copy.state {
            CopyState::Hinted { holder, sequence } => {
                assert!(holder.0 <= up && sequence.0 > 0, "{copies:?}");
            }
            CopyState::Outstanding => {}
            other => panic!("the copy of a node that is down is {other:?}"),
        }
    }
}

#[test]
fn any_is_reached_by_hints_alone_and_they_are_delivered() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 12).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        warm_up(&client, "single", 1, &ledger).await;
        let points: Vec<Point> = (1..40).map(|n| sample(0, n)).collect();
        write(&client, "single", &points, &WriteOptions::at(Level::All), &ledger).await.unwrap();
        cluster.stop(NodeId(3)).await;
        cluster.wait_up(&client, &[NodeId(1), NodeId(2)]).await;

        let more: Vec<Point> = (40..80).map(|n| sample(0, n)).collect();
        let begun = Instant::now();
        let receipt = write(&client, "single", &more, &WriteOptions::at(Level::Any), &ledger).await;
        let receipt = receipt.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        let hinted: Vec<_> = receipt
            .parts
            .iter()
            .flat_map(|part| &part.copies)
            .filter(|copy| matches!(copy.state, CopyState::Hinted { .. }))
            .collect();
        assert!(!hinted.is_empty(), "no series of forty lives on node 3: {receipt:?}");
        assert!(hinted.iter().all(|copy| copy.owner == NodeId(3)), "{hinted:?}");
        // At the levels above, the same rows are refused: nothing is hinted for them.
        assert!(client.settle(Duration::from_secs(10)).await);
        let live = [NodeId(1), NodeId(2)];
        let before = total(&queues(&client, &live).await.unwrap());
        assert_eq!(before.accepted, 2 * hinted.len() as u64, "an any rests on two holders");
        let more: Vec<Point> = (80..120).map(|n| sample(0, n)).collect();
        let refused = write(&client, "single", &more, &WriteOptions::at(Level::One), &ledger).await;
        assert_eq!(refused.unwrap_err().kind(), WriteErrorKind::Partial);
        assert!(client.settle(Duration::from_secs(10)).await);
        assert_eq!(total(&queues(&client, &live).await.unwrap()), before);

        cluster.restart(NodeId(3)).await;
        wait_healthy(&client, &cluster.ids()).await;
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert_eq!(sum.delivered, before.accepted);
        let text = export(&client, "single", None).await.unwrap();
        ledger.check(&[(NodeId(0), text)]).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn a_write_ends_at_its_deadline_or_when_the_level_is_lost() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 13).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        warm_up(&client, "db", 3, &ledger).await;
        // Two owners fall silent at this moment; nobody knows yet.
        cluster.isolate(NodeId(2));
        cluster.isolate(NodeId(3));
        let options =
            WriteOptions { timeout: Duration::from_millis(400), ..WriteOptions::at(Level::Quorum) };
        let begun = Instant::now();
        let error = write(&client, "db", &[sample(1, 1)], &options, &ledger).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert_eq!(error.kind(), WriteErrorKind::Indefinite);
        let took = begun.elapsed();
        let deadline = Duration::from_millis(400)..Duration::from_millis(410);
        assert!(deadline.contains(&took), "{took:?}");

        // With time to spare, the loss of the level ends it, not the deadline.
        let begun = Instant::now();
        let options = WriteOptions::at(Level::Quorum);
        let error = write(&client, "db", &[sample(1, 2)], &options, &ledger).await.unwrap_err();
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(1_500), "{took:?}: mute_after is 1 s: {error}");
        assert_eq!(error.kind(), WriteErrorKind::Indefinite, "{error}");

        cluster.wait_up(&client, &[NodeId(1)]).await;
        let begun = Instant::now();
        let error = write(&client, "db", &[sample(1, 3)], &options, &ledger).await.unwrap_err();
        assert_eq!((begun.elapsed(), error.kind()), (Duration::ZERO, WriteErrorKind::Definite));
        assert!(cluster.net().counters().blocked > 0, "the partition stopped nothing");

        cluster.rejoin(NodeId(2));
        cluster.rejoin(NodeId(3));
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(Duration::from_secs(120)).await);
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn an_unknown_database_is_refused_definitely() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 14).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        let options = WriteOptions::default();
        let error =
            write(&client, "nowhere", &[sample(1, 1)], &options, &ledger).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (WriteErrorKind::Definite, Code::DatabaseNotFound)
        );
        assert!(error.to_string().contains("quorate db create"), "{error}");
        assert!(!error.retryable() && !error.to_string().contains('\n'), "{error}");
        cluster.finish().await;
    });
}

#[test]
fn f10_a_type_conflict_costs_only_its_own_point() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 15).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        warm_up(&client, "db", 3, &ledger).await;
        let wrong = Point::builder("cpu")
            .tag("host", "w1-0")
            .field("usage", "high")
            .field("count", 5_i64)
            .at(sample(1, 5).time())
            .unwrap();
        let points = [sample(1, 1), wrong, sample(1, 2)];
        let result = write(&client, "db", &points, &WriteOptions::at(Level::All), &ledger).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), WriteErrorKind::Partial, "{error}");
        assert_eq!(error.receipt.rows(), 2);
        assert_eq!(error.failed.len(), 1, "{error}");
        let failed = &error.failed[0];
        assert_eq!((failed.code, failed.certainty), (Code::TypeConflict, Certainty::Definite));
        assert_eq!(failed.rows.iter().map(|row| row.row).collect::<Vec<_>>(), [1]);
        // What comes behind it is not held up, and nothing of the point is anywhere: the ledger
        // would find its second field.
        let after = [sample(1, 3)];
        write(&client, "db", &after, &WriteOptions::at(Level::All), &ledger).await.unwrap();
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn f15_racing_writers_agree_on_one_type_per_field() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 16).await;
        let one = cluster.client().await;
        let two = cluster.client().await;
        create_database(&one, "db", 3).await;
        wait_until("both clients know the database", async || {
            two.map().database_named("db").is_some()
        })
        .await;
        let ledger = Ledger::new();
        let at = sample(0, 0).time();
        let mut conflicts = 0;
        for round in 0..8 {
            let field = format!("f{round}");
            let float = [Point::builder("m").tag("w", "1").field(&field, 1.5).at(at).unwrap()];
            let text = [Point::builder("m").tag("w", "2").field(&field, "x").at(at).unwrap()];
            let options = WriteOptions::at(Level::All);
            let (a, b) = tokio::join!(
                write(&one, "db", &float, &options, &ledger),
                write(&two, "db", &text, &options, &ledger),
            );
            for failed in [a, b].into_iter().filter_map(Result::err) {
                assert_eq!(failed.code(), Code::TypeConflict, "{failed}");
                assert_eq!(failed.kind(), WriteErrorKind::Definite, "{failed}");
                conflicts += 1;
            }
        }
        assert_eq!(conflicts, 8, "of two types of a field exactly one is refused");
        ledger.check(&exports(&one, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn racing_numbers_of_many_clients_become_one_type_and_every_point_has_one_fate() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 18).await;
        let first = cluster.client().await;
        create_database(&first, "db", 3).await;
        let mut clients = vec![first];
        while clients.len() < 8 {
            clients.push(cluster.client().await);
        }
        let ledger = Arc::new(Ledger::new());
        let at = sample(0, 0).time();
        let (rounds, mut whole, mut stored) = (8, 0, 0);
        for round in 0..rounds {
            let field = format!("f{round}");
            let mut writes = Vec::new();
            for (n, client) in clients.iter().cloned().enumerate() {
                let (ledger, field) = (Arc::clone(&ledger), field.clone());
                writes.push(tokio::spawn(async move {
                    // The clients whose turn it is come a little earlier.
                    sleep(Duration::from_micros((n as u64 * 7 + round * 3) % 8 * 150)).await;
                    let racing = Point::builder("m").tag("w", n.to_string());
                    let racing = match n % 2 {
                        0 => racing.field(&field, 1_i64),
                        _ => racing.field(&field, 1.0),
                    };
                    // Beside it a point that nothing is wrong with.
                    let sound = Point::builder("n").tag("w", n.to_string()).field("v", 1_i64);
                    let points = [racing.at(at).unwrap(), sound.at(at + 1 + round as i64).unwrap()];
                    let options = WriteOptions::at(Level::All);
                    let result = write(&client, "db", &points, &options, &ledger).await;
                    (n % 2, result)
                }));
            }
            let mut won = [0, 0];
            for task in writes {
                let (kind, result) = task.await.unwrap();
                match result {
                    Ok(_) => won[kind] += 1,
                    Err(error) => {
                        assert_eq!(error.code(), Code::TypeConflict, "{error}");
                        let failed: Vec<_> = error.failed.iter().flat_map(|f| &f.rows).collect();
                        assert_eq!(failed.len(), 1, "{error}");
                        assert_eq!(failed[0].measurement, 0, "{error}");
                        assert!(error.failed.iter().all(|f| f.certainty == Certainty::Definite));
                        assert_eq!(error.receipt.rows(), 1, "{error}");
                    }
                }
            }
            assert!(won == [4, 0] || won == [0, 4], "of {field} integers and floats won: {won:?}");
            whole += usize::from(won[0] == 4);
            stored += 4;
        }
        assert!(whole > 0 && whole < rounds as usize, "the race was none: {whole} of {rounds}");
        let all = exports(&clients[0], "db", &cluster.ids()).await;
        ledger.check(&all).assert_whole();
        let racing = all[0].1.lines().filter(|line| line.starts_with("m,"));
        let fields: usize = racing.map(|line| line.matches('f').count()).sum();
        assert_eq!(fields, stored);
        cluster.finish().await;
    });
}

#[test]
fn f21_every_shard_is_awaited_and_reported() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 17).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        // One replica on each of three shards: a node down takes one shard with it.
        warm_up(&client, "single", 1, &ledger).await;
        let points: Vec<Point> = (1..60).map(|n| sample(n, n)).collect();
        write(&client, "single", &points, &WriteOptions::at(Level::One), &ledger).await.unwrap();
        cluster.stop(NodeId(2)).await;
        cluster.wait_up(&client, &[NodeId(1), NodeId(3)]).await;
        let points: Vec<Point> = (60..120).map(|n| sample(n, n)).collect();
        let result =
            write(&client, "single", &points, &WriteOptions::at(Level::One), &ledger).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), WriteErrorKind::Partial, "{error}");
        let failed: usize = error.failed.iter().map(|failed| failed.rows.len()).sum();
        assert!(failed > 0 && error.receipt.rows() > 0);
        assert_eq!(failed + error.receipt.rows(), points.len(), "a row has two fates, or none");
        assert_eq!(error.receipt.parts.len(), 3, "one part per shard is reported");
        cluster.restart(NodeId(2)).await;
        wait_healthy(&client, &cluster.ids()).await;
        let text = export(&client, "single", None).await.unwrap();
        ledger.check(&[(NodeId(0), text)]).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn f18_a_blank_line_costs_nothing() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 18).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let text = b"m,t=a f=1 1000\n\n   \n# a comment\nm,t=b f=2 1000\n\nbroken\nm,t=c f=3 1000";
        let mut batch = Batch::new();
        let outcome = quorate_protocol::line::parse_into(&mut batch, text, Default::default());
        assert_eq!((outcome.points, outcome.errors.len()), (3, 1), "{outcome:?}");
        assert_eq!(outcome.errors[0].line, 7);
        client.write("db", &batch, &WriteOptions::default()).await.unwrap();
        let text = export(&client, "db", None).await.unwrap();
        assert_eq!(text, "m,t=a f=1 1000\nm,t=b f=2 1000\nm,t=c f=3 1000\n");
        cluster.finish().await;
    });
}
