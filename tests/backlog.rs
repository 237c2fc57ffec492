//! A slow owner and a small budget: it is waited for, but not by everybody and not for ever.

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use quorate_client::{
    Client, ClientConfig, Lacking, Receipt, WriteError, WriteOptions, history::Step,
};
use quorate_protocol::{code::Code, consistency::Level, id::NodeId};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::Ledger,
    limit::simulated,
    load::{EPOCH, large, sample, write},
    observe::{PATIENCE, create_database, exports, queues, total},
    shard::no_room,
};
use tokio::time::{Instant, sleep};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
/// A few writes of what [`sample`] makes, with their tasks.
const BUDGET: usize = 64 << 10;

/// A cluster of three whose node three, if `slow`, says "not now" to every write after so many
/// milliseconds; and a client.
async fn start(
    slow: Option<u64>,
    node_budget_bytes: Option<usize>,
    seed: u64,
    ledger: &Ledger,
) -> (Cluster, Client) {
    let mut plan = Plan::of(3).configured(move |node, config| {
        if node == THREE
            && let Some(wait_ms) = slow
        {
            no_room(config);
            config.shard.fresh_wait_ms = wait_ms;
        }
    });
    plan.client =
        ClientConfig { budget_bytes: BUDGET, node_budget_bytes, ..ClientConfig::default() };
    let mut cluster = Cluster::simulated_with(plan, seed).await;
    let client = cluster.client().await;
    create_database(&client, "db", 3).await;
    let timeout = Duration::from_millis(500);
    let all = WriteOptions { timeout, ..WriteOptions::at(Level::All) };
    write(&client, "db", &[sample(0, 0)], &all, ledger).await.unwrap();
    if slow.is_some() {
        let mut n = 0;
        while write(&client, "db", &[large(n, 2 << 10)], &all, ledger).await.is_ok() {
            n += 1;
            assert!(n < 200, "node three is never busy");
        }
        assert!(client.settle(PATIENCE).await);
    }
    (cluster, client)
}

type Written = Result<Receipt, WriteError>;

/// Writes of three writers for twenty seconds, and the number of the point of each.
async fn load(client: &Client, ledger: &Arc<Ledger>) -> Vec<(u64, Written)> {
    let end = Instant::now() + Duration::from_secs(20);
    let writers: Vec<_> = (1..4)
        .map(|writer| {
            let (client, ledger) = (client.clone(), Arc::clone(ledger));
            tokio::spawn(async move {
                let (mut done, mut n) = (Vec::new(), 0);
                while Instant::now() < end {
                    let options = WriteOptions::default().with_history();
                    let points = [sample(writer, n)];
                    done.push((n, write(&client, "db", &points, &options, &ledger).await));
                    n += 1;
                    sleep(Duration::from_millis(40)).await;
                }
                done
            })
        })
        .collect();
    let mut done = Vec::new();
    for writer in writers {
        done.extend(writer.await.unwrap());
    }
    done
}

fn steps(receipt: &Receipt, wanted: impl Fn(&Step) -> bool) -> usize {
    let entries = receipt.history.as_ref().unwrap().entries();
    entries.iter().filter(|entry| entry.owner == Some(THREE) && wanted(&entry.step)).count()
}

/// Nothing is held any more.
async fn assert_settled(client: &Client) {
    assert!(client.settle(PATIENCE).await, "{:?}", client.usage());
    let usage = client.usage();
    assert_eq!(usage.budget_bytes, 0);
    for peer in usage.peers {
        let held = peer.connection.unwrap();
        assert_eq!((held.credit_bytes, held.requests), (0, 0), "{held:?}");
    }
}

