//! Subscriptions: every acknowledged batch comes, once, whatever becomes of the owner that is followed;
//! what does not come is told; nobody who follows costs a writer anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use quorate_certs::{Role, UnixTime};
use quorate_client::{
    Client, Event, Gap, GapReason, SubscribeOptions, Subscription, WriteOptions,
    connection::{ReplyStream, RequestError},
};
use quorate_node::{config::Durability, disk::Keep};
use quorate_protocol::{
    change::{Change, PolicySpec},
    code::Code,
    consistency::Level,
    id::{NodeId, Sequence},
    message::{Bodies, Follow, FollowShard, Followed},
    point::text::write_line,
    rows::Rows,
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan, client_host, host},
    history::Ledger,
    limit::{simulated, soak},
    load::{EPOCH, Writer, large, sample, write},
    observe::{
        PATIENCE, create_database, export, wait_drained, wait_for, wait_healthy, wait_until,
    },
    raw::Raw,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const PAUSE: Duration = Duration::from_millis(5);
const HOUR: i64 = 3_600_000_000_000;

/// What a subscriber has heard.
#[derive(Default)]
struct Heard {
    rows: BTreeMap<Bytes, Vec<Rows>>,
    batches: BTreeSet<Bytes>,
    gaps: Vec<Gap>,
    twice: usize,
    /// Who sent the last batch, and when; the longest silence before it.
    source: Option<NodeId>,
    at: Option<Instant>,
    silence: Duration,
    end: Option<Option<Code>>,
}

impl Heard {
    fn take(&mut self, event: Event) {
        match event {
            Event::Batch(batch) => {
                self.twice += usize::from(!self.batches.insert(batch.bytes().clone()));
                for (key, rows) in batch.series().unwrap() {
                    self.rows.entry(key).or_default().push(rows);
                }
                let now = Instant::now();
                self.silence = self.silence.max(self.at.map_or(Duration::ZERO, |at| now - at));
                (self.source, self.at) = (Some(batch.node()), Some(now));
            }
            Event::Gap(gap) => self.gaps.push(gap),
            other => panic!("{other:?}"),
        }
    }

    /// What an export of it would be.
    fn lines(&self) -> String {
        let mut out = Vec::new();
        for (key, parts) in &self.rows {
            let rows = Rows::merge(parts.clone()).collapse();
            for row in 0..rows.len() {
                let value = |column: usize| {
                    let column = &rows.columns[column];
                    Some((&column.name[..], column.get(row)?))
                };
                let mut fields: Vec<_> = (0..rows.columns.len()).filter_map(value).collect();
                fields.sort_by_key(|(name, _)| *name);
                write_line(&mut out, key, fields, rows.times[row]);
                out.push(b'\n');
            }
        }
        String::from_utf8(out).unwrap()
    }
}

/// A subscriber that always reads.
struct Listener {
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

impl Listener {
    fn start(mut subscription: Subscription) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let into = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            let end = loop {
                match subscription.next().await {
                    Some(Ok(event)) => into.lock().unwrap().take(event),
                    Some(Err(error)) => {
                        assert!(subscription.next().await.is_none());
                        break Some(error.code());
                    }
                    None => break None,
                }
            };
            into.lock().unwrap().end = Some(end);
        });
        Self { heard, task }
    }

    async fn to(client: &Client, database: &str) -> Self {
        Self::start(client.subscribe(database, None).await.unwrap())
    }

    fn look<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.heard.lock().unwrap())
    }

    fn source(&self) -> NodeId {
        self.look(|heard| heard.source.unwrap())
    }

    /// Waits until it has heard what is there, and nothing twice, and no gap.
    async fn whole(&self, client: &Client, database: &str) {
        self.all(client, database).await;
        self.look(|heard| assert_eq!((heard.twice, &heard.gaps[..]), (0, &[][..])));
    }

    async fn all(&self, client: &Client, database: &str) {
        let there = export(client, database, None).await.unwrap();
        assert!(!there.is_empty());
        wait_for("all that is there", PATIENCE, async || {
            let heard = self.look(Heard::lines);
            let (here, all) = (heard.lines().count(), there.lines().count());
            let gaps = self.look(|heard| heard.gaps.clone());
            if heard == there { Ok(()) } else { Err(format!("{here} lines of {all}, {gaps:?}")) }
        })
        .await;
    }
}

