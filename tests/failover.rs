//! The metadata's leader is lost: another follows within two election timeouts, and only what needs
//! metadata waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use quorate_client::{Client, WriteOptions, error::WriteErrorKind};
use quorate_node::meta::MetaConfig;
use quorate_protocol::{
    change::Change, code::Code, consistency::Level, id::NodeId, map::NodeState, message::RaftRole,
    point::Point,
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    disk::Keep,
    history::Ledger,
    limit::{real, simulated, soak},
    load::{EPOCH, Writer, sample, write},
    observe::{
        PATIENCE, create_database, exports, leader, statuses, wait_drained, wait_for, wait_healthy,
    },
    process::Processes,
    raw::Raw,
};
use tokio::time::{Instant, sleep};

/// Two timeouts of the second in line, the ticks of the library and of what watches over it, and one
/// heartbeat for the messages.
fn election() -> Duration {
    let config = MetaConfig::default();
    let timeout = config.election_timeout_ms + config.election_stagger_ms;
    Duration::from_millis(2 * timeout + 4 * config.heartbeat_ms)
}

/// Leaders by term, and that no term has two.
#[derive(Default)]
struct Terms(BTreeMap<u64, NodeId>);

impl Terms {
    /// Who leads now among these nodes.
    fn look(&mut self, cluster: &Cluster, nodes: &[NodeId]) -> Vec<(u64, NodeId)> {
        let terms = nodes.iter().filter_map(|id| Some((cluster.node(*id).leads()?, *id)));
        let lead: Vec<_> = terms.collect();
        for (term, id) in &lead {
            let first = self.0.entry(*term).or_insert(*id);
            assert_eq!(first, id, "two have led in term {term}");
        }
        lead
    }

    /// Waits until all follow one leader and have what the client has.
    async fn settled(&mut self, cluster: &Cluster, client: &Client) -> (u64, NodeId) {
        let ids = cluster.ids();
        wait_for("one leader that all follow", PATIENCE, async || {
            let lead = self.look(cluster, &ids);
            let all = statuses(client, &ids).await?;
            let seen: BTreeSet<_> = all.values().map(|status| status.leader).collect();
            let index = client.map().index;
            match lead[..] {
                [one]
                    if seen == BTreeSet::from([Some(one.1)])
                        && all.values().all(|status| status.meta_index >= index) =>
                {
                    Ok(one)
                }
                _ => Err(format!("{lead:?}, {all:?}")),
            }
        })
        .await
    }
}

#[test]
fn every_lost_leader_is_followed_by_one_other_in_time() {
    let failovers = if soak(1) > 1 { 150 } else { 60 };
    simulated(async {
        // A crash copies the files of a node: small ones, for speed.
        let plan = Plan::of(3).configured(|_, config| config.journal.segment_bytes = 64 << 10);
        let mut cluster = Cluster::simulated_with(plan, 541).await;
        let client = cluster.client().await;
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        let ids = cluster.ids();
        let mut terms = Terms::default();
        let mut longest = Duration::ZERO;
        for round in 0..failovers {
            // At another moment between two heartbeats each time.
            sleep(Duration::from_millis(round * 37 % 250)).await;
            let (term, old) = terms.settled(&cluster, &client).await;
            let rest: Vec<NodeId> = ids.iter().copied().filter(|id| *id != old).collect();
            let crashed = round % 4 < 2;
            if crashed {
                cluster.crash(old, Keep::Synced);
            } else {
                cluster.isolate(old);
            }
            let begun = Instant::now();
            let new = loop {
                let new = terms.look(&cluster, &rest);
                assert!(new.len() < 2, "{new:?} lead at once");
                if let Some(new) = new.first() {
                    break *new;
                }
                let took = begun.elapsed();
                assert!(took < election(), "round {round}: nobody follows {old} in {took:?}");
                sleep(Duration::from_millis(5)).await;
            };
            longest = longest.max(begun.elapsed());
            assert!(new.0 > term, "{new:?} leads after {term}");
            // The new one is of use.
            create_database(&client, &format!("db{round}"), 3).await;
            if round > 0 {
                let name = format!("db{}", round - 1);
                client.change(Change::DropDatabase { name }).await.unwrap();
            }
            if crashed {
                cluster.restart(old).await;
            } else {
                cluster.rejoin(old);
            }
            if round % 5 == 0 {
                // Those that follow are cut off in turn, campaign with an old log, and come back:
                // also who was once refused for that is in time as soon as it has caught up.
                for n in 0..2 {
                    let (_, lead) = terms.settled(&cluster, &client).await;
                    let away = *ids.iter().filter(|id| **id != lead).nth(n).unwrap();
                    cluster.isolate(away);
                    let zone = Some(format!("z{round}-{n}"));
                    client.change(Change::SetZone { node: away, zone }).await.unwrap();
                    sleep(Duration::from_secs(6)).await;
                    cluster.rejoin(away);
                }
            }
        }
        terms.settled(&cluster, &client).await;
        let map = raw.same_map(&client.map(), &ids, client.map().index).await;
        assert_eq!(map, *client.map());
        let names: Vec<&str> = map.databases.iter().map(|db| &db.name[..]).collect();
        assert_eq!(names, [format!("db{}", failovers - 1)]);
        println!("the longest of {failovers} failovers took {longest:?}");
        cluster.finish().await;
    });
}

const YEAR: i64 = 365 * 24 * 3600 * 1_000_000_000;

