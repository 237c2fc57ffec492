//! `converged`: a write is everywhere, or the owner that lacks it is named, at once where nothing under way
//! will bring it.

use std::time::Duration;

use quorate_client::{
    Client, Lacking, NotConverged, Receipt, WriteOptions,
    receipt::{CopyState, PartReceipt},
};
use quorate_protocol::{
    change::Change,
    consistency::Level,
    id::NodeId,
    message::{HintAction, HintsDo},
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan, client_host, host},
    history::Ledger,
    limit::simulated,
    load::{large, sample, write},
    observe::{PATIENCE, create_database, exports, queues, wait_healthy},
    shard::no_room,
};
use tokio::time::{Instant, sleep};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
/// An answer that needs no waiting.
const AT_ONCE: Duration = Duration::from_millis(100);

async fn start(plan: Plan, seed: u64, ledger: &Ledger) -> (Cluster, Client) {
    let mut cluster = Cluster::simulated_with(plan, seed).await;
    let client = cluster.client().await;
    create_database(&client, "db", 3).await;
    let all = WriteOptions::at(Level::All);
    write(&client, "db", &[sample(0, 0)], &all, ledger).await.unwrap();
    (cluster, client)
}

/// A write that node three, which is down, misses; and who keeps its hint.
async fn missed(client: &Client, n: u64, level: Level, ledger: &Ledger) -> (Receipt, NodeId) {
    let before = queues(client, &[ONE, TWO]).await.unwrap();
    let options = WriteOptions::at(level);
    let receipt = write(client, "db", &[sample(1, n)], &options, ledger).await.unwrap();
    assert!(client.settle(PATIENCE).await);
    let after = queues(client, &[ONE, TWO]).await.unwrap();
    let known = |place| before.get(place).map_or(0, |queue| queue.accepted);
    let mut grown = after.iter().filter(|(place, queue)| queue.accepted > known(*place));
    let ((holder, _), _) = grown.next().unwrap();
    (receipt, *holder)
}

/// What `converged` says, and after how long.
async fn ask(
    client: &Client,
    receipt: &Receipt,
    timeout: u64,
) -> (Result<(), NotConverged>, Duration) {
    let begun = Instant::now();
    let said = client.converged(receipt, Duration::from_secs(timeout)).await;
    (said, begun.elapsed())
}

/// That this node lacks it for this reason, and that this was said at once.
async fn owner_lacks(client: &Client, receipt: &Receipt, owner: NodeId, reason: Lacking) {
    let (said, took) = ask(client, receipt, 3_600).await;
    let shard = receipt.parts[0].shard;
    assert_eq!(said, Err(NotConverged { owner, shard, reason }));
    assert!(!reason.pending() && took < AT_ONCE, "{took:?}");
}

/// The same of node three.
async fn lacks(client: &Client, receipt: &Receipt, reason: Lacking) {
    owner_lacks(client, receipt, THREE, reason).await;
}

/// Has a holder drop what it keeps for node three.
async fn drop_hints(client: &Client, holder: NodeId) -> u64 {
    let action = HintAction::Drop;
    let drop = HintsDo { target: THREE, action, shard: None, force_any: false };
    client.hints_do(holder, drop, PATIENCE).await.unwrap().done
}