/// The client whose host is `number`; the harness has made one for itself.
async fn clients(cluster: &mut Cluster) -> (Client, Client) {
    (cluster.client().await, cluster.client().await)
}

/// Leaves no owner that is up.
fn patient() -> SubscribeOptions {
    SubscribeOptions { patience: Duration::from_secs(3_600), ..SubscribeOptions::default() }
}

fn writer(client: &Client, database: &str, number: u64, ledger: &Arc<Ledger>) -> Writer {
    Writer::start(client, database, number, 3, PAUSE, WriteOptions::default(), ledger)
}

#[test]
fn whatever_is_written_comes_once_and_equals_the_export() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 801).await;
        let (client, reader) = clients(&mut cluster).await;
        let ledger = Arc::new(Ledger::new());
        for (database, replication) in [("one", 1), ("three", 3)] {
            create_database(&client, database, replication).await;
            // One group is there before the subscription, as is a row that it does not hear of.
            let listener = Listener::to(&reader, database).await;
            let writers: Vec<_> =
                (0..4).map(|number| writer(&client, database, number, &ledger)).collect();
            writers[3].acked(30).await;
            let second = reader.subscribe(database, None).await.unwrap();
            drop(second);
            for writer in writers {
                writer.stop().await;
            }
            listener.whole(&client, database).await;
            // What came before a subscription does not come.
            let late = Listener::to(&reader, database).await;
            let points: Vec<_> = (0..8).map(|n| sample(99, n)).collect();
            write(&client, database, &points, &WriteOptions::at(Level::All), &ledger)
                .await
                .unwrap();
            listener.whole(&client, database).await;
            let all = listener.look(|heard| heard.batches.clone());
            wait_until("the new ones", async || late.look(|heard| !heard.batches.is_empty())).await;
            sleep(Duration::from_secs(5)).await;
            late.look(|heard| {
                assert!(heard.batches.is_subset(&all) && heard.batches.len() < 10);
                assert_eq!(heard.lines().lines().count(), 8);
            });
        }
        cluster.finish().await;
    });
}

#[test]
fn a_large_write_of_many_parts_comes_whole() {
    simulated(async {
        let mut plan = Plan::of(3);
        plan.client.max_part_rows = 10;
        let mut cluster = Cluster::simulated_with(plan, 802).await;
        let (client, reader) = clients(&mut cluster).await;
        create_database(&client, "db", 3).await;
        let listener = Listener::to(&reader, "db").await;
        let points: Vec<_> = (0..100).map(|n| sample(0, n)).collect();
        let ledger = Ledger::new();
        write(&client, "db", &points, &WriteOptions::default(), &ledger).await.unwrap();
        listener.whole(&client, "db").await;
        listener.look(|heard| assert_eq!(heard.batches.len(), 10));
        cluster.finish().await;
    });
}

#[test]
fn nothing_is_missed_when_the_owner_that_is_followed_is_killed() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 803).await;
        let (client, reader) = clients(&mut cluster).await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let listener = Listener::to(&reader, "db").await;
        let writer = writer(&client, "db", 0, &ledger);
        let mut sources = BTreeSet::new();
        // Each owner in turn, so that each goes on with what it has had of the others.
        for _ in 0..6 {
            writer.acked(30).await;
            let source = listener.source();
            sources.insert(source);
            cluster.crash(source, Keep::Synced);
            wait_until("another owner", async || listener.source() != source).await;
            writer.acked(30).await;
            cluster.restart(source).await;
            wait_healthy(&client, &cluster.ids()).await;
            cluster.wait_up(&reader, &cluster.ids()).await;
        }
        assert!(sources.len() > 1, "{sources:?}");
        writer.stop().await;
        listener.whole(&client, "db").await;
        cluster.finish().await;
    });
}

