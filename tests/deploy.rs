//! What `node/DEPLOY.md` says is done here: keys that stay on their hosts, the settings' file, a service manager
//! that is told, a stop in time, copies of running nodes that bring a cluster back.

use std::{
    ffi::OsString, os::unix::net::UnixDatagram, path::Path, process::Stdio, sync::Arc,
    time::Duration,
};

use quorate_client::WriteOptions;
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    history::Ledger,
    limit::real,
    load::{Writer, sample, write},
    observe::{create_database, exports, wait_healthy},
    process::Processes,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Command, time::timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

/// What a service manager hears next.
fn heard(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let length = manager.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn a_host_is_set_up_as_the_guide_says() {
    real(async {
        let cluster = Processes::start(BINARY, 1).await;
        let root = cluster.root();
        let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
        let (ca, host) = (path("offline"), path("host"));
        let run = async |args: &[&str]| {
            let ended = cluster.run(&words(args)).await;
            assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
            ended.stdout
        };
        run(&["certs", "ca", "--dir", &ca, "--cluster", "prod"]).await;
        run(&["certs", "request", "--dir", &host, "--name", "h1", "--san", "127.0.0.1"]).await;
        // Only the request goes to the CA, and only certificates come back.
        let request = path("h1.csr");
        std::fs::copy(Path::new(&host).join("h1/tls.csr"), &request).unwrap();
        let none = cluster.run(&words(&["certs", "sign", "--dir", &ca, &request])).await;
        assert_eq!(none.code, Some(2), "who signs says what for: {}", none.stderr);
        run(&["certs", "sign", "--dir", &ca, "--as", "node", &request]).await;
        for name in ["tls.crt", "ca.crt"] {
            let from = Path::new(&ca).join("h1").join(name);
            std::fs::copy(from, Path::new(&host).join("h1").join(name)).unwrap();
        }
        assert!(!Path::new(&ca).join("h1/tls.key").exists());

        let settings = run(&["node", "--print-config"]).await;
        let file = path("node.toml");
        std::fs::write(&file, &settings).unwrap();
        let certs = Path::new(&host).join("h1").to_str().unwrap().to_owned();
        let data = path("data-h1");
        let socket = path("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["node", "--config", &file, "--data", &data, "--listen", "127.0.0.1:0"]);
        command.args(["--certs", &certs, "--bootstrap"]).env("NOTIFY_SOCKET", &socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut node = command.kill_on_drop(true).spawn().unwrap();
        assert!(heard(&manager).starts_with("READY=1\n"));
        let pid = Pid::from_raw(i32::try_from(node.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(heard(&manager).starts_with("STOPPING=1\n"));
        let ended = timeout(Duration::from_secs(10), node.wait()).await;
        assert!(ended.expect("it stops within ten seconds").unwrap().success());
    });
}

/// The limit is the contract's: what is longer makes service managers kill.
#[test]
fn a_node_stops_within_ten_seconds_whatever_its_peers_do() {
    real(async {
        let mut cluster = Processes::start(BINARY, 3).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let ledger = Arc::new(Ledger::new());
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let pause = Duration::from_millis(2);
        let writer = Writer::start(&client, "db", 1, 10, pause, options, &ledger);
        writer.acked(20).await;
        // One peer is silent, a client writes, and every node has a watcher.
        let [stops, silent] = [NodeId(2), NodeId(3)];
        cluster.freeze(silent);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let ended = timeout(Duration::from_secs(10), cluster.terminate(stops)).await;
        assert!(ended.is_ok(), "it takes longer:\n{}", cluster.log(stops));
        cluster.thaw(silent);
        cluster.restart(stops).await;
        writer.acked(10).await;
        writer.stop().await;
        wait_healthy(&client, &cluster.ids()).await;
        client.close().await;
        for node in cluster.ids() {
            cluster.terminate(node).await;
        }
    });
}

async fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    assert!(command.status().await.unwrap().success());
}

#[test]
fn copies_of_nodes_that_were_stopped_for_a_moment_bring_the_cluster_back() {
    real(async {
        let mut cluster = Processes::start(BINARY, 3).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        create_database(&client, "load", 3).await;
        let options = WriteOptions::default();
        let (ledger, other) = (Arc::new(Ledger::new()), Arc::new(Ledger::new()));
        let first = [sample(0, 0)];
        write(&client, "load", &first, &options, &other).await.unwrap();
        let pause = Duration::from_millis(1);
        let busy = Writer::start(&client, "load", 1, 50, pause, options.clone(), &other);
        for n in 0..200 {
            write(&client, "db", &[sample(1, n)], &options, &ledger).await.unwrap();
        }
        busy.acked(50).await;
        // In the middle of writes, as a snapshot of their file systems would be.
        let ids = cluster.ids();
        ids.iter().for_each(|id| cluster.freeze(*id));
        for id in &ids {
            copy(&cluster.data(*id), &cluster.root().join(format!("copy-{id}"))).await;
        }
        ids.iter().for_each(|id| cluster.thaw(*id));
        busy.acked(50).await;
        busy.stop().await;
        write(&client, "db", &[sample(2, 0)], &options, &Ledger::new()).await.unwrap();
        client.close().await;
        cluster.kill_all(&ids).await;

        for id in &ids {
            std::fs::remove_dir_all(cluster.data(*id)).unwrap();
            copy(&cluster.root().join(format!("copy-{id}")), &cluster.data(*id)).await;
            cluster.respawn(*id);
        }
        for id in &ids {
            cluster.wait_ready(*id).await;
        }
        let client = cluster.client().await;
        wait_healthy(&client, &ids).await;
        // All that was acknowledged before the copy, and nothing of what came afterwards.
        ledger.check(&exports(&client, "db", &ids).await).assert_whole();
        write(&client, "db", &[sample(3, 0)], &options, &ledger).await.unwrap();
        assert!(client.settle(Duration::from_secs(60)).await);
        ledger.check(&exports(&client, "db", &ids).await).assert_whole();
        client.close().await;
        for id in ids {
            cluster.terminate(id).await;
        }
    });
}