#[test]
fn writers_keep_their_rate_beside_a_slow_owner_and_what_it_lacks_is_marked() {
    let rate = simulated(async {
        let ledger = Arc::new(Ledger::new());
        let (cluster, client) = start(None, None, 821, &ledger).await;
        let done = load(&client, &ledger).await;
        let receipts = done.iter().map(|(_, written)| written.as_ref().unwrap());
        let let_go: usize =
            receipts.map(|receipt| steps(receipt, |step| *step == Step::LetGo)).sum();
        assert_eq!(let_go, 0, "nobody is slow");
        cluster.finish().await;
        done.len()
    });
    // With the whole budget for one node, a write waits for the mark that makes room for it.
    for (wait_ms, node_budget, percent) in [(0, None, 80), (0, Some(BUDGET), 60), (1_000, None, 80)]
    {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = recorder.handle();
        let _guard = metrics::set_default_local_recorder(&recorder);
        simulated(async {
            let ledger = Arc::new(Ledger::new());
            let (cluster, client) = start(Some(wait_ms), node_budget, 821, &ledger).await;
            let done = load(&client, &ledger).await;
            println!("{} writes beside a slow owner, {rate} without", done.len());
            assert!(done.len() * 100 >= rate * percent, "{} writes instead of {rate}", done.len());
            assert_settled(&client).await;

            let mut marks = client.marks(ONE, PATIENCE).await.unwrap();
            marks.extend(client.marks(TWO, PATIENCE).await.unwrap());
            let mut sum = 0;
            for (n, written) in &done {
                let receipt = written.as_ref().unwrap();
                let let_go = steps(receipt, |step| *step == Step::LetGo);
                let marked = steps(receipt, |step| matches!(step, Step::Marked { .. }));
                assert!(let_go <= marked && marked <= 1, "{}", receipt.history.as_ref().unwrap());
                sum += let_go;
                if let_go == 0 {
                    continue;
                }
                let lacks = client.converged(receipt, PATIENCE).await.unwrap_err();
                let Lacking::Marked { holder } = lacks.reason else { panic!("{lacks}") };
                assert!(lacks.owner == THREE && holder != THREE, "{lacks}");
                let at = EPOCH + i64::try_from(*n).unwrap() * 1_000_000;
                let covers = marks.iter().any(|mark| {
                    (mark.shard, mark.owner) == (receipt.parts[0].shard, THREE)
                        && (mark.from..=mark.to).contains(&at)
                });
                assert!(covers, "nobody remembers {at}: {marks:?}");
            }
            // All but those of the first moments, which were waited for.
            assert!(sum * 2 > done.len(), "{sum} of {} were let go", done.len());
            let text = metrics.render();
            let counted =
                text.lines().filter(|line| line.starts_with("quorate_client_copies_let_go_total{"));
            let counted =
                counted.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap());
            assert_eq!(counted.sum::<usize>(), sum);
            let reason = if node_budget.is_none() { "node" } else { "room" };
            assert!(text.contains(&format!("let_go_total{{reason=\"{reason}\"}}")), "{text}");
            let hints = total(&queues(&client, &cluster.ids()).await.unwrap());
            assert_eq!(hints.accepted, 0, "slow is not down: {hints:?}");
            ledger.check(&exports(&client, "db", &[ONE, TWO]).await).assert_whole();
            cluster.finish().await;
        });
    }
}

#[test]
fn a_copy_that_its_level_needs_is_never_let_go() {
    simulated(async {
        let ledger = Arc::new(Ledger::new());
        let (cluster, client) = start(Some(0), None, 822, &ledger).await;
        let all = tokio::spawn({
            let (client, ledger) = (client.clone(), Arc::clone(&ledger));
            async move {
                let timeout = Duration::from_secs(15);
                let all = WriteOptions { timeout, ..WriteOptions::at(Level::All) };
                let begun = Instant::now();
                let points = [sample(9, 1)];
                let error = write(&client, "db", &points, &all.with_history(), &ledger).await;
                (error.unwrap_err(), begun.elapsed())
            }
        });
        let done = load(&client, &ledger).await;
        let receipts = done.iter().map(|(_, written)| written.as_ref().unwrap());
        let let_go: usize =
            receipts.map(|receipt| steps(receipt, |step| *step == Step::LetGo)).sum();
        assert!(let_go > 100, "nothing had to make room: {let_go}");
        let (error, took) = all.await.unwrap();
        assert!(took >= Duration::from_secs(14), "it was given up after {took:?}");
        assert!(matches!(error.code(), Code::Busy | Code::DeadlineExceeded), "{error}");
        let history = error.history().unwrap();
        assert!(history.entries().iter().all(|entry| entry.step != Step::LetGo), "{history}");
        assert_settled(&client).await;
        cluster.finish().await;
    });
}

/// The write had its level at once; its copy for the slow owner comes to an end ten seconds later.
#[test]
fn closing_waits_until_a_slow_owner_s_copy_is_marked() {
    for (close_timeout, all) in [(20, true), (2, false)] {
        simulated(async {
            let ledger = Arc::new(Ledger::new());
            let (mut cluster, reader) = start(Some(0), None, 823, &ledger).await;
            let close_timeout = Duration::from_secs(close_timeout);
            let config = ClientConfig { close_timeout, ..ClientConfig::default() };
            let client = cluster.client_with(config).await;
            cluster.wait_up(&client, &[ONE, TWO, THREE]).await;
            // At a time of its own, so that no other mark covers it.
            let late = sample(0, 3_600_000);
            let time = late.time();
            let begun = Instant::now();
            write(&client, "db", &[late], &WriteOptions::default(), &ledger).await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(1));
            assert_eq!(client.close().await, all);
            let took = begun.elapsed();
            assert!(took < close_timeout + Duration::from_secs(1), "{took:?}");
            let mut marks = reader.marks(ONE, PATIENCE).await.unwrap();
            marks.extend(reader.marks(TWO, PATIENCE).await.unwrap());
            let covers = |from: i64, to: i64| from <= time && time <= to;
            let marked = marks.iter().any(|mark| mark.owner == THREE && covers(mark.from, mark.to));
            assert_eq!(marked, all, "after {took:?}: {marks:?}");
            reader.close().await;
        });
    }
}