#[test]
fn an_owner_that_falls_silent_is_left_within_two_seconds() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 804).await;
        let (client, reader) = clients(&mut cluster).await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let listener = Listener::to(&reader, "db").await;
        let writer = writer(&client, "db", 0, &ledger);
        writer.acked(30).await;
        let silent = listener.source();
        cluster.isolate(silent);
        wait_until("another owner", async || listener.source() != silent).await;
        writer.acked(100).await;
        cluster.rejoin(silent);
        cluster.wait_up(&reader, &cluster.ids()).await;
        writer.acked(30).await;
        writer.stop().await;
        listener.whole(&client, "db").await;
        let silence = listener.look(|heard| heard.silence);
        assert!(silence < Duration::from_secs(2), "nothing came for {silence:?}");
        cluster.finish().await;
    });
}

#[test]
fn nothing_is_missed_whatever_becomes_of_one_owner_after_the_other() {
    for seed in 0..soak(3) as u64 {
        simulated(async {
            let mut cluster = Cluster::simulated(3, 820 + seed).await;
            let (client, reader) = clients(&mut cluster).await;
            let ledger = Arc::new(Ledger::new());
            create_database(&client, "db", 3).await;
            create_database(&client, "two", 2).await;
            let listeners = [Listener::to(&reader, "db").await, Listener::to(&reader, "two").await];
            let slow = Duration::from_millis(40);
            let writers = ["db", "two"].map(|name| {
                let number = name.len() as u64;
                Writer::start(&client, name, number, 3, slow, WriteOptions::default(), &ledger)
            });
            for listener in &listeners {
                wait_until("some", async || listener.look(|heard| heard.source.is_some())).await;
            }
            let mut draw = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed + 1);
            for _ in 0..4 {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let node = NodeId(1 + (draw >> 33) % 3);
                let (to_writer, to_reader) = (client_host(2), client_host(3));
                match (draw >> 40) % 5 {
                    0 => cluster.crash(node, Keep::Synced),
                    1 => cluster.stop(node).await,
                    2 => cluster.isolate(node),
                    3 => cluster.net().partition(host(node), to_reader),
                    _ => cluster.net().partition(host(node), to_writer),
                }
                let moment = Duration::from_millis((draw >> 45) % 3_000);
                sleep(moment).await;
                // What is folded cannot be replayed.
                for other in cluster.ids().into_iter().filter(|other| *other != node) {
                    cluster.node(other).fold().await;
                }
                sleep(moment).await;
                match (draw >> 40) % 5 {
                    0 | 1 => cluster.restart(node).await,
                    _ => cluster.rejoin(node),
                }
                wait_healthy(&client, &cluster.ids()).await;
                cluster.wait_up(&reader, &cluster.ids()).await;
                sleep(moment).await;
            }
            for writer in writers {
                writer.stop().await;
            }
            wait_drained(&client, &cluster.ids()).await;
            // Of two owners one alone may be left with what it cannot tell any more.
            listeners[1].all(&client, "two").await;
            listeners[0].whole(&client, "db").await;
            cluster.finish().await;
        });
    }
}

#[test]
fn hints_that_the_only_followed_owner_gets_late_come_late() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 805).await;
        let (client, reader) = clients(&mut cluster).await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let listener = Listener::start(reader.subscribe_with("db", None, patient()).await.unwrap());
        let writer = writer(&client, "db", 0, &ledger);
        writer.acked(20).await;
        // Only the writer cannot reach it: its subscriber has no reason to leave it.
        let source = listener.source();
        let to_writer = client_host(2);
        cluster.net().partition(host(source), to_writer);
        writer.acked(50).await;
        cluster.net().heal(host(source), to_writer);
        writer.stop().await;
        wait_drained(&client, &cluster.ids()).await;
        listener.whole(&client, "db").await;
        assert_eq!(listener.source(), source);
        cluster.finish().await;
    });
}

