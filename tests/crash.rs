//! Processes killed under load: what was acknowledged is on every replica afterwards.

use std::{sync::Arc, time::Duration};

use quorate_client::{Client, WriteOptions};
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    history::Ledger,
    limit::{real, soak},
    load::{Done, Writer, sample, write},
    observe::{
        PATIENCE, create_database, exports, leader, wait_drained, wait_for, wait_healthy,
        wait_until,
    },
    process::Processes,
};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

/// Three processes, a database on all of them, two writers at quorum.
struct Scene {
    cluster: Processes,
    client: Client,
    ledger: Arc<Ledger>,
    writers: Vec<Writer>,
}

impl Scene {
    async fn start() -> Self {
        let cluster = Processes::start(BINARY, 3).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let writers = (1..=2).map(|number| {
            let pause = Duration::from_millis(2);
            Writer::start(&client, "db", number, 10, pause, options.clone(), &ledger)
        });
        Self { writers: writers.collect(), cluster, client, ledger }
    }

    async fn acked(&self, more: usize) {
        for writer in &self.writers {
            writer.acked(more).await;
        }
    }

    /// Stops the writers, lets everything settle, and holds the replicas against the ledger.
    async fn verify(mut self) -> Vec<Done> {
        let mut done = Vec::new();
        for writer in self.writers.drain(..) {
            done.extend(writer.stop().await);
        }
        let ids = self.cluster.ids();
        wait_healthy(&self.client, &ids).await;
        assert!(self.client.settle(Duration::from_secs(90)).await, "background work goes on");
        wait_drained(&self.client, &ids).await;
        self.ledger.check(&exports(&self.client, "db", &ids).await).assert_whole();
        self.client.close().await;
        for node in ids {
            self.cluster.terminate(node).await;
        }
        done
    }
}

fn gone(pid: i32) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_node_killed_under_load_loses_nothing_acknowledged() {
    real(async {
        let mut scene = Scene::start().await;
        let lead = leader(&scene.client, &scene.cluster.ids()).await;
        let victim = scene.cluster.ids().into_iter().rfind(|node| *node != lead).unwrap();
        for _ in 0..soak(2) {
            scene.acked(20).await;
            let pid = scene.cluster.pid(victim);
            scene.cluster.kill(victim).await;
            assert!(gone(pid));
            scene.acked(20).await;
            scene.cluster.restart(victim).await;
        }
        scene.acked(10).await;
        let done = scene.verify().await;
        // Two of three were there all the time.
        let failed: Vec<_> = done.iter().filter_map(|write| write.error.as_ref()).collect();
        assert!(failed.is_empty(), "{} quorum writes failed: {:?}", failed.len(), failed.first());
    });
}

#[test]
fn the_leader_killed_under_load_costs_no_write_and_another_takes_over() {
    real(async {
        let mut scene = Scene::start().await;
        scene.acked(20).await;
        let old = leader(&scene.client, &scene.cluster.ids()).await;
        let pid = scene.cluster.pid(old);
        scene.cluster.kill(old).await;
        assert!(gone(pid));
        scene.acked(20).await;
        let live: Vec<NodeId> = scene.cluster.ids().into_iter().filter(|id| *id != old).collect();
        let new = wait_for("a new leader", PATIENCE, async || {
            let leader = leader(&scene.client, &live).await;
            if leader == old { Err("the dead node".to_owned()) } else { Ok(leader) }
        });
        assert!(live.contains(&new.await));
        // Metadata can be changed again without it.
        create_database(&scene.client, "second", 3).await;
        scene.cluster.restart(old).await;
        let done = scene.verify().await;
        let failed: Vec<_> = done.iter().filter_map(|write| write.error.as_ref()).collect();
        assert!(failed.is_empty(), "{} quorum writes failed: {:?}", failed.len(), failed.first());
    });
}

#[test]
fn all_nodes_killed_at_once_come_back_with_everything_acknowledged() {
    real(async {
        let mut scene = Scene::start().await;
        scene.acked(30).await;
        let ids = scene.cluster.ids();
        let pids: Vec<i32> = ids.iter().map(|id| scene.cluster.pid(*id)).collect();
        scene.cluster.kill_all(&ids).await;
        assert!(pids.into_iter().all(gone));
        wait_until("the client has noticed", async || scene.client.up().is_empty()).await;
        for id in &ids {
            scene.cluster.restart(*id).await;
        }
        wait_healthy(&scene.client, &ids).await;
        scene.acked(10).await;
        // Writes between the kill and the return have failed, as they must.
        let done = scene.verify().await;
        assert!(done.iter().any(|write| write.error.is_some()), "nobody noticed the kill");
    });
}
