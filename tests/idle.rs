//! What a node that nobody writes to keeps on its disk.

use std::time::Duration;

use quorate_client::WriteOptions;
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    disk::{JOURNAL, Keep},
    history::Ledger,
    limit::simulated,
    load::{sample, write},
    observe::{create_database, export, statuses},
};
use tokio::time::sleep;

const ONE: NodeId = NodeId(1);
const IDLE: Duration = Duration::from_secs(30);

/// Bytes of the journal's files.
fn journal(cluster: &Cluster) -> usize {
    let memory = cluster.memory(ONE);
    let inside = |path: &std::path::PathBuf| path.to_string_lossy().contains(JOURNAL);
    let paths = memory.paths().into_iter().filter(inside);
    paths.map(|path| memory.content(&path).unwrap().len()).sum()
}

#[test]
fn an_idle_node_gives_the_room_of_its_journal_back_and_takes_it_again() {
    simulated(async {
        let plan = Plan::of(1).configured(|_, config| {
            config.journal.segment_bytes = 1 << 20;
            config.journal.idle_trim_ms = IDLE.as_millis() as u64;
            config.shard.fold_age_ms = 1_000;
        });
        let mut cluster = Cluster::simulated_with(plan, 411).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let ledger = Ledger::new();
        let options = WriteOptions::default();
        for round in 0..3 {
            write(&client, "db", &[sample(0, round)], &options, &ledger).await.unwrap();
            assert!(journal(&cluster) >= 1 << 20);
            sleep(IDLE / 2).await;
            assert!(journal(&cluster) >= 1 << 20, "too soon");
            sleep(IDLE).await;
            assert_eq!(journal(&cluster), 128);
            assert_eq!(statuses(&client, &[ONE]).await.unwrap()[&ONE].journal_bytes, 128);
        }
        for keep in [Keep::Synced, Keep::All] {
            cluster.crash(ONE, keep);
            cluster.wait_up(&client, &[]).await;
            cluster.restart(ONE).await;
            cluster.wait_up(&client, &[ONE]).await;
            let text = export(&client, "db", Some(ONE)).await.unwrap();
            ledger.check(&[(ONE, text)]).assert_whole();
        }
        cluster.finish().await;
    });
}
