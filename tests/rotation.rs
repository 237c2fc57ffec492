//! Certificates, the CA and revocations that change under a running cluster of processes.
//!
//! Nothing is restarted here: nobody who belongs notices, and whoever does not is out.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quorate_client::{Client, ClientConfig, WriteOptions, config::CertificatesConfig};
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    history::Ledger,
    limit::real,
    load::{Writer, sample, write},
    observe::{create_database, exports, wait_drained, wait_for, wait_healthy},
    process::{Ended, Processes},
};
use rustix::process::{Pid, Signal, kill_process};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
/// How long a change may take to reach everybody.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a node's log says of a change that it took.
const TAKEN: &str = "certificates taken from";
/// Followed often, and connections are replaced at once.
const OFTEN: &str = "[certificates]\npoll = \"200ms\"\n[transport]\nrenew_spread = \"300ms\"\n";

/// A client that follows its folder.
async fn client_of(cluster: &Processes, folder: &Path) -> Result<Client, String> {
    let seeds: Vec<&str> = cluster.ids().iter().map(|id| cluster.addr(*id)).collect();
    let mut config = ClientConfig {
        certificates: CertificatesConfig {
            poll: Duration::from_millis(200),
            ..CertificatesConfig::default()
        },
        ..ClientConfig::default()
    };
    config.transport.renew_spread = Duration::from_millis(300);
    let client = Client::builder().seeds(seeds).certificates(folder).config(config);
    client.connect().await.map_err(|error| error.to_string())
}

/// Runs `quorate certs` in the cluster's folder.
async fn certs(cluster: &Processes, words: &[&str]) -> Ended {
    let mut args: Vec<OsString> = vec!["certs".into()];
    args.extend(words.iter().map(Into::into));
    args.extend(["--dir".into(), cluster.pki().into()]);
    cluster.run(&args).await
}

async fn certs_done(cluster: &Processes, words: &[&str]) {
    let ended = certs(cluster, words).await;
    assert_eq!(ended.code, Some(0), "{words:?}: {}", ended.stderr);
}

fn counts(cluster: &Processes, what: &str) -> Vec<usize> {
    cluster.ids().iter().map(|id| cluster.log(*id).matches(what).count()).collect()
}

/// Runs `quorate certs`, and waits until every node has taken what came of it.
async fn certs_taken(cluster: &Processes, words: &[&str]) {
    let before = counts(cluster, TAKEN);
    certs_done(cluster, words).await;
    wait_for("taken by all nodes", PATIENCE, async || {
        let now = counts(cluster, TAKEN);
        let all = now.iter().zip(&before).all(|(now, before)| now > before);
        if all { Ok(()) } else { Err(format!("{now:?}, {before:?} before")) }
    })
    .await;
}

fn copy(from: &Path, to: PathBuf) -> PathBuf {
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn the_ca_and_all_certificates_change_under_load_and_no_write_fails() {
    real(async {
        let mut cluster = Processes::start_with(BINARY, 3, OFTEN).await;
        let tester = cluster.pki().join("tester");
        certs_done(&cluster, &["client", "--name", "tester", "--role", "admin"]).await;
        let client = client_of(&cluster, &tester).await.unwrap();
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let writers: Vec<Writer> = (1..=3)
            .map(|number| {
                let pause = Duration::from_millis(2);
                Writer::start(&client, "db", number, 10, pause, options.clone(), &ledger)
            })
            .collect();
        let acked = async |more| {
            for writer in &writers {
                writer.acked(more).await;
            }
        };
        acked(20).await;
        let old = copy(&tester, cluster.root().join("old"));

        for _ in 0..2 {
            certs_taken(&cluster, &["renew", "--all"]).await;
            acked(20).await;
        }
        certs_taken(&cluster, &["rollover"]).await;
        acked(20).await;
        let early = certs(&cluster, &["rollover", "--finish"]).await;
        assert_eq!(early.code, Some(1));
        assert!(early.stderr.contains("still needed by n1, n2, n3, tester"), "{}", early.stderr);
        let connections =
            || -> BTreeSet<u64> { client.traffic().iter().map(|node| node.connection).collect() };
        let before = connections();
        certs_taken(&cluster, &["renew", "--all"]).await;
        wait_for("connections with new certificates", PATIENCE, async || {
            let now = connections();
            let new = now.len() == 3 && now.is_disjoint(&before);
            if new { Ok(()) } else { Err(format!("{now:?}, {before:?} before")) }
        })
        .await;
        acked(20).await;
        certs_taken(&cluster, &["rollover", "--finish"]).await;
        acked(50).await;

        let mut done = Vec::new();
        for writer in writers {
            done.extend(writer.stop().await);
        }
        let failed: Vec<_> = done.iter().filter_map(|write| write.error.as_ref()).collect();
        assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), done.len(), failed.first());
        let slowest = done.iter().map(|write| write.took).max().unwrap();
        println!("{} writes, none failed, the slowest took {slowest:?}", done.len());

        // Both sides look at the other: the old CA is nobody's any more.
        let refused = client_of(&cluster, &old).await.unwrap_err();
        assert!(refused.contains("another CA"), "{refused}");
        let ids = cluster.ids();
        wait_healthy(&client, &ids).await;
        assert!(client.settle(Duration::from_secs(60)).await, "background work goes on");
        wait_drained(&client, &ids).await;
        ledger.check(&exports(&client, "db", &ids).await).assert_whole();
        for node in ids {
            let log = cluster.log(node);
            assert!(!log.contains("certificates not taken"), "{log}");
        }
        client.close().await;
        for node in cluster.ids() {
            cluster.terminate(node).await;
        }
    });
}