#[test]
fn an_owner_that_does_not_get_what_others_have_is_left() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 816).await;
        let (client, reader) = clients(&mut cluster).await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let listener = Listener::to(&reader, "db").await;
        let writer = writer(&client, "db", 0, &ledger);
        writer.acked(20).await;
        let source = listener.source();
        cluster.isolate(source);
        cluster.net().heal(host(source), client_host(3));
        let others = async || listener.source() != source;
        timeout(Duration::from_secs(4), wait_until("another owner", others)).await.unwrap();
        writer.stop().await;
        listener.whole(&client, "db").await;
        cluster.rejoin(source);
        cluster.finish().await;
    });
}

#[test]
fn what_the_killed_owner_never_had_comes_from_the_next_one() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 806).await;
        let (client, reader) = clients(&mut cluster).await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let listener = Listener::start(reader.subscribe_with("db", None, patient()).await.unwrap());
        let writer = writer(&client, "db", 0, &ledger);
        writer.acked(20).await;
        // Nobody but the subscriber reaches it, so that neither writes nor hints do.
        let source = listener.source();
        let reader_host = client_host(3);
        cluster.isolate(source);
        cluster.net().heal(host(source), reader_host);
        writer.acked(50).await;
        let had = listener.look(|heard| heard.batches.len());
        sleep(Duration::from_secs(30)).await;
        assert_eq!((listener.source(), listener.look(|heard| heard.batches.len())), (source, had));
        cluster.crash(source, Keep::Synced);
        wait_until("another owner", async || listener.source() != source).await;
        writer.stop().await;
        listener.whole(&client, "db").await;
        cluster.finish().await;
    });
}

#[test]
fn an_only_owner_goes_on_where_it_was_after_a_restart() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 807).await;
        let (client, reader) = clients(&mut cluster).await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 1).await;
        let listener = Listener::to(&reader, "db").await;
        let writer = writer(&client, "db", 0, &ledger);
        for crash in [false, true] {
            writer.acked(20).await;
            let had = listener.look(|heard| heard.batches.len());
            if crash {
                cluster.crash(NodeId(1), Keep::Synced);
            } else {
                cluster.stop(NodeId(1)).await;
            }
            cluster.restart(NodeId(1)).await;
            wait_until("more", async || listener.look(|heard| heard.batches.len()) > had).await;
        }
        writer.stop().await;
        listener.whole(&client, "db").await;
        cluster.finish().await;
    });
}

#[test]
fn an_owner_that_has_stored_and_folded_unseen_is_a_gap() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 808).await;
        let (client, reader) = clients(&mut cluster).await;
        let ledger = Ledger::new();
        create_database(&client, "db", 1).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let listener = Listener::to(&reader, "db").await;
        write(&client, "db", &[sample(0, 1)], &options, &ledger).await.unwrap();
        wait_until("a batch", async || listener.look(|heard| heard.batches.len()) == 1).await;
        let reader_host = client_host(3);
        cluster.net().partition(host(NodeId(1)), reader_host);
        wait_until("it is down", async || reader.up().is_empty()).await;
        write(&client, "db", &[sample(0, 2)], &options, &ledger).await.unwrap();
        cluster.node(NodeId(1)).fold().await;
        // What was kept for the subscriber goes with the node's life.
        cluster.stop(NodeId(1)).await;
        cluster.restart(NodeId(1)).await;
        cluster.net().heal(host(NodeId(1)), reader_host);
        cluster.wait_up(&reader, &[NodeId(1)]).await;
        let gaps = || listener.look(|heard| heard.gaps.clone());
        wait_until("a gap", async || !gaps().is_empty()).await;
        cluster.wait_up(&client, &[NodeId(1)]).await;
        let [gap] = &gaps()[..] else { panic!("{:?}", gaps()) };
        assert_eq!((gap.reason, gap.missed), (GapReason::Unknown, None));
        write(&client, "db", &[sample(0, 3)], &options, &ledger).await.unwrap();
        wait_until("the next", async || listener.look(|heard| heard.batches.len()) == 2).await;
        assert_eq!(gaps().len(), 1);
        cluster.finish().await;
    });
}

