//! A node that is gone for eight days, by the clocks on the wall: hints are given up when they are a
//! week old, beside appends and attempts to deliver, and what comes afterwards is delivered.

use std::time::Duration;

use quorate_client::WriteOptions;
use quorate_protocol::{consistency::Level, id::NodeId};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::{Ledger, first_difference},
    limit::simulated,
    load::{sample, write},
    observe::{PATIENCE, create_database, exports, queues, total, wait_drained, wait_healthy},
};
use tokio::time::{Instant, sleep_until};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
/// Seconds on the wall for each of the runtime's: eight days take eleven and a half minutes.
const RATE: u32 = 1_000;
const DAY: Duration = Duration::from_millis(24 * 3600 * 1000 / RATE as u64);
/// A write every quarter of an hour.
const PER_DAY: u64 = 96;

#[test]
fn f01_after_eight_days_a_week_of_hints_is_left_and_the_next_one_is_delivered() {
    // Hints only: books and marks lie beside them.
    const SEGMENTS: &str = "/handoff/3/0";
    simulated(async {
        let plan = Plan::of(3).configured(|_, config| {
            config.handoff.segment_bytes = 8 << 10;
            // A quarter of an hour on the wall; the age is the default, a week.
            config.expiry_s = 1;
        });
        let mut cluster = Cluster::simulated_with(Plan { clock_rate: RATE, ..plan }, 121).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        // It is there and says nothing: that keeps the attempts busy.
        cluster.isolate(THREE);
        let live = [ONE, TWO];
        cluster.wait_up(&client, &live).await;
        let options = WriteOptions::default();
        let begun = Instant::now();
        let mut week = None;
        for n in 1..=8 * PER_DAY {
            sleep_until(begun + DAY * n as u32 / PER_DAY as u32).await;
            write(&client, "db", &[sample(1, n)], &options, &ledger).await.unwrap();
            if n == 7 * PER_DAY - 2 {
                let sum = total(&queues(&client, &live).await.unwrap());
                assert_eq!(sum.expired, 0, "a hint was given up too early: {sum:?}");
                week = cluster.disk_bytes(&live, SEGMENTS, b"QREC");
            }
        }
        assert!(client.settle(PATIENCE).await);
        let sum = total(&queues(&client, &live).await.unwrap());
        assert_eq!(sum.accepted, 8 * PER_DAY);
        assert!((PER_DAY - 3..=PER_DAY + 3).contains(&sum.expired), "{sum:?}");
        assert_eq!((sum.quarantined, sum.discarded, sum.delivered), (0, 0, 0), "{sum:?}");
        // Eight days take no more room than seven did, but for segments that are begun or not yet over.
        let (week, now) = (week.unwrap(), cluster.disk_bytes(&live, SEGMENTS, b"QREC").unwrap());
        assert!(now < week + (4 * (8 << 10)), "{week} bytes of a week, {now} of eight days");
        // What it lacks is remembered.
        assert!(cluster.disk_bytes(&live, "/handoff/marks", b"QREC").is_some());

        let last = [sample(2, 1)];
        write(&client, "db", &last, &options, &ledger).await.unwrap();
        cluster.rejoin(THREE);
        wait_healthy(&client, &cluster.ids()).await;
        let drained = wait_drained(&client, &cluster.ids()).await;
        assert_eq!(drained.delivered + drained.expired, 8 * PER_DAY + 1, "{drained:?}");
        assert!(drained.delivered > 6 * PER_DAY, "{drained:?}");
        let replicas = exports(&client, "db", &cluster.ids()).await;
        let line = String::from_utf8(last[0].to_line()).unwrap();
        assert!(replicas[2].1.contains(&line), "the hint behind the purges is lost");
        ledger.check(&replicas[..2]).assert_whole();
        assert!(first_difference(&replicas).is_some());
        cluster.finish().await;
    });
}