#[test]
fn who_is_revoked_is_out_at_once_on_a_signal_and_half_a_file_changes_nothing() {
    real(async {
        // Nobody looks without a signal.
        let never = "[certificates]\npoll = \"1h\"\n";
        let cluster = Processes::start_with(BINARY, 3, never).await;
        let signal = || {
            for node in cluster.ids() {
                kill_process(Pid::from_raw(cluster.pid(node)).unwrap(), Signal::HUP).unwrap();
            }
        };
        for name in ["app", "ops"] {
            certs_done(&cluster, &["client", "--name", name, "--role", "admin"]).await;
        }
        let (app, ops) = (cluster.pki().join("app"), cluster.pki().join("ops"));
        let thief = copy(&app, cluster.root().join("thief"));
        let (thief, ops) =
            (client_of(&cluster, &thief).await.unwrap(), client_of(&cluster, &ops).await.unwrap());
        create_database(&ops, "db", 3).await;
        let (options, ledger) = (WriteOptions::default(), Ledger::new());
        write(&thief, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();

        certs_done(&cluster, &["revoke", "--name", "app"]).await;
        write(&thief, "db", &[sample(0, 1)], &options, &ledger).await.unwrap();
        signal();
        for node in cluster.ids() {
            wait_for("the revoked client is told", PATIENCE, async || {
                let log = cluster.log(node);
                let said = "closed connection of spiffe://tested/client/app?role=admin";
                let told = log.lines().any(|line| line.contains(said) && line.contains("revoked"));
                if told { Ok(()) } else { Err(log) }
            })
            .await;
        }
        let failed = write(&thief, "db", &[sample(0, 2)], &options, &ledger).await.unwrap_err();
        assert!(!failed.failed.is_empty(), "{failed}");
        drop(thief);
        let again = client_of(&cluster, &cluster.root().join("thief")).await.unwrap_err();
        assert!(again.contains("revoked"), "{again}");
        write(&ops, "db", &[sample(1, 0)], &options, &ledger).await.unwrap();
        // The name is not out, its old certificate is.
        certs_done(&cluster, &["renew", "--name", "app"]).await;
        client_of(&cluster, &app).await.unwrap().close().await;

        // Half of a file on one node.
        let one = NodeId(1);
        let file = cluster.pki().join("n1/tls.crt");
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        signal();
        wait_for("half a file is told of", PATIENCE, async || {
            let log = cluster.log(one);
            let told = log.contains("certificates not taken, the ones in use stay");
            if told { Ok(()) } else { Err(log) }
        })
        .await;
        wait_healthy(&ops, &cluster.ids()).await;
        let fresh = client_of(&cluster, &cluster.pki().join("ops")).await.unwrap();
        write(&fresh, "db", &[sample(1, 1)], &options, &ledger).await.unwrap();
        fs::write(&file, &whole).unwrap();

        // How long they last is told.
        let before = expiry(&cluster, one).await;
        let taken = counts(&cluster, TAKEN);
        certs_done(&cluster, &["renew", "--name", "n1", "--days", "20"]).await;
        signal();
        wait_for("the new certificate", PATIENCE, async || {
            let now = counts(&cluster, TAKEN);
            if now[0] > taken[0] { Ok(()) } else { Err(cluster.log(one)) }
        })
        .await;
        let now = expiry(&cluster, one).await;
        assert!(now < before, "{now} {before}");
        let log = cluster.log(one);
        assert!(log.contains("the certificate of spiffe://tested/node/n1 expires on"), "{log}");
        let text = cluster.quorate(&["status"]).await.stdout;
        assert!(text.contains("certificates: n1's ends first, on "), "{text}");
        fresh.close().await;
        ops.close().await;
    });
}

/// When a node's certificate ends, as `status --json` tells it.
async fn expiry(cluster: &Processes, node: NodeId) -> u64 {
    let ended = cluster.quorate(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|found| found["id"] == node.0).unwrap();
    node["certificate_expires_s"].as_u64().unwrap()
}