#[test]
fn new_groups_are_followed_from_their_beginning_and_policies_are_kept_apart() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 809).await;
        let (client, reader) = clients(&mut cluster).await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let policy = PolicySpec {
            name: "hours".to_owned(),
            duration: 0,
            group_duration: HOUR.cast_unsigned(),
            replication: 1,
        };
        let database = "db".to_owned();
        client.change(Change::CreatePolicy { database, policy, default: false }).await.unwrap();
        let refused = reader.subscribe("db", Some("days")).await.unwrap_err();
        assert_eq!(refused.code(), Code::PolicyNotFound);
        let subscription = reader.subscribe("db", Some("hours")).await.unwrap();
        let hours = Listener::start(subscription);
        let standard = Listener::to(&reader, "db").await;
        let in_hours =
            WriteOptions { retention_policy: Some("hours".to_owned()), ..WriteOptions::default() };
        for hour in 0..12 {
            let points: Vec<_> = (0..9)
                .map(|n| {
                    let point = quorate_client::Point::builder("m").tag("t", format!("{n}"));
                    point.field("v", hour).at(EPOCH - hour * HOUR).unwrap()
                })
                .collect();
            write(&client, "db", &points, &in_hours, &ledger).await.unwrap();
            if hour % 4 == 0 {
                write(&client, "db", &[sample(0, 0)], &WriteOptions::default(), &ledger)
                    .await
                    .unwrap();
            }
        }
        wait_until("all rows", async || {
            hours.look(|heard| heard.lines().lines().count()) == 12 * 9
        })
        .await;
        standard.whole(&client, "db").await;
        hours.look(|heard| assert_eq!((heard.twice, &heard.gaps[..]), (0, &[][..])));
        assert_eq!(standard.look(|heard| heard.batches.len()), 3);
        // The policy goes: its subscription ends, the other one does not.
        let (database, name) = ("db".to_owned(), "hours".to_owned());
        client.change(Change::DropPolicy { database, name }).await.unwrap();
        timeout(PATIENCE, hours.task).await.unwrap().unwrap();
        assert_eq!(hours.heard.lock().unwrap().end, Some(Some(Code::PolicyNotFound)));
        assert!(standard.look(|heard| heard.end.is_none()));
        client.change(Change::DropDatabase { name: "db".to_owned() }).await.unwrap();
        timeout(PATIENCE, standard.task).await.unwrap().unwrap();
        assert_eq!(standard.heard.lock().unwrap().end, Some(Some(Code::DatabaseNotFound)));
        cluster.finish().await;
    });
}

/// Virtual time of so many writes, one after the other.
async fn time_of(client: &Client, from: u64, count: u64) -> Duration {
    time_of_large(client, from, count, 2_000).await
}

async fn time_of_large(client: &Client, from: u64, count: u64, bytes: usize) -> Duration {
    let (begun, ledger) = (Instant::now(), Ledger::new());
    for n in from..from + count {
        let points = [large(n, bytes)];
        write(client, "db", &points, &WriteOptions::default(), &ledger).await.unwrap();
    }
    begun.elapsed()
}

