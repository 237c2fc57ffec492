//! Limits that must hold while everything else goes on: the age of hints, the rate of drains, the
//! settings of a configuration file.

use std::{ffi::OsString, time::Duration};

use quorate_client::{Client, WriteOptions};
use quorate_protocol::{
    consistency::Level,
    id::{NodeId, Version},
    message::Write,
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::{Ledger, first_difference},
    limit::{real, simulated},
    load::{EPOCH, sample, write},
    observe::{
        PATIENCE, create_database, exports, queues, total, wait_drained, wait_for, wait_healthy,
        wait_until,
    },
    process::Processes,
    raw::{Raw, encode, send},
};
use tokio::time::{Instant, sleep};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// Three nodes with hints that live for a minute, and a database with one row.
async fn short_lived(seed: u64) -> (Cluster, Client, Ledger) {
    let plan = Plan::of(3).configured(|_, config| config.handoff.max_age_seconds = 60);
    let mut cluster = Cluster::simulated_with(plan, seed).await;
    let client = cluster.client().await;
    let ledger = Ledger::new();
    create_database(&client, "db", 3).await;
    let all = WriteOptions::at(Level::All);
    write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
    (cluster, client, ledger)
}

#[test]
fn f01_old_hints_expire_while_appends_and_retries_go_on() {
    simulated(async {
        let (cluster, client, ledger) = short_lived(111).await;
        // A target that lets itself be found and then says nothing keeps the retries busy.
        cluster.isolate(THREE);
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let options = WriteOptions::default();
        let begun = Instant::now();
        let mut n = 0;
        let mut most = 0;
        while begun.elapsed() < Duration::from_secs(300) {
            n += 1;
            write(&client, "db", &[sample(1, n)], &options, &ledger).await.unwrap();
            if n % 50 == 0 {
                most = most.max(total(&queues(&client, &[ONE, TWO]).await.unwrap()).pending);
            }
            sleep(Duration::from_millis(200)).await;
        }
        let sum = total(&queues(&client, &[ONE, TWO]).await.unwrap());
        // Five hints a second for a minute, and for the minute until the next round.
        assert!(sum.expired > 1_000, "hints of five minutes are kept: {sum:?}");
        assert!(sum.pending > 200 && most < 700, "{most} at most, {sum:?}");
        // The others are delivered; what expired is missing there, and only there.
        cluster.rejoin(THREE);
        wait_healthy(&client, &cluster.ids()).await;
        let drained = wait_drained(&client, &cluster.ids()).await;
        assert!(drained.delivered > 200, "{drained:?}");
        ledger.check(&exports(&client, "db", &[ONE, TWO]).await).assert_whole();
        assert!(first_difference(&exports(&client, "db", &cluster.ids()).await).is_some());
        cluster.finish().await;
    });
}

#[test]
fn f01_hints_of_a_shard_that_is_busy_for_long_expire_while_the_connection_lasts() {
    simulated(async {
        let plan = Plan::of(3).configured(|_, config| {
            config.handoff.max_age_seconds = 60;
            config.shard.fold_age_ms = 100;
            config.drain.aside_records = 250;
        });
        let mut cluster = Cluster::simulated_with(plan, 114).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        let all = WriteOptions::at(Level::All);
        for database in ["broken", "sound"] {
            create_database(&client, database, 3).await;
            write(&client, database, &[sample(0, 0)], &all, &ledger).await.unwrap();
        }
        let map = client.map();
        let (probe, _) = encode(&map, "broken", &[sample(0, 0)], Version(1));
        let shard = probe.shard;
        let file = cluster.data(THREE).join("shards").join(shard.to_string()).join("data.mdb");
        let length = || std::fs::metadata(&file).map_or(0, |file| file.len());
        wait_until("the first fold", async || length() >= 16 << 10).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let (any, quorum) = (WriteOptions::at(Level::Any), WriteOptions::default());
        for n in 1..=800 {
            let options = if n <= 3 { &any } else { &quorum };
            write(&client, "broken", &[sample(1, n)], options, &ledger).await.unwrap();
        }
        assert!(client.settle(PATIENCE).await);
        // Nearly all on one node.
        let held = total(&queues(&client, &[ONE, TWO]).await.unwrap());
        assert!(held.pending >= 803, "{held:?}");
        let broken = vec![0xa5; usize::try_from(length()).unwrap()];
        std::fs::write(&file, broken).unwrap();
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        // Node three is up all the time, and takes none of them.
        sleep(Duration::from_secs(30)).await;
        let sum = total(&queues(&client, &[ONE, TWO]).await.unwrap());
        assert_eq!(sum.pending, held.pending, "{sum:?}");
        sleep(Duration::from_secs(120)).await;
        let sum = total(&queues(&client, &[ONE, TWO]).await.unwrap());
        assert_eq!((sum.pending, sum.expired + sum.quarantined), (0, held.pending), "{sum:?}");
        assert!(sum.quarantined >= 3 && sum.expired >= 797, "{sum:?}");
        let marks = client.marks(ONE, PATIENCE).await.unwrap();
        assert!(marks.iter().any(|mark| (mark.shard, mark.owner) == (shard, THREE)), "{marks:?}");
        // What has ended so keeps no room among what is set aside: others are delivered at once.
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        for node in [ONE, TWO] {
            let version = Version(EPOCH.cast_unsigned() + node.0);
            let (request, bytes) = encode(&map, "sound", &[sample(3, node.0)], version);
            let request = Write { store: false, hint_for: vec![THREE], ..request };
            let written = send(&raw.connect(&map, node).await, &request, &bytes).await;
            assert_eq!(written.hints[0].answer.error, None);
        }
        wait_for("hints of the sound shard", Duration::from_secs(10), async || {
            let sum = total(&queues(&client, &[ONE, TWO]).await?);
            if (sum.pending, sum.delivered) == (0, 2) { Ok(()) } else { Err(format!("{sum:?}")) }
        })
        .await;
        cluster.finish().await;
    });
}