#[test]
fn a_copy_is_followed_to_its_owner_or_its_loss_is_told_at_once() {
    simulated(async {
        let ledger = Ledger::new();
        let (mut cluster, client) = start(Plan::of(3), 701, &ledger).await;
        // All are up; the receipt comes before two of the copies have an answer.
        let one = WriteOptions::at(Level::One);
        let receipt = write(&client, "db", &[sample(1, 0)], &one, &ledger).await.unwrap();
        let open = |part: &PartReceipt| {
            part.copies.iter().filter(|copy| copy.state == CopyState::Outstanding).count()
        };
        assert!(open(&receipt.parts[0]) > 0, "{receipt:?}");
        let (said, took) = ask(&client, &receipt, 5).await;
        assert!(said.is_ok() && took < AT_ONCE, "{said:?} after {took:?}");

        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let (receipt, holder) = missed(&client, 1, Level::Quorum, &ledger).await;
        let (said, took) = ask(&client, &receipt, 2).await;
        assert_eq!(said.unwrap_err().reason, Lacking::Waiting { holder });
        assert!(said.unwrap_err().reason.pending());
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3), "{took:?}");
        cluster.restart(THREE).await;
        let (said, took) = ask(&client, &receipt, 60).await;
        assert!(said.is_ok() && took < Duration::from_secs(10), "{said:?} after {took:?}");
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();

        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let (receipt, holder) = missed(&client, 2, Level::Quorum, &ledger).await;
        assert_eq!(drop_hints(&client, holder).await, 1);
        lacks(&client, &receipt, Lacking::Discarded { holder }).await;
        cluster.finish().await;
    });
}

#[test]
fn a_hint_that_has_grown_too_old_is_no_copy() {
    simulated(async {
        let ledger = Ledger::new();
        let plan = Plan::of(3).configured(|_, config| config.handoff.max_age_seconds = 60);
        let (mut cluster, client) = start(plan, 702, &ledger).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let (quorum, holder) = missed(&client, 1, Level::Quorum, &ledger).await;
        let (any, _) = missed(&client, 2, Level::Any, &ledger).await;
        sleep(Duration::from_secs(150)).await;
        lacks(&client, &quorum, Lacking::Expired { holder }).await;
        // Both of its holders have set it aside.
        let said = ask(&client, &any, 3_600).await.0.unwrap_err();
        assert!(matches!(said.reason, Lacking::Quarantined { .. }), "{said}");
        cluster.finish().await;
    });
}

