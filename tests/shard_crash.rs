//! A node killed again and again while it folds and merges all the time.

use std::{fs, path::Path, sync::Arc, time::Duration};

use quorate_client::WriteOptions;
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    history::Ledger,
    limit::{real, soak},
    load::{Writer, sample, write},
    observe::{create_database, exports, statuses, wait_for, wait_healthy},
    process::Processes,
};
use tokio::time::sleep;

const ONE: NodeId = NodeId(1);
const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
/// Every limit so small that folds and merges never rest.
const BUSY: &str = "
housekeeping_s = 1
[shard]
max_open_shards = 2
fold_bytes = 512
fold_age_ms = 10
merge_runs = 2
block_rows = 16
txn_bytes = 2048
map_bytes = 131072
[journal]
segment_bytes = 65536
spare_segments = 1
";

fn stored_bytes(data: &Path) -> u64 {
    let dirs = fs::read_dir(data.join("shards")).into_iter().flatten().flatten();
    dirs.filter_map(|dir| fs::metadata(dir.path().join("data.mdb")).ok())
        .map(|meta| meta.len())
        .sum()
}

#[test]
fn a_node_killed_again_and_again_under_load_loses_nothing_acknowledged() {
    real(async {
        let mut cluster = Processes::start_with(BINARY, 1, BUSY).await;
        let client = cluster.client().await;
        let ledgers: Vec<_> = (0..3).map(|_| Arc::new(Ledger::new())).collect();
        let options = WriteOptions { timeout: Duration::from_secs(1), ..WriteOptions::default() };
        let name = |number: usize| format!("db{number}");
        let mut writers = Vec::new();
        for (number, ledger) in ledgers.iter().enumerate() {
            create_database(&client, &name(number), 1).await;
            write(&client, &name(number), &[sample(0, 0)], &WriteOptions::default(), ledger)
                .await
                .unwrap();
            let pause = Duration::from_millis(2);
            let number_of_writer = number as u64 + 1;
            let (name, options) = (name(number), options.clone());
            writers.push(Writer::start(
                &client,
                &name,
                number_of_writer,
                6,
                pause,
                options,
                ledger,
            ));
        }
        let mut luck = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..soak(10) {
            writers[round % 3].acked(5).await;
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            sleep(Duration::from_micros(luck >> 47)).await;
            cluster.kill(ONE).await;
            cluster.restart(ONE).await;
        }
        for writer in &writers {
            writer.acked(5).await;
        }
        for writer in writers {
            writer.stop().await;
        }
        wait_healthy(&client, &[ONE]).await;
        wait_for("everything is folded", Duration::from_secs(60), async || {
            let fresh = statuses(&client, &[ONE]).await?[&ONE].fresh_bytes;
            if fresh == 0 { Ok(()) } else { Err(format!("{fresh} bytes are fresh")) }
        })
        .await;
        assert!(stored_bytes(&cluster.data(ONE)) > 0);
        let check = async |client| {
            for (number, ledger) in ledgers.iter().enumerate() {
                ledger.check(&exports(client, &name(number), &[ONE]).await).assert_whole();
            }
        };
        check(&client).await;
        cluster.terminate(ONE).await;
        cluster.restart(ONE).await;
        wait_healthy(&client, &[ONE]).await;
        check(&client).await;
        let acked: usize = ledgers.iter().map(|ledger| ledger.acked()).sum();
        println!("{acked} values acknowledged over {} kills", soak(10));
        client.close().await;
    });
}
