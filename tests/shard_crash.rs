//! A node killed again and again while it folds and merges all the time.

use std::{fs, path::Path, sync::Arc, time::Duration};

use quorate_client::{Client, WriteOptions};
use quorate_node::shard::verify_dir;
use quorate_protocol::{id::NodeId, point::Point};
use quorate_tests::harness::{
    history::Ledger,
    limit::{real, soak},
    load::{Writer, sample, write},
    observe::{create_database, exports, statuses, wait_for, wait_healthy},
    process::Processes,
};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

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
txn_bytes = 512
map_bytes = 131072
[journal]
segment_bytes = 4096
spare_segments = 1
";

fn stored_bytes(data: &Path) -> u64 {
    let dirs = fs::read_dir(data.join("shards")).into_iter().flatten().flatten();
    dirs.filter_map(|dir| fs::metadata(dir.path().join("data.mdb")).ok())
        .map(|meta| meta.len())
        .sum()
}

/// What verifications of a node that was killed have seen, all of them together.
#[derive(Debug, Default)]
struct Seen {
    shards: u64,
    blocks: u64,
    /// Shards with blocks of runs that were not ready, or not deleted yet.
    amid_work: u64,
}

impl Seen {
    /// Every checksum and invariant of what a node has left that runs no more.
    fn verify(&mut self, data: &Path, when: &str) {
        for shard in fs::read_dir(data.join("shards")).unwrap() {
            let path = shard.unwrap().path();
            let report = verify_dir(&path)
                .unwrap_or_else(|error| panic!("{when}, {}: {error}", path.display()));
            assert!(report.is_good(), "{when}, {}: {:#?}", path.display(), report.problems);
            self.shards += 1;
            self.blocks += report.blocks;
            self.amid_work += u64::from(report.garbage_blocks > 0);
        }
    }
}

/// Writes rows of series that nobody has seen before, until it is told to stop; how many batches were
/// acknowledged.
fn newcomers(
    client: &Client,
    database: String,
    number: u64,
    options: WriteOptions,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
) -> JoinHandle<usize> {
    let (client, ledger, stop) = (client.clone(), Arc::clone(ledger), stop.clone());
    tokio::spawn(async move {
        let (mut writer, mut acked) = (1000 * number, 0);
        while !stop.is_cancelled() {
            writer += 1;
            let points: Vec<Point> = (0..8).map(|n| sample(writer, n)).collect();
            let written = write(&client, &database, &points, &options, &ledger).await;
            acked += usize::from(written.is_ok());
            sleep(Duration::from_millis(20)).await;
        }
        acked
    })
}

#[test]
fn a_node_killed_again_and_again_under_load_loses_nothing_acknowledged() {
    real(async {
        let mut cluster = Processes::start_with(BINARY, 1, BUSY).await;
        let (data, mut seen) = (cluster.data(ONE), Seen::default());
        let ledgers: Vec<_> = (0..3).map(|_| Arc::new(Ledger::new())).collect();
        let name = |number: usize| format!("db{number}");
        let client = cluster.client().await;
        for (number, ledger) in ledgers.iter().enumerate() {
            create_database(&client, &name(number), 1).await;
            write(&client, &name(number), &[sample(0, 0)], &WriteOptions::default(), ledger)
                .await
                .unwrap();
        }
        client.close().await;
        // What is under way at a kill is waited for.
        let options =
            WriteOptions { timeout: Duration::from_millis(300), ..WriteOptions::default() };
        let (rounds, mut kills) = (soak(14), 0);
        let mut luck = 0x9e37_79b9_7f4a_7c15_u64;
        let mut ends = Vec::new();
        for round in 0..rounds {
            // A client of its own, which need not find out first that the last node was killed.
            let client = cluster.client().await;
            let (mut writers, mut others, stop) =
                (Vec::new(), Vec::new(), CancellationToken::new());
            for (at, ledger) in ledgers.iter().enumerate() {
                let (pause, options) = (Duration::from_millis(2), options.clone());
                let number = round as u64 + 1;
                others.push(newcomers(&client, name(at), number, options.clone(), ledger, &stop));
                writers.push(Writer::start(&client, &name(at), number, 6, pause, options, ledger));
            }
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            writers[round % 3].acked((luck >> 59) as usize).await;
            sleep(Duration::from_micros(luck >> 47 & 0xffff)).await;
            cluster.kill(ONE).await;
            kills += 1;
            seen.verify(&data, &format!("after kill {kills}"));
            cluster.restart(ONE).await;
            // Again while it folds what it has read back, and gives up what it takes for folded.
            if round % 2 == 0 {
                sleep(Duration::from_micros(luck >> 50)).await;
                cluster.kill(ONE).await;
                kills += 1;
                seen.verify(&data, &format!("after kill {kills}"));
                cluster.restart(ONE).await;
            }
            // Ends within a second or two, which the next round need not wait for.
            ends.push(tokio::spawn(async move {
                stop.cancel();
                let mut batches = 0;
                for writer in writers {
                    let done = writer.stop().await;
                    batches += done.iter().filter(|done| done.error.is_none()).count();
                }
                for other in others {
                    batches += other.await.unwrap();
                }
                client.close().await;
                batches
            }));
        }
        let mut batches = 0;
        for end in ends {
            batches += end.await.unwrap();
        }
        let client = cluster.client().await;
        wait_for("everything is folded", Duration::from_secs(60), async || {
            let fresh = statuses(&client, &[ONE]).await?[&ONE].fresh_bytes;
            if fresh == 0 { Ok(()) } else { Err(format!("{fresh} bytes are fresh")) }
        })
        .await;
        assert!(stored_bytes(&data) > 0);
        let check = async |client| {
            for (at, ledger) in ledgers.iter().enumerate() {
                ledger.check(&exports(client, &name(at), &[ONE]).await).assert_whole();
            }
        };
        check(&client).await;
        client.close().await;
        cluster.terminate(ONE).await;
        seen.verify(&data, "at the end");
        cluster.restart(ONE).await;
        let client = cluster.client().await;
        wait_healthy(&client, &[ONE]).await;
        check(&client).await;
        let acked: usize = ledgers.iter().map(|ledger| ledger.acked()).sum();
        println!("{acked} values in {batches} batches acknowledged over {kills} kills");
        println!("{seen:?}");
        assert!(seen.amid_work > 0, "no kill hit a fold or a merge");
        client.close().await;
    });
}