#[test]
fn f02_a_queue_purged_to_the_last_hint_takes_and_delivers_the_next() {
    simulated(async {
        let (mut cluster, client, ledger) = short_lived(112).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let options = WriteOptions::default();
        for n in 1..=5 {
            write(&client, "db", &[sample(1, n)], &options, &Ledger::new()).await.unwrap();
        }
        wait_for("everything expired", Duration::from_secs(200), async || {
            let sum = total(&queues(&client, &[ONE, TWO]).await?);
            if (sum.pending, sum.expired) == (0, 5) { Ok(()) } else { Err(format!("{sum:?}")) }
        })
        .await;
        let later = [sample(2, 1)];
        write(&client, "db", &later, &options, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        assert_eq!(total(&queues(&client, &[ONE, TWO]).await.unwrap()).pending, 1);
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        assert_eq!(wait_drained(&client, &cluster.ids()).await.delivered, 1);
        let text = &exports(&client, "db", &[THREE]).await[0].1;
        let line = String::from_utf8(later[0].to_line()).unwrap();
        assert!(text.contains(&line), "the hint behind the purge is lost: {text}");
        cluster.finish().await;
    });
}

/// How long three hundred hints take to drain at this rate, and how many bytes they are.
async fn drain_at(rate: u64, seed: u64) -> (Duration, u64) {
    let plan = Plan::of(3).configured(move |_, config| config.drain.rate_limit = rate);
    let mut cluster = Cluster::simulated_with(plan, seed).await;
    let client = cluster.client().await;
    let ledger = Ledger::new();
    create_database(&client, "db", 3).await;
    let all = WriteOptions::at(Level::All);
    write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
    cluster.stop(THREE).await;
    cluster.wait_up(&client, &[ONE, TWO]).await;
    let options = WriteOptions::default();
    for n in 1..=300 {
        write(&client, "db", &[sample(1, n)], &options, &ledger).await.unwrap();
    }
    assert!(client.settle(PATIENCE).await);
    let live = [ONE, TWO];
    let bytes = cluster
        .disk_bytes(&live, quorate_tests::harness::disk::HANDOFF, b"QREC")
        .expect("no hints on any disk");
    cluster.restart(THREE).await;
    wait_until("the drain has begun", async || {
        queues(&client, &live).await.is_ok_and(|all| total(&all).delivered > 0)
    })
    .await;
    let begun = Instant::now();
    wait_for("all hints delivered", Duration::from_secs(3600), async || {
        let sum = total(&queues(&client, &live).await?);
        if sum.pending == 0 { Ok(()) } else { Err(format!("{sum:?}")) }
    })
    .await;
    let took = begun.elapsed();
    cluster.finish().await;
    (took, bytes)
}

#[test]
fn f11_the_drain_keeps_to_the_rate_limit_that_was_set() {
    let (slow, bytes) = simulated(drain_at(2_000, 113));
    let (fast, _) = simulated(drain_at(20_000, 113));
    // Two holders, each at its own rate. What is sent at once before the first look is at most one message.
    let least = Duration::from_secs_f64(bytes as f64 / 2.0 / 2_000.0 / 2.0);
    assert!(slow > least, "{bytes} bytes at 2,000 a second took {slow:?} only");
    assert!(fast * 4 < slow, "ten times the rate: {fast:?} instead of {slow:?}");
}

#[test]
fn f11_an_unknown_or_wrong_setting_is_refused_by_name() {
    real(async {
        let cluster = Processes::start(env!("CARGO_BIN_EXE_quorate-under-test"), 1).await;
        let certs = cluster.issue_node("n2");
        for (text, word) in [
            ("[handoff]\nmax_byte = 5\n", "max_byte"),
            ("[drain]\nrate_limit = \"fast\"\n", "line 2"),
            ("listen = 5\n", "line 1"),
            ("durability = \"never\"\n", "interval(50ms)"),
        ] {
            let file = cluster.root().join("quorate.toml");
            std::fs::write(&file, text).unwrap();
            let mut args: Vec<OsString> = vec!["node".into(), "--config".into(), file.into()];
            args.extend(["--data".into(), cluster.root().join("d").into()]);
            args.extend(["--listen".into(), "127.0.0.1:0".into(), "--bootstrap".into()]);
            args.extend(["--certs".into(), certs.clone().into()]);
            let ended = cluster.run(&args).await;
            assert_eq!(ended.code, Some(2), "{}", ended.stderr);
            assert!(ended.stderr.contains(word), "{}", ended.stderr);
            assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
        }
    });
}

#[test]
fn f25_no_code_looks_at_the_text_of_an_error() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let looks = ["contains(", "starts_with(", "ends_with(", "find(", "=="];
    let mut looked_at = 0;
    let mut todo: Vec<_> =
        ["protocol", "certs", "client", "node"].map(|name| root.join(name).join("src")).into();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // Tests may look at what people will read.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_test = path.components().any(|part| {
            matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "vectors.rs"))
        });
        if is_test {
            continue;
        }
        looked_at += 1;
        for (number, line) in code.lines().enumerate() {
            for text in ["error.to_string().", "err.to_string().", ".detail.", "reason."] {
                let Some((_, rest)) = line.split_once(text) else {
                    continue;
                };
                let looks = looks.iter().any(|look| rest.starts_with(look));
                assert!(!looks, "{} line {}: {line}", path.display(), number + 1);
            }
        }
    }
    assert!(looked_at > 100, "{looked_at} files: the sources are not where they were");
}
