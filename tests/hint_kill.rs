//! `kill -9` of the holders of hints, while they append and while they drain.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use quorate_client::{Client, WriteOptions};
use quorate_protocol::{consistency::Level, id::NodeId, message::QueueStatus};
use quorate_tests::harness::{
    history::Ledger,
    limit::{real, soak},
    load::{Writer, sample, write},
    observe::{PATIENCE, create_database, exports, queues, total, wait_for, wait_healthy},
    process::Processes,
};
use rustix::process::{Pid, Signal, kill_process};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
/// How long deliveries may stand still.
const STILL: Duration = Duration::from_secs(30);
/// Small segments, and drains that take a moment.
const SLOW: &str = "
[handoff]
segment_bytes = 8192
[drain]
rate_limit = 50000
message_records = 4
window = 1
";

#[test]
fn holders_killed_again_and_again_while_they_append_and_drain_lose_no_hint() {
    real(async {
        let mut cluster = Processes::start_with(BINARY, 3, SLOW).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        // With the target down and one holder killed, one owner is left.
        let one = WriteOptions { timeout: Duration::from_secs(2), ..WriteOptions::at(Level::One) };
        let writers: Vec<Writer> = (1..=2)
            .map(|number| {
                let pause = Duration::from_millis(2);
                Writer::start(&client, "db", number, 4, pause, one.clone(), &ledger)
            })
            .collect();
        let (mut kills, mut amid_drain) = (0_u64, 0_u64);
        for _ in 0..soak(10) {
            cluster.kill(THREE).await;
            for writer in &writers {
                writer.acked(25).await;
            }
            // While it appends.
            let (holder, _) = most(&client).await;
            cluster.kill(holder).await;
            cluster.restart(holder).await;
            for writer in &writers {
                writer.acked(10).await;
            }
            // While it drains, as far as can be seen from outside.
            let before = total(&held(&client).await).delivered;
            cluster.restart(THREE).await;
            wait_for("the drain has begun", STILL, async || {
                let now = total(&held(&client).await);
                whole(&now);
                if now.delivered > before { Ok(()) } else { Err(format!("{now:?}")) }
            })
            .await;
            let (holder, pending) = most(&client).await;
            cluster.kill(holder).await;
            cluster.restart(holder).await;
            amid_drain += u64::from(pending > 0);
            kills += 2;
        }
        for writer in writers {
            writer.stop().await;
        }
        let ids = cluster.ids();
        wait_healthy(&client, &ids).await;
        assert!(client.settle(Duration::from_secs(90)).await, "background work goes on");
        // The rest may go as fast as it can.
        let slow = std::fs::read_to_string(cluster.config()).unwrap();
        std::fs::write(cluster.config(), slow.split("[drain]").next().unwrap()).unwrap();
        for node in &ids {
            kill_process(Pid::from_raw(cluster.pid(*node)).unwrap(), Signal::HUP).unwrap();
        }
        let sum = drained(&client, &ids).await;
        assert!(sum.delivered > kills, "{sum:?}");
        assert!(amid_drain > kills / 8, "{amid_drain} of {kills} kills hit a drain");
        ledger.check(&exports(&client, "db", &ids).await).assert_whole();
        client.close().await;
        for node in ids {
            cluster.terminate(node).await;
        }
    });
}

/// The queues of both holders.
async fn held(client: &Client) -> BTreeMap<(NodeId, NodeId), QueueStatus> {
    wait_for("the queues", PATIENCE, async || queues(client, &[ONE, TWO]).await).await
}

/// Every hint is pending or delivered, and nothing else.
fn whole(sum: &QueueStatus) {
    let others = (sum.quarantined, sum.expired, sum.discarded);
    assert_eq!(others, (0, 0, 0), "hints were lost by their holders: {sum:?}");
}

/// Waits until nothing is pending, for as long as it takes if it goes on.
async fn drained(client: &Client, ids: &[NodeId]) -> QueueStatus {
    let mut least = u64::MAX;
    loop {
        let sum = wait_for("the drain goes on", STILL, async || {
            let all = queues(client, ids).await?;
            let sum = total(&all);
            if sum.pending < least { Ok(sum) } else { Err(format!("pending in {all:?}")) }
        })
        .await;
        whole(&sum);
        if sum.pending == 0 {
            return sum;
        }
        least = sum.pending;
    }
}

/// Who holds most of the hints for the target, and how many.
async fn most(client: &Client) -> (NodeId, u64) {
    let held = held(client).await;
    let pending = |node| held.get(&(node, THREE)).map_or(0, |queue| queue.pending);
    [(ONE, pending(ONE)), (TWO, pending(TWO))].into_iter().max_by_key(|(_, count)| *count).unwrap()
}
