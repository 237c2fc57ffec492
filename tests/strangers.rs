//! Wrong certificates, directories and ports: each is one line that says what to do, on the side
//! that is wrong, and the cluster goes on.

use std::{ffi::OsString, path::Path, time::Duration};

use quorate_certs::{Authority, Config, Existing, Roles, UnixTime};
use quorate_client::{ClientConfig, WriteOptions};
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    cluster::{Cluster, NAME},
    history::Ledger,
    limit::{real, simulated},
    load::{sample, write},
    observe::{create_database, exports, statuses},
    process::{Ended, Processes},
};
use tokio::time::Instant;

const ONE: NodeId = NodeId(1);
const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

/// The one line on which a failed start ends; logs may stand before it.
#[track_caller]
fn reason(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let line = ended.stderr.lines().last().unwrap_or_default();
    assert!(line.starts_with("quorate: "), "{}", ended.stderr);
    for word in words {
        assert!(line.contains(word), "no {word:?} in: {line}");
    }
    let errors = ended.stderr.lines().filter(|line| line.starts_with("quorate: "));
    assert_eq!(errors.count(), 1, "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

/// A CA of its own with one node and one client.
fn other_pki(dir: &Path, cluster: &str) {
    let now = UnixTime::now();
    let authority =
        Authority::create(dir, cluster, Config::default(), now, Existing::Refuse).unwrap();
    authority.issue_node(dir, "n9", &[], now, Existing::Refuse).unwrap();
    authority.issue_client(dir, "c9", Roles::default(), now, Existing::Refuse).unwrap();
}

fn node(data: &Path, certs: &Path, listen: &str, mode: &[&str]) -> Vec<OsString> {
    let mut args: Vec<OsString> =
        vec!["node".into(), "--data".into(), data.into(), "--certs".into(), certs.into()];
    args.extend(["--listen", listen].iter().chain(mode).map(Into::into));
    args
}

#[test]
fn nodes_that_do_not_belong_here_are_told_why_and_change_nothing() {
    real(async {
        let mut cluster = Processes::start(BINARY, 1).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 1).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let member = cluster.addr(ONE).to_owned();
        let root = cluster.root().to_owned();
        let any = "127.0.0.1:0";

        // Another CA, first with another cluster name, then with ours.
        let begun = Instant::now();
        for name in ["elsewhere", NAME] {
            let pki = root.join(format!("pki-{name}"));
            other_pki(&pki, name);
            let data = root.join(format!("data-{name}"));
            let join = ["--join", &member];
            let ended = cluster.run(&node(&data, &pki.join("n9"), any, &join)).await;
            reason(&ended, &["could not join", "certificate", "of another CA"]);
        }
        // That no retry helps is known: nothing waits for the minute that joining may take.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());

        // A client's certificate.
        let me = cluster.issue_client("me");
        let ended = cluster.run(&node(&root.join("d1"), &me, any, &["--bootstrap"])).await;
        reason(&ended, &["not for a node", "quorate certs node"]);

        // No certificate at all.
        let nowhere = root.join("nowhere");
        let ended = cluster.run(&node(&root.join("d2"), &nowhere, any, &["--bootstrap"])).await;
        reason(&ended, &["nowhere", "quorate certs"]);

        // In no cluster, and told neither to make nor to join one.
        let n2 = cluster.issue_node("n2");
        let ended = cluster.run(&node(&root.join("d3"), &n2, any, &[])).await;
        reason(&ended, &["--bootstrap", "--join"]);

        // A port that is taken.
        let ended = cluster.run(&node(&root.join("d4"), &n2, &member, &["--bootstrap"])).await;
        reason(&ended, &[&member, "in use"]);

        // A directory that is in use; then that of another node, another cluster, the future.
        let data = cluster.data(ONE);
        let n1 = cluster.pki().join("n1");
        let ended = cluster.run(&node(&data, &n1, any, &[])).await;
        reason(&ended, &["in use by another process"]);
        assert!(cluster.log(ONE).lines().all(|line| !line.contains("panicked")));
        cluster.terminate(ONE).await;
        let ended = cluster.run(&node(&data, &n2, any, &[])).await;
        reason(&ended, &["belongs to node \"n1\"", "\"n2\""]);
        let elsewhere = root.join("pki-elsewhere/n9");
        let ended = cluster.run(&node(&data, &elsewhere, any, &[])).await;
        reason(&ended, &["belongs to cluster", NAME, "elsewhere"]);
        let file = data.join("identity.json");
        let identity = std::fs::read_to_string(&file).unwrap();
        let newer = identity.replacen("\"format\": 1", "\"format\": 2", 1);
        assert_ne!(newer, identity);
        std::fs::write(&file, newer).unwrap();
        let ended = cluster.run(&node(&data, &n1, any, &[])).await;
        reason(&ended, &["format 2", "upgrade"]);
        std::fs::write(&file, identity).unwrap();

        // After all that the node is as it was.
        cluster.restart(ONE).await;
        ledger.check(&exports(&client, "db", &[ONE]).await).assert_whole();
        assert_eq!(client.map().nodes.len(), 1, "a stranger has become a member");
        client.close().await;
        cluster.terminate(ONE).await;
    });
}

#[test]
fn clients_of_another_ca_or_cluster_are_refused_with_a_reason() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 81).await;
        let client = cluster.client().await;
        for name in ["elsewhere", NAME] {
            let begun = Instant::now();
            let error = cluster.client_of_other_ca(name).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains("certificate") && text.contains("of another CA"), "{text}");
            assert!(text.contains("ca.crt") || text.contains("quorate certs"), "{text}");
            assert!(!text.contains('\n'), "{text}");
            assert!(
                begun.elapsed() <= ClientConfig::default().connect_timeout + Duration::from_secs(2)
            );
        }
        assert!(statuses(&client, &[ONE]).await.is_ok());
        cluster.finish().await;
    });
}

#[test]
fn a_client_may_do_what_its_roles_say_and_no_more() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 82).await;
        let admin = cluster.client().await;
        create_database(&admin, "db", 1).await;
        let ledger = Ledger::new();
        let options = WriteOptions::default();
        write(&admin, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let reader = [quorate_certs::Role::Read].into_iter().collect();
        let credentials =
            cluster.authority().issue_client_in_memory("reader", reader, UnixTime::now()).unwrap();
        let reader = cluster.client_as(credentials, ClientConfig::default()).await.unwrap();
        let error = write(&reader, "db", &[sample(0, 1)], &options, &ledger).await.unwrap_err();
        assert_eq!(error.code(), quorate_protocol::code::Code::Unauthorised, "{error}");
        assert_eq!(error.kind(), quorate_client::error::WriteErrorKind::Definite, "{error}");
        ledger.check(&exports(&reader, "db", &[ONE]).await).assert_whole();
        reader.close().await;
        cluster.finish().await;
    });
}