#[test]
fn a_slow_consumer_is_told_what_it_missed_and_costs_a_writer_nothing() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 810).await;
        let (client, reader) = clients(&mut cluster).await;
        create_database(&client, "db", 3).await;
        time_of(&client, 0, 10).await;
        let alone = time_of(&client, 1_000, 200).await;
        let options = SubscribeOptions { buffer_bytes: 20_000, ..SubscribeOptions::default() };
        let mut stopped = reader.subscribe_with("db", None, options).await.unwrap();
        let followed = time_of(&client, 2_000, 200).await;
        assert!(followed < alone * 21 / 20, "{followed:?} with a subscriber, {alone:?} without");
        sleep(Duration::from_secs(1)).await;
        let (mut told, mut bytes, mut missed) = (0, 0, 0);
        while let Some(event) = stopped.try_next() {
            match event.unwrap() {
                Event::Batch(batch) => (told, bytes) = (told + 1, bytes + batch.bytes().len()),
                Event::Gap(Gap { reason: GapReason::Slow, missed: Some(some), .. }) => {
                    missed += some
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(told > 2 && bytes <= 20_000, "{told} batches of {bytes} bytes");
        assert_eq!(told + missed, 200);
        // It goes on.
        time_of(&client, 3_000, 3).await;
        for _ in 0..3 {
            let event = timeout(PATIENCE, stopped.next()).await.unwrap().unwrap().unwrap();
            assert!(matches!(event, Event::Batch(_)), "{event:?}");
        }
        cluster.finish().await;
    });
}

/// A follower past the client, which reads only when it is told to.
async fn follow(
    cluster: &mut Cluster,
    client: &Client,
    bodies: Bodies,
    after: Option<Sequence>,
) -> ReplyStream<Follow> {
    let map = client.map();
    let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
    let connection = raw.connect(&map, NodeId(1)).await;
    let shard = map.shards().next().unwrap().shard.id;
    let shards = vec![FollowShard { shard, after, bodies }];
    let request = Follow { meta_index: map.index, shards };
    let deadline = Instant::now() + PATIENCE;
    // The connection lives as long as its streams.
    connection.open_stream(&request, Bytes::new(), deadline).await.unwrap()
}

async fn answer(stream: &mut ReplyStream<Follow>) -> (Followed, Bytes) {
    timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap()
}

#[test]
fn a_follower_that_does_not_read_costs_its_node_no_more_than_the_bound() {
    simulated(async {
        const KEPT: u64 = 200_000;
        let plan = Plan::of(1).configured(|_, config| {
            config.feed.shard_bytes = KEPT;
            config.feed.send_bytes = 50_000;
        });
        let mut cluster = Cluster::simulated_with(plan, 811).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        time_of(&client, 0, 1).await;
        assert_eq!(cluster.node(NodeId(1)).followed_bytes(), 0);
        let mut stream = follow(&mut cluster, &client, Bodies::All, None).await;
        let (beginning, _) = answer(&mut stream).await;
        assert_eq!((beginning.length, beginning.gap), (0, false));
        // More than what the connection takes without a reader, and the rest.
        const WRITES: u64 = 250;
        let mut most = 0;
        for n in 0..WRITES {
            time_of_large(&client, 1_000 + n, 1, 20_000).await;
            most = most.max(cluster.node(NodeId(1)).followed_bytes());
        }
        assert!(most <= KEPT, "{most} bytes are kept");
        let (mut told, mut missed, mut bytes) = (0, 0, 0);
        while told + missed < WRITES {
            let (followed, body) = answer(&mut stream).await;
            assert_eq!(followed.length as usize, body.len());
            (told, missed, bytes) = (told + 1, missed + followed.missed, bytes + body.len() as u64);
        }
        assert_eq!(told + missed, WRITES);
        // The window of the stream, what was on its way, and what was kept.
        assert!(missed > 0 && bytes < (1 << 20) + KEPT + 100_000, "{bytes} of {told}, {missed}");
        cluster.finish().await;
    });
}