#[test]
fn a_holder_that_is_lost_is_named_and_one_that_leaves_is_followed() {
    simulated(async {
        let ledger = Ledger::new();
        let (mut cluster, client) = start(Plan::of(3), 703, &ledger).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let (receipt, holder) = missed(&client, 1, Level::Quorum, &ledger).await;
        let handed = client.hand_on(holder, PATIENCE).await.unwrap();
        assert_eq!((handed.moved, handed.pending), (1, 0));
        let (said, _) = ask(&client, &receipt, 2).await;
        assert_eq!(said.unwrap_err().reason, Lacking::OnItsWay { holder });

        let (second, holder) = missed(&client, 2, Level::Quorum, &ledger).await;
        cluster.stop(holder).await;
        let (said, took) = ask(&client, &second, 5).await;
        assert_eq!(said.unwrap_err().reason, Lacking::HolderSilent { holder });
        assert!(took < Duration::from_secs(7), "{took:?}");
        // It was away only.
        cluster.restart(holder).await;
        // Node three is back, but not for those who have something for it.
        for holder in [ONE, TWO] {
            cluster.net().partition(host(holder), host(THREE));
        }
        cluster.restart(THREE).await;
        cluster.wait_up(&client, &cluster.ids()).await;
        let (said, _) = ask(&client, &receipt, 3).await;
        assert!(said.unwrap_err().reason.pending());
        cluster.net().heal_all();
        for receipt in [receipt, second] {
            let (said, _) = ask(&client, &receipt, 60).await;
            assert_eq!(said, Ok(()));
        }
        wait_healthy(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn a_repair_mark_is_no_copy() {
    simulated(async {
        let ledger = Ledger::new();
        // Node three is busy before long.
        let plan = Plan::of(3).configured(|node, config| {
            if node == THREE {
                no_room(config);
            }
        });
        let (cluster, client) = start(plan, 704, &ledger).await;
        let quick = WriteOptions { timeout: Duration::from_millis(500), ..WriteOptions::default() };
        let mut marked = None;
        for n in 0..200 {
            let points = [large(n, 2 << 10)];
            let receipt = write(&client, "db", &points, &quick, &ledger).await.unwrap();
            // Said long after the receipt, which knew nothing of it.
            if let Err(lacks) = client.converged(&receipt, Duration::from_secs(60)).await {
                marked = Some(lacks);
                break;
            }
        }
        let marked = marked.expect("node three is never busy");
        assert_eq!(marked.owner, THREE);
        assert!(matches!(marked.reason, Lacking::Marked { holder } if holder != THREE), "{marked}");
        cluster.finish().await;
    });
}

#[test]
fn a_copy_that_was_refused_for_good_is_told_at_once() {
    simulated(async {
        let ledger = Ledger::new();
        let plan = Plan::of(3).configured(|node, config| {
            if node == THREE {
                config.shard.max_series_per_database = 1;
            }
        });
        let (cluster, client) = start(plan, 705, &ledger).await;
        cluster.node(THREE).fold().await;
        let quorum = WriteOptions::default();
        let receipt = write(&client, "db", &[sample(1, 0)], &quorum, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        lacks(&client, &receipt, Lacking::Refused).await;
        cluster.finish().await;
    });
}

#[test]
fn what_the_client_has_given_up_is_told_at_once_and_not_before() {
    simulated(async {
        let ledger = Ledger::new();
        // Nobody has room for a hint.
        let plan = Plan::of(3).configured(|_, config| config.handoff.max_bytes = 1);
        let (mut cluster, client) = start(plan, 706, &ledger).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let options = WriteOptions { timeout: Duration::from_secs(1), ..WriteOptions::default() };
        let receipt = write(&client, "db", &[sample(1, 0)], &options, &ledger).await.unwrap();
        let (said, took) = ask(&client, &receipt, 5).await;
        assert_eq!(said.unwrap_err().reason, Lacking::UnderWay);
        assert!(took >= Duration::from_secs(5), "{took:?}");
        // It goes on for a minute behind the deadline.
        sleep(Duration::from_secs(65)).await;
        lacks(&client, &receipt, Lacking::Abandoned).await;

        // Whoever closes the client that is at it gives it up.
        let other = cluster.client().await;
        cluster.wait_up(&other, &[ONE, TWO]).await;
        let receipt = write(&other, "db", &[sample(1, 1)], &options, &ledger).await.unwrap();
        other.close().await;
        lacks(&client, &receipt, Lacking::Abandoned).await;
        cluster.finish().await;
    });
}

#[test]
fn a_hint_that_was_lost_does_not_pass_for_all_of_them_while_another_is_being_placed() {
    simulated(async {
        let ledger = Ledger::new();
        // Node two has no room for hints.
        let plan = Plan::of(3).configured(|node, config| {
            if node == TWO {
                config.handoff.max_bytes = 1;
            }
        });
        let (mut cluster, client) = start(plan, 707, &ledger).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let options = WriteOptions { hint_copies: 2, ..WriteOptions::default() };
        let receipt = write(&client, "db", &[sample(1, 0)], &options, &ledger).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(drop_hints(&client, ONE).await, 1);
        let (said, took) = ask(&client, &receipt, 3).await;
        assert_eq!(said.unwrap_err().reason, Lacking::UnderWay);
        assert!(took >= Duration::from_secs(3), "{took:?}");
        // Nobody is at it any more.
        sleep(Duration::from_secs(90)).await;
        lacks(&client, &receipt, Lacking::Discarded { holder: ONE }).await;
        cluster.finish().await;
    });
}

#[test]
fn a_holder_that_is_silent_does_not_hold_up_what_another_one_says() {
    simulated(async {
        let ledger = Ledger::new();
        let (mut cluster, client) = start(Plan::of(3), 708, &ledger).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let (mut receipt, holder) = missed(&client, 1, Level::Quorum, &ledger).await;
        // The other one keeps the next.
        let other = if holder == ONE { TWO } else { ONE };
        let cut = |cluster: &Cluster| cluster.net().partition(client_host(2), host(holder));
        cut(&cluster);
        cluster.wait_up(&client, &[other]).await;
        let one = WriteOptions::at(Level::One);
        let more = write(&client, "db", &[sample(1, 2)], &one, &ledger).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        cluster.net().heal_all();
        cluster.wait_up(&client, &[ONE, TWO]).await;
        assert_eq!(drop_hints(&client, other).await, 1);
        receipt.parts.extend(more.parts);
        cut(&cluster);
        let (said, took) = ask(&client, &receipt, 60).await;
        assert_eq!(said.unwrap_err().reason, Lacking::Discarded { holder: other });
        assert!(took < AT_ONCE, "{took:?}");
        cluster.finish().await;
    });
}

#[test]
fn a_holder_that_was_removed_is_told_until_the_batch_was_sent_again() {
    simulated(async {
        let ledger = Ledger::new();
        let mut cluster = Cluster::simulated(5, 709).await;
        let client = cluster.client().await;
        create_database(&client, "db", 5).await;
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        let five = NodeId(5);
        cluster.stop(five).await;
        cluster.wait_up(&client, &[ONE, TWO, THREE, NodeId(4)]).await;
        let options = WriteOptions::default();
        let receipt = write(&client, "db", &[sample(1, 0)], &options, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        let kept = queues(&client, &[ONE, TWO, THREE, NodeId(4)]).await.unwrap();
        let mut kept = kept.iter().filter(|(_, queue)| queue.pending > 0);
        let ((holder, target), _) = kept.next().unwrap();
        assert_eq!((*target, kept.next()), (five, None));
        cluster.stop(*holder).await;
        client.change(Change::LeaveNode { node: *holder }).await.unwrap();
        owner_lacks(&client, &receipt, five, Lacking::HolderGone { holder: *holder }).await;

        cluster.restart(five).await;
        let left: Vec<NodeId> = cluster.ids().into_iter().filter(|id| id != holder).collect();
        wait_healthy(&client, &left).await;
        owner_lacks(&client, &receipt, five, Lacking::HolderGone { holder: *holder }).await;
        let again = WriteOptions { version: Some(receipt.version), ..all };
        write(&client, "db", &[sample(1, 0)], &again, &ledger).await.unwrap();
        assert_eq!(ask(&client, &receipt, 60).await.0, Ok(()));
        cluster.finish().await;
    });
}

#[test]
fn an_owner_that_came_after_the_write_has_it_when_it_has_what_the_others_have() {
    simulated(async {
        let ledger = Ledger::new();
        let (mut cluster, client) = start(Plan::of(3), 710, &ledger).await;
        let owners = client.map().shards().next().unwrap().shard.owners.clone();
        let last = *owners.last().unwrap();
        cluster.stop(last).await;
        let left: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != last).collect();
        cluster.wait_up(&client, &left).await;
        let quorum = WriteOptions::default();
        let mut receipt = write(&client, "db", &[sample(1, 0)], &quorum, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        // As if it had been no owner when the batch was sent.
        assert_eq!(receipt.parts[0].copies.pop().unwrap().owner, last);
        let (said, took) = ask(&client, &receipt, 2).await;
        assert_eq!(said.map_err(|no| (no.owner, no.reason)), Err((last, Lacking::NewOwner)));
        assert!(said.unwrap_err().reason.pending() && took >= Duration::from_secs(2), "{took:?}");
        // It is back, but not for those who have something for it.
        left.iter().for_each(|node| cluster.net().partition(host(*node), host(last)));
        cluster.restart(last).await;
        cluster.wait_up(&client, &cluster.ids()).await;
        let (said, _) = ask(&client, &receipt, 2).await;
        assert_eq!(said.unwrap_err().reason, Lacking::NewOwner);
        cluster.net().heal_all();
        assert_eq!(ask(&client, &receipt, 60).await.0, Ok(()));
        cluster.finish().await;
    });
}
