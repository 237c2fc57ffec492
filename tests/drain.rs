//! Drains and holders: what a busy or broken shard holds up, limits that change while a node runs,
//! what a receipt's hint came to, and a holder that leaves.

use std::{fs, time::Duration};

use quorate_client::{Client, WriteOptions, receipt::CopyState};
use quorate_protocol::{
    consistency::Level,
    id::{NodeId, Sequence, ShardId},
    message::Fate,
    point::Point,
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::Ledger,
    limit::{real, simulated},
    load::{sample, write},
    observe::{
        PATIENCE, create_database, exports, queues, total, wait_drained, wait_for, wait_healthy,
        wait_until,
    },
    process::Processes,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const SOME: Duration = Duration::from_secs(5);

/// Writes until `count` hints wait for [`THREE`], which is down.
async fn hint(client: &Client, database: &str, count: u64, ledger: &Ledger) {
    let options = WriteOptions::default();
    for n in 1..=count {
        write(client, database, &[sample(1, n)], &options, ledger).await.unwrap();
    }
    assert!(client.settle(PATIENCE).await);
}

/// The one shard of a database.
fn shard_of(client: &Client, database: &str) -> ShardId {
    let map = client.map();
    let mut shards = map.shards().filter(|place| place.database.name == database);
    let shard = shards.next().unwrap().shard.id;
    assert!(shards.next().is_none(), "{database} has several shards");
    shard
}

#[test]
fn hints_of_a_shard_that_cannot_take_them_do_not_hold_up_others() {
    real(async {
        let binary = env!("CARGO_BIN_EXE_quorate-under-test");
        let config = "[shard]\nfold_age_ms = 100\n";
        let mut cluster = Processes::start_with(binary, 3, config).await;
        let client = cluster.client().await;
        let (broken, sound) = (Ledger::new(), Ledger::new());
        let all = WriteOptions::at(Level::All);
        for (database, ledger) in [("broken", &broken), ("sound", &sound)] {
            create_database(&client, database, 3).await;
            write(&client, database, &[sample(0, 0)], &all, ledger).await.unwrap();
        }
        let shard = shard_of(&client, "broken").to_string();
        let file = cluster.data(THREE).join("shards").join(shard).join("data.mdb");
        // Something to break: the fold takes a moment.
        wait_until("the first fold", async || {
            fs::metadata(&file).is_ok_and(|file| file.len() >= 16 << 10)
        })
        .await;
        cluster.terminate(THREE).await;
        wait_until("the client has noticed", async || client.up() == [ONE, TWO]).await;
        // More than what a window of messages takes, before the one that must pass them.
        hint(&client, "broken", 1_100, &broken).await;
        hint(&client, "sound", 5, &sound).await;
        let length = fs::metadata(&file).unwrap().len() as usize;
        let whole = fs::read(&file).unwrap();
        fs::write(&file, vec![0xa5; length]).unwrap();

        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        wait_for("hints of the sound shard", PATIENCE, async || {
            let sum = total(&queues(&client, &[ONE, TWO]).await?);
            if (sum.delivered, sum.pending) == (5, 1_100) {
                Ok(())
            } else {
                Err(format!("{sum:?}"))
            }
        })
        .await;
        sound.check(&exports(&client, "sound", &cluster.ids()).await).assert_whole();

        // Once the shard is mended they go as well.
        cluster.kill(THREE).await;
        fs::write(&file, whole).unwrap();
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert_eq!((sum.delivered, sum.quarantined, sum.discarded), (1_105, 0, 0), "{sum:?}");
        broken.check(&exports(&client, "broken", &cluster.ids()).await).assert_whole();
        client.close().await;
    });
}

/// Three simulated nodes, the third of them down, with hints for it.
async fn with_hints(plan: Plan, seed: u64, count: u64, ledger: &Ledger) -> (Cluster, Client) {
    let mut cluster = Cluster::simulated_with(plan, seed).await;
    let client = cluster.client().await;
    create_database(&client, "db", 3).await;
    let all = WriteOptions::at(Level::All);
    write(&client, "db", &[sample(0, 0)], &all, ledger).await.unwrap();
    cluster.stop(THREE).await;
    cluster.wait_up(&client, &[ONE, TWO]).await;
    hint(&client, "db", count, ledger).await;
    (cluster, client)
}

#[test]
fn holders_that_drain_at_once_find_a_node_busy_and_lose_nothing() {
    simulated(async {
        // One message at a time, of all holders, and the journal takes its time.
        let little = |_: NodeId, config: &mut quorate_node::NodeConfig| {
            config.hint_receive_bytes = 1;
            config.drain.message_records = 5;
        };
        let ledger = Ledger::new();
        let (mut cluster, client) =
            with_hints(Plan::of(3).configured(little), 412, 400, &ledger).await;
        let held = queues(&client, &[ONE, TWO]).await.unwrap();
        assert!(held.values().all(|queue| queue.pending > 50), "both hold hints: {held:?}");
        cluster.restart(THREE).await;
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert_eq!((sum.delivered, sum.quarantined, sum.discarded), (400, 0, 0), "{sum:?}");
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn f11_a_limit_that_is_changed_while_the_node_runs_counts_at_once() {
    simulated(async {
        let slow = |_: NodeId, config: &mut quorate_node::NodeConfig| config.drain.rate_limit = 100;
        let ledger = Ledger::new();
        let (mut cluster, client) =
            with_hints(Plan::of(3).configured(slow), 411, 300, &ledger).await;
        cluster.restart(THREE).await;
        wait_until("the drain has begun", async || {
            total(&queues(&client, &[ONE, TWO]).await.unwrap()).delivered > 0
        })
        .await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = total(&queues(&client, &[ONE, TWO]).await.unwrap());
        assert!(before.pending > 200, "a hundred bytes a second: {before:?}");
        for node in [ONE, TWO] {
            let mut config = quorate_node::NodeConfig::default();
            config.drain.rate_limit = 0;
            let others = cluster.node(node).reload(&config);
            assert!(others.contains(&"data".to_owned()), "{others:?}");
        }
        let begun = Instant::now();
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(sum.delivered, 300);
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn f11_sighup_makes_a_node_read_its_file_again() {
    real(async {
        let binary = env!("CARGO_BIN_EXE_quorate-under-test");
        let mut cluster = Processes::start_with(binary, 3, "[drain]\nrate_limit = 50\n").await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        cluster.kill(THREE).await;
        wait_until("the client has noticed", async || client.up() == [ONE, TWO]).await;
        hint(&client, "db", 50, &ledger).await;
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        let config = cluster.config();
        let text = fs::read_to_string(&config).unwrap();
        // A file that makes no sense changes nothing and ends nothing.
        fs::write(&config, "[drain]\nrate_limit = \"fast\"\n").unwrap();
        let hang_up = |node| {
            let pid = Pid::from_raw(cluster.pid(node)).unwrap();
            kill_process(pid, Signal::HUP).unwrap();
        };
        [ONE, TWO].into_iter().for_each(hang_up);
        wait_until("the file was refused", async || {
            [ONE, TWO].iter().all(|node| cluster.log(*node).contains("was not read again"))
        })
        .await;
        let sum = total(&queues(&client, &[ONE, TWO]).await.unwrap());
        assert!(sum.pending > 0, "fifty bytes a second: {sum:?}");
        fs::write(&config, text.replace("rate_limit = 50", "rate_limit = 0")).unwrap();
        [ONE, TWO].into_iter().for_each(hang_up);
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert_eq!(sum.delivered, 50);
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        client.close().await;
    });
}

#[test]
fn a_holder_says_what_became_of_the_hint_that_a_receipt_names() {
    simulated(async {
        let ledger = Ledger::new();
        let (mut cluster, client) = with_hints(Plan::of(3), 412, 0, &ledger).await;
        let any = WriteOptions::at(Level::Any);
        let receipt = write(&client, "db", &[sample(1, 1)], &any, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        // The receipt may have come before the hint.
        let hinted = receipt.parts[0].copies.iter().find_map(|copy| match copy.state {
            CopyState::Hinted { holder, sequence } => Some((holder, sequence)),
            _ => None,
        });
        let (holder, sequence) = match hinted {
            Some(hinted) => hinted,
            None => {
                let all = queues(&client, &[ONE, TWO]).await.unwrap();
                let ((node, _), _) = all.iter().find(|(_, queue)| queue.pending > 0).unwrap();
                (*node, Sequence(1))
            }
        };
        let fate = async |sequence| client.hint_fate(holder, THREE, sequence, SOME).await.unwrap();
        assert_eq!(fate(sequence).await, Fate::Pending);
        assert_eq!(fate(Sequence(sequence.0 + 1)).await, Fate::Unknown);
        cluster.restart(THREE).await;
        wait_drained(&client, &cluster.ids()).await;
        assert_eq!(fate(sequence).await, Fate::Delivered);

        // One that is given up says so, also after a restart of its holder.
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        hint(&client, "db", 1, &ledger).await;
        let all = queues(&client, &[ONE, TWO]).await.unwrap();
        let ((holder, _), _) = all.iter().find(|(_, queue)| queue.pending > 0).unwrap();
        let last = Sequence(all[&(*holder, THREE)].accepted);
        let change = quorate_protocol::change::Change::DropDatabase { name: "db".to_owned() };
        client.change(change).await.unwrap();
        wait_for("the hint is given up", PATIENCE, async || {
            match client.hint_fate(*holder, THREE, last, SOME).await.map_err(|e| e.to_string())? {
                Fate::Discarded => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let holder = *holder;
        // Once out of the entries of its books, once out of what these were rewritten to.
        for _ in 0..2 {
            cluster.stop(holder).await;
            cluster.restart(holder).await;
            cluster.wait_up(&client, &[ONE, TWO]).await;
        }
        let fate = client.hint_fate(holder, THREE, last, SOME).await.unwrap();
        assert_eq!(fate, Fate::Discarded);
        cluster.finish().await;
    });
}

#[test]
fn a_holder_that_leaves_hands_its_hints_on_first() {
    simulated(async {
        let ledger = Ledger::new();
        let (mut cluster, client) = with_hints(Plan::of(3), 413, 200, &ledger).await;
        let before = queues(&client, &[ONE, TWO]).await.unwrap();
        let pending = |node| before.get(&(node, THREE)).map_or(0, |queue| queue.pending);
        let (holder, other) = if pending(ONE) > pending(TWO) { (ONE, TWO) } else { (TWO, ONE) };
        assert!(pending(holder) > 0);
        let handed = client.hand_on(holder, Duration::from_secs(60)).await.unwrap();
        assert_eq!((handed.moved, handed.pending), (pending(holder), 0));
        let after = queues(&client, &[ONE, TWO]).await.unwrap();
        let (from, to) = (after[&(holder, THREE)], after[&(other, THREE)]);
        assert_eq!((from.pending, from.discarded), (0, pending(holder)), "{from:?}");
        assert_eq!(to.pending, 200, "{to:?}");
        // The holder never comes back, and nothing is missing.
        cluster.stop(holder).await;
        cluster.restart(THREE).await;
        cluster.wait_up(&client, &[other, THREE]).await;
        let sum = wait_drained(&client, &[other, THREE]).await;
        assert_eq!(sum.delivered, 200);
        ledger.check(&exports(&client, "db", &[other, THREE]).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn a_hint_that_is_refused_for_want_of_room_leaves_a_mark() {
    simulated(async {
        let tiny = |_: NodeId, config: &mut quorate_node::NodeConfig| {
            config.handoff.segment_bytes = 4 << 10;
            config.handoff.max_bytes = 8 << 10;
        };
        let ledger = Ledger::new();
        let (cluster, client) = with_hints(Plan::of(3).configured(tiny), 414, 0, &ledger).await;
        let options = WriteOptions::default();
        let long = |n: u64| -> Point {
            Point::builder("long")
                .tag("n", n.to_string())
                .field("text", "x".repeat(1_500))
                .at(quorate_tests::harness::load::EPOCH)
                .unwrap()
        };
        for n in 0..20 {
            write(&client, "db", &[long(n)], &options, &ledger).await.unwrap();
        }
        // Until it gives up on what no node takes.
        assert!(client.settle(4 * PATIENCE).await);
        let marked = [ONE, TWO].iter().filter(|node| {
            let marks =
                cluster.memory(**node).content(&cluster.data(**node).join("handoff").join("marks"));
            // Reason 2 of the format: a hint was refused.
            marks.is_some_and(|file| {
                file.windows(16)
                    .any(|at| at[..8] == THREE.0.to_le_bytes() && at[8..] == 2_u64.to_le_bytes())
            })
        });
        assert!(marked.count() > 0, "nobody knows that {THREE} lacks something");
        cluster.finish().await;
    });
}