/// A point of a group that nobody has made; each `n` has another.
fn of_new_group(n: i64) -> Point {
    let time = EPOCH - n * YEAR;
    Point::builder("cpu").tag("host", "late").field("usage", 1.0).at(time).unwrap()
}

#[test]
fn a_lost_leader_holds_up_only_what_needs_metadata() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 542).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(1, 0)], &options, &ledger).await.unwrap();
        let pause = Duration::from_millis(5);
        let writer = Writer::start(&client, "db", 1, 1, pause, options.clone(), &ledger);
        writer.acked(20).await;
        let old = leader(&client, &cluster.ids()).await;
        let begun = Instant::now();
        cluster.crash(old, Keep::Synced);
        // It needs the next leader, and waits for it.
        write(&client, "db", &[of_new_group(1)], &options, &ledger).await.unwrap();
        let took = begun.elapsed();
        // The proposal that went to the lost leader is given up and made again.
        let limit = election() + Duration::from_secs(1);
        assert!(took < limit, "new groups resumed after {took:?}");
        let done = writer.stop().await;
        assert!(done.last().unwrap().at - begun > Duration::from_millis(1_500), "no election");
        for one in done {
            assert_eq!(one.error, None);
            // A round trip; one more behind the hints for all that the lost node owed, which leave at once
            // and are more than a window.
            assert!(one.took <= Duration::from_millis(20), "{one:?}");
        }
        cluster.restart(old).await;
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(PATIENCE).await);
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn without_any_voter_only_points_of_new_groups_and_fields_fail() {
    simulated(async {
        let mut cluster = Cluster::simulated(5, 543).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 5).await;
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(1, 0)], &all, &ledger).await.unwrap();
        let (voters, rest) = ([NodeId(1), NodeId(2)], [NodeId(3), NodeId(4), NodeId(5)]);
        for node in rest {
            client.change(Change::SetVoting { node, votes: false }).await.unwrap();
        }
        wait_for("two voters", PATIENCE, async || {
            let all = statuses(&client, &cluster.ids()).await?;
            let learners: Vec<NodeId> =
                all.values().filter(|s| s.role == RaftRole::Learner).map(|s| s.node).collect();
            let led = all.values().all(|s| s.leader.is_some_and(|id| voters.contains(&id)));
            if learners == rest && led { Ok(()) } else { Err(format!("{all:?}")) }
        })
        .await;
        assert!(rest.iter().all(|id| client.map().node(*id).unwrap().state == NodeState::NonVoter));
        for voter in voters {
            cluster.crash(voter, Keep::Synced);
        }
        // Nobody has noticed yet, later everybody has.
        let timeout = Duration::from_secs(3);
        let options = WriteOptions { timeout, ..WriteOptions::default() };
        for round in 0..3 {
            let new_field = Point::builder("cpu").tag("host", "x").field("fresh", 1.0);
            let new_field = new_field.at(EPOCH + round).unwrap();
            let n = 10 * round as u64;
            let points =
                [sample(1, n + 1), new_field, sample(2, n + 2), of_new_group(1), sample(3, n + 3)];
            let begun = Instant::now();
            let error = write(&client, "db", &points, &options, &ledger).await.unwrap_err();
            let took = begun.elapsed();
            assert!(took <= timeout + Duration::from_millis(10), "{took:?}: {error}");
            assert_eq!(error.kind(), WriteErrorKind::Partial, "{error}");
            let mut failed: Vec<u32> =
                error.failed.iter().flat_map(|f| &f.rows).map(|id| id.row).collect();
            failed.sort_unstable();
            assert_eq!(failed, [1, 3], "{error}");
            assert_eq!(error.receipt.rows(), 3);
            for part in &error.failed {
                assert!(matches!(part.code, Code::NoLeader | Code::DeadlineExceeded), "{error}");
            }
            for n in n + 4..n + 10 {
                let begun = Instant::now();
                write(&client, "db", &[sample(1, n)], &options, &ledger).await.unwrap();
                let took = begun.elapsed();
                assert!(took < Duration::from_millis(20), "{took:?}");
            }
        }
        for voter in voters {
            cluster.restart(voter).await;
        }
        write(&client, "db", &[of_new_group(2)], &WriteOptions::default(), &ledger).await.unwrap();
        cluster.wait_up(&client, &cluster.ids()).await;
        assert!(client.settle(PATIENCE).await);
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

/// What the virtual clock shows above, on real processes: by order, not by time.
#[test]
fn a_leader_killed_under_load_is_waited_for_by_new_groups_alone() {
    real(async {
        let binary = env!("CARGO_BIN_EXE_quorate-under-test");
        let mut cluster = Processes::start(binary, 3).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let pause = Duration::from_millis(2);
        let start = |n| Writer::start(&client, "db", n, 5, pause, options.clone(), &ledger);
        let writers: Vec<Writer> = (1..=2).map(start).collect();
        for writer in &writers {
            writer.acked(20).await;
        }
        let old = leader(&client, &cluster.ids()).await;
        cluster.kill(old).await;
        let new_group = tokio::spawn({
            let (client, options, ledger) = (client.clone(), options.clone(), Arc::clone(&ledger));
            async move { write(&client, "db", &[of_new_group(1)], &options, &ledger).await }
        });
        for writer in &writers {
            writer.acked(20).await;
        }
        assert!(!new_group.is_finished(), "forty writes took longer than an election");
        new_group.await.unwrap().unwrap();
        cluster.restart(old).await;
        for writer in writers {
            let failed: Vec<_> = writer.stop().await.into_iter().filter_map(|d| d.error).collect();
            assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
        }
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(PATIENCE).await);
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        client.close().await;
    });
}