#[test]
fn a_follower_asks_for_names_or_bodies_from_any_place_until_its_shard_is_gone() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 812).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        time_of(&client, 0, 3).await;
        let mut names = follow(&mut cluster, &client, Bodies::None, Some(Sequence(0))).await;
        assert!(!answer(&mut names).await.0.gap);
        let mut places = Vec::new();
        for _ in 0..3 {
            let (named, body) = answer(&mut names).await;
            assert!(body.is_empty() && named.length > 2_000);
            places.push(named.sequence);
        }
        let mut all = follow(&mut cluster, &client, Bodies::All, Some(places[1])).await;
        assert_eq!(answer(&mut all).await.0.sequence, places[1]);
        let (third, body) = answer(&mut all).await;
        assert_eq!((third.sequence, third.length as usize), (places[2], body.len()));
        // Old ones by name, new ones whole.
        let mut new = follow(&mut cluster, &client, Bodies::New, Some(places[0])).await;
        answer(&mut new).await;
        time_of(&client, 10, 1).await;
        let mut lengths = Vec::new();
        for _ in 0..3 {
            lengths.push(answer(&mut new).await.1.len());
        }
        assert!(lengths[..2] == [0, 0] && lengths[2] > 2_000, "{lengths:?}");
        // The shard goes: that is said of it, and then ends the answer.
        client.change(Change::DropDatabase { name: "db".to_owned() }).await.unwrap();
        assert_eq!(answer(&mut new).await.0.ended, Some(Code::ShardGone));
        match timeout(PATIENCE, new.next()).await.unwrap() {
            Err(RequestError::Failure(failure)) => assert_eq!(failure.code, Code::ShardGone),
            other => panic!("{other:?}"),
        }
        cluster.finish().await;
    });
}

#[test]
fn nodes_take_so_many_followers_and_no_more() {
    simulated(async {
        let plan = Plan::of(3).configured(|_, config| config.feed.max_followers = 1);
        let mut cluster = Cluster::simulated_with(plan, 813).await;
        let (client, reader) = clients(&mut cluster).await;
        create_database(&client, "db", 3).await;
        time_of(&client, 0, 1).await;
        let first = reader.subscribe("db", None).await.unwrap();
        let options = SubscribeOptions {
            start_timeout: Duration::from_secs(2),
            ..SubscribeOptions::default()
        };
        let second = client.subscribe_with("db", None, options.clone()).await.unwrap_err();
        assert_eq!(second.code(), Code::Busy);
        assert!(second.retryable());
        drop(first);
        sleep(Duration::from_secs(1)).await;
        let listener = Listener::start(client.subscribe_with("db", None, options).await.unwrap());
        time_of(&client, 10, 1).await;
        wait_until("a batch", async || listener.look(|heard| heard.batches.len()) == 1).await;
        // Closing the client ends it without an error.
        client.close().await;
        timeout(PATIENCE, listener.task).await.unwrap().unwrap();
        assert_eq!(listener.heard.lock().unwrap().end, Some(None));
        assert_eq!(client.subscribe("db", None).await.unwrap_err().code(), Code::ShuttingDown);
        cluster.finish().await;
    });
}

#[test]
fn who_may_not_read_is_refused_at_once() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 814).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        time_of(&client, 0, 1).await;
        let roles = [Role::Write].into_iter().collect();
        let credentials =
            cluster.authority().issue_client_in_memory("w", roles, UnixTime::now()).unwrap();
        let writer = cluster.client_as(credentials, Default::default()).await.unwrap();
        let begun = Instant::now();
        let refused = writer.subscribe("db", None).await.unwrap_err();
        assert_eq!((refused.code(), refused.retryable()), (Code::Unauthorised, false));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        writer.close().await;
        cluster.finish().await;
    });
}

#[test]
fn what_is_only_buffered_is_not_told() {
    simulated(async {
        let every = Duration::from_secs(20);
        let plan = Plan::of(1)
            .configured(move |_, config| config.durability = Durability::Interval(every));
        let mut cluster = Cluster::simulated_with(plan, 815).await;
        let (client, reader) = clients(&mut cluster).await;
        create_database(&client, "db", 1).await;
        time_of(&client, 0, 1).await;
        sleep(every * 2).await;
        let listener = Listener::to(&reader, "db").await;
        time_of(&client, 10, 1).await;
        sleep(every / 2).await;
        assert!(listener.look(|heard| heard.batches.is_empty()));
        sleep(every).await;
        assert_eq!(listener.look(|heard| heard.batches.len()), 1);
        cluster.finish().await;
    });
}
