//! `quorate status` as operators and scripts use it, against processes: any node is enough to ask,
//! what is missing is told, and watching gives one block per look.

use std::{ffi::OsString, process::Stdio, time::Duration};

use quorate_client::WriteOptions;
use quorate_protocol::{consistency::Level, id::NodeId};
use quorate_tests::harness::{
    history::Ledger,
    limit::real,
    load::{sample, write},
    observe::{create_database, wait_for, wait_until},
    process::{Ended, Processes},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
const ONE: NodeId = NodeId(1);
const THREE: NodeId = NodeId(3);

/// The words of a command that knows this one node only.
fn through(cluster: &Processes, node: NodeId, args: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = args.iter().map(Into::into).collect();
    words.extend(["--connect".into(), cluster.addr(node).into()]);
    words.extend(["--certs".into(), cluster.pki().join("operator").into()]);
    words
}

fn object(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"))
}

/// Waits for a state within a second, in vain: what the command said.
async fn in_vain(cluster: &Processes, state: &str) -> String {
    let ended = cluster.quorate(&["status", "--wait", state, "--timeout", "1s"]).await;
    assert_eq!((ended.code, &ended.stdout[..]), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.starts_with("quorate: gave up after 1s: "), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    ended.stderr
}

#[test]
fn any_node_tells_of_all_and_waiting_says_what_is_missing() {
    real(async {
        let mut cluster = Processes::start(BINARY, 3).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let (ledger, all) = (Ledger::new(), WriteOptions::at(Level::All));
        write(&client, "db", &[sample(1, 0)], &all, &ledger).await.unwrap();
        let ended = cluster.quorate(&["status", "--wait", "healthy", "--timeout", "30s"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let shard = client.map().shards().next().unwrap().shard.id.0;
        for node in cluster.ids() {
            wait_for("a look", Duration::from_secs(20), async || {
                let look =
                    object(&cluster.run(&through(&cluster, node, &["status", "--json"])).await);
                let nodes = look["nodes"].as_array().unwrap();
                let good = |node: &Value| node["state"] == "alive" && node["lag"] == 0;
                let owners = &look["shards"][0]["replicas"];
                let sound = owners.as_array().unwrap().iter().all(|owner| owner["state"] == "ok");
                let found = nodes.len() == 3 && nodes.iter().all(good) && sound;
                let leads = look["leader"].is_u64() && look["shards"][0]["id"] == shard;
                if found && leads { Ok(()) } else { Err(look.to_string()) }
            })
            .await;
        }

        cluster.kill(THREE).await;
        wait_until("the client has noticed", async || client.up() == [ONE, NodeId(2)]).await;
        let quorum = WriteOptions::default();
        write(&client, "db", &[sample(1, 1)], &quorum, &ledger).await.unwrap();
        assert!(client.settle(Duration::from_secs(20)).await);
        let ended = cluster.run(&through(&cluster, ONE, &["status"])).await;
        assert!(ended.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ended.stdout);
        for part in
            ["down", &format!("  shard {shard} (db.default): n3 down\n"), "hints: 1 pending"]
        {
            assert!(ended.stdout.contains(part), "{part:?}: {}", ended.stdout);
        }
        let look = object(&cluster.run(&through(&cluster, ONE, &["status", "--json"])).await);
        assert_eq!(
            (&look["nodes"][2]["state"], &look["nodes"][2]["lag"]),
            (&"down".into(), &Value::Null)
        );
        assert_eq!(
            (&look["shards"][0]["sound"], &look["shards"][0]["quorum"]),
            (&2.into(), &true.into())
        );
        assert_eq!(
            (&look["queues"][0]["target"], &look["hints"]["pending"]),
            (&3.into(), &1.into())
        );
        // One node was asked, and says why another is silent and what its replica lacks.
        assert_eq!(look["asked"], 1);
        let reason = |node: usize| look["nodes"][node]["reason"].as_str();
        assert_eq!((reason(0), reason(1)), (None, None), "{look}");
        assert!(reason(2).is_some_and(|why| !why.contains("does not know")), "{look}");
        for owner in look["shards"][0]["replicas"].as_array().unwrap() {
            let is_third = owner["node"] == 3;
            assert_eq!(owner["behind"], is_third, "{owner}");
            assert_eq!(owner["hints"], u64::from(is_third), "{owner}");
        }
        assert!(in_vain(&cluster, "healthy").await.contains(": node n3 is down"));
        let missing = in_vain(&cluster, "drained").await;
        assert!(
            missing.contains("node n3 is down, n") && missing.contains("1 hint for n3"),
            "{missing}"
        );

        cluster.restart(THREE).await;
        for state in ["drained", "healthy"] {
            let wait = ["status", "--wait", state, "--timeout", "30s", "--json"];
            let ended = cluster.quorate(&wait).await;
            assert_eq!((ended.code, &object(&ended)["hints"]["pending"]), (Some(0), &0.into()));
        }
        watched(&cluster).await;
        client.close().await;
    });
}

fn watch(cluster: &Processes, args: &[&str]) -> Child {
    let args = [&["status", "--watch", "--every", "50ms"], args].concat();
    let mut command = Command::new(BINARY);
    command.args(through(cluster, ONE, &args)).stdin(Stdio::null()).stdout(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

/// Where no terminal is: a line of JSON, or a block, per look, until nobody reads any more.
async fn watched(cluster: &Processes) {
    for (args, wanted) in [(&["--json"][..], "{\"cluster\""), (&[], "cluster '")] {
        let mut child = watch(cluster, args);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut looks = 0;
        while looks < 3 {
            let line = timeout(Duration::from_secs(20), lines.next_line()).await;
            let line = line.unwrap().unwrap().unwrap();
            assert!(!line.contains('\x1b'), "{line:?}");
            looks += u32::from(line.starts_with(wanted));
        }
        drop(lines);
        let status = timeout(Duration::from_secs(20), child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }
    let ended = cluster.quorate(&["status", "--every", "1s"]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
}
