//! A shard whose disk fails under a running node: syncs of its environment fail, by `strace`.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use quorate_client::{WriteOptions, error::WriteErrorKind};
use quorate_protocol::{code::Code, id::NodeId};
use quorate_tests::harness::{
    history::Ledger,
    limit::real,
    load::{sample, write},
    observe::{PATIENCE, create_database, exports, statuses, wait_for, wait_healthy, wait_until},
    process::Processes,
};

use crate::sync::strace;

const ONE: NodeId = NodeId(1);
const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
const QUICK: &str = "
housekeeping_s = 1
[shard]
fold_age_ms = 50
";

/// The environments there are.
fn environments(data: &Path) -> BTreeSet<PathBuf> {
    let shards = fs::read_dir(data.join("shards")).into_iter().flatten();
    shards
        .map(|shard| shard.unwrap().path().join("data.mdb"))
        .filter(|path| path.exists())
        .collect()
}

#[test]
fn a_failed_sync_of_a_shard_poisons_that_shard_only_and_a_restart_recovers_it() {
    if !strace() {
        return;
    }
    real(async {
        let mut cluster = Processes::start_with(BINARY, 1, QUICK).await;
        let client = cluster.client().await;
        let (bad, good) = (Ledger::new(), Ledger::new());
        let data = cluster.data(ONE);
        let options = WriteOptions { timeout: Duration::from_secs(5), ..WriteOptions::default() };
        create_database(&client, "bad", 1).await;
        write(&client, "bad", &[sample(0, 0)], &options, &bad).await.unwrap();
        wait_until("the first shard is folded", async || environments(&data).len() == 1).await;
        let victim = environments(&data).pop_first().unwrap();
        create_database(&client, "good", 1).await;
        write(&client, "good", &[sample(0, 0)], &options, &good).await.unwrap();
        wait_until("the second shard is folded", async || environments(&data).len() == 2).await;
        // A node that ends waits for its clients a while.
        client.close().await;
        cluster.terminate(ONE).await;

        let trace = cluster.root().join("n1.trace");
        let mut wrapper: Vec<OsString> =
            ["strace", "-f", "-y", "-e", "trace=fdatasync,fsync,msync"].map(Into::into).into();
        wrapper.extend(["-e".into(), "inject=fdatasync,fsync,msync:error=EIO".into()]);
        wrapper.extend(["-P".into(), victim.clone().into(), "-o".into(), trace.clone().into()]);
        cluster.restart_under(ONE, &wrapper).await;
        let client = cluster.client().await;
        wait_healthy(&client, &[ONE]).await;
        // The journal is well, so this is acknowledged; folding it fails.
        write(&client, "bad", &[sample(0, 1)], &options, &bad).await.unwrap();
        let error = wait_for("the shard refuses writes", PATIENCE, async || {
            let next = sample(0, 1000);
            write(&client, "bad", &[next], &options, &bad).await.err().ok_or_else(|| "no".into())
        })
        .await;
        assert_eq!((error.kind(), error.code()), (WriteErrorKind::Definite, Code::Poisoned));
        // What was taken before its first fold failed.
        let stuck = statuses(&client, &[ONE]).await.unwrap()[&ONE].fresh_bytes;
        let text = fs::read_to_string(&trace).unwrap();
        assert!(text.contains("(INJECTED)"), "no sync has failed: {text}");
        // Commits; when it closes, the store looks at whether the file's time of change is durable.
        let commits = |text: &str| {
            text.lines()
                .filter(|line| line.contains("fdatasync") && line.contains("INJECTED"))
                .count()
        };
        let failed = commits(&text);
        for n in 2..5 {
            let error = write(&client, "bad", &[sample(0, n)], &options, &bad).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (WriteErrorKind::Definite, Code::Poisoned));
            write(&client, "good", &[sample(0, n)], &options, &good).await.unwrap();
        }
        // The other shard is folded as ever; what the bad one has not folded, the journal keeps.
        wait_for("the good shard is folded", PATIENCE, async || {
            let status = &statuses(&client, &[ONE]).await?[&ONE];
            assert!(!status.poisoned, "one shard's disk failure stops the node");
            let left = status.fresh_bytes;
            if left <= stuck { Ok(()) } else { Err(format!("{left} bytes are fresh, not {stuck}")) }
        })
        .await;
        // Reads go on for both.
        bad.check(&exports(&client, "bad", &[ONE]).await).assert_whole();
        good.check(&exports(&client, "good", &[ONE]).await).assert_whole();
        client.close().await;
        cluster.terminate(ONE).await;
        let text = fs::read_to_string(&trace).unwrap();
        assert_eq!(commits(&text), failed, "it was synced again: {text}");

        cluster.restart(ONE).await;
        let client = cluster.client().await;
        wait_healthy(&client, &[ONE]).await;
        write(&client, "bad", &[sample(0, 7)], &options, &bad).await.unwrap();
        wait_until("all is folded", async || {
            statuses(&client, &[ONE]).await.is_ok_and(|all| all[&ONE].fresh_bytes == 0)
        })
        .await;
        bad.check(&exports(&client, "bad", &[ONE]).await).assert_whole();
        good.check(&exports(&client, "good", &[ONE]).await).assert_whole();
        client.close().await;
    });
}
