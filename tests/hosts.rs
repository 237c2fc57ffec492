//! Three nodes on three hosts, and a client on a fourth, over networks that fail as networks do.
//!
//! Under every fault two of three nodes can be written to, so no write may fail; after it is healed
//! everything acknowledged is on every replica, and the replicas are equal. What it cost is printed as a row of
//! the table in the README.

use std::{cell::Cell, collections::BTreeSet, sync::Arc, time::Duration};

use quorate_client::{Client, ClientConfig, WriteOptions};
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    history::Ledger,
    hosts::{Hosts, possible},
    limit::real,
    load::{Writer, large, sample, write},
    observe::{create_database, exports, leader, queues, total, wait_drained, wait_healthy},
};
use tokio::time::{Instant, sleep};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
const RELAY: &str = env!("CARGO_BIN_EXE_quorate-relay-under-test");
/// How long a fault lasts: longer than anybody takes to notice it.
const HOLD: Duration = Duration::from_secs(4);

struct Scene {
    hosts: Hosts,
    client: Client,
    ledger: Arc<Ledger>,
    /// Numbers of writers.
    next: u64,
    /// How many write at the same time.
    tasks: u64,
}

impl Scene {
    async fn start(relay: Option<&str>, tasks: u64) -> Self {
        let hosts = Hosts::start(BINARY, 3, relay).await;
        let client = hosts.client(ClientConfig::default()).await;
        wait_healthy(&client, &hosts.ids()).await;
        create_database(&client, "db", 3).await;
        let ledger = Arc::new(Ledger::new());
        let first = write(&client, "db", &[sample(0, 0), large(0, 10)], &options(), &ledger).await;
        first.unwrap();
        Self { hosts, client, ledger, next: 1, tasks }
    }

    async fn leader(&self) -> NodeId {
        leader(&self.client, &self.hosts.ids()).await
    }

    async fn hints(&self) -> u64 {
        total(&queues(&self.client, &self.hosts.ids()).await.unwrap()).accepted
    }

    /// Writes while something breaks, lasts, and is mended; then holds all replicas against what was
    /// acknowledged.
    async fn fault(
        &mut self,
        name: &str,
        hold: Duration,
        breaks: impl AsyncFnOnce(&mut Hosts),
        heals: impl AsyncFnOnce(&mut Hosts),
    ) {
        let hints = self.hints().await;
        let numbers = self.next..self.next + self.tasks;
        self.next = numbers.end;
        let writers: Vec<Writer> = numbers
            .map(|number| {
                let pause = Duration::from_millis(5);
                Writer::start(&self.client, "db", number, 10, pause, options(), &self.ledger)
            })
            .collect();
        for writer in &writers {
            writer.acked(5).await;
        }
        breaks(&mut self.hosts).await;
        let broken = Instant::now();
        sleep(hold).await;
        heals(&mut self.hosts).await;
        let healed = Instant::now();
        for writer in &writers {
            writer.acked(5).await;
        }
        let mut done = Vec::new();
        for writer in writers {
            done.extend(writer.stop().await);
        }
        let failed: Vec<_> = done.iter().filter_map(|write| write.error.as_ref()).collect();
        assert!(failed.is_empty(), "{name}: {} failed: {:?}", failed.len(), failed.first());
        let meanwhile: Vec<_> = done
            .iter()
            .filter(|write| write.at + write.took > broken && write.at < healed)
            .collect();
        let slowest = meanwhile.iter().map(|write| write.took).max().unwrap_or_default();
        self.whole().await;
        println!(
            "| {name} | {:.1} s | {} | 0 | {:.2} s | {} | {:.1} s |",
            (healed - broken).as_secs_f64(),
            meanwhile.len(),
            slowest.as_secs_f64(),
            self.hints().await - hints,
            healed.elapsed().as_secs_f64(),
        );
    }

    /// Waits until all is well, and compares.
    async fn whole(&self) {
        let ids = self.hosts.ids();
        wait_healthy(&self.client, &ids).await;
        assert!(self.client.settle(Duration::from_secs(60)).await, "background work goes on");
        wait_drained(&self.client, &ids).await;
        self.ledger.check(&exports(&self.client, "db", &ids).await).assert_whole();
    }
}

fn options() -> WriteOptions {
    WriteOptions::default()
}

#[test]
fn a_host_that_is_cut_off_both_ways_or_one_way_costs_no_write() {
    if !possible() {
        return;
    }
    real(async {
        let mut scene = Scene::start(None, 2).await;
        let cut = |hosts: &mut Hosts, rules: &[String]| hosts.rules(&rules.join("\n"), "");
        // The leader, so that metadata has to be decided anew as well.
        for (name, rules) in [
            ("is cut off both ways", &["iifname LEAD drop", "oifname LEAD drop"][..]),
            ("hears nobody", &["oifname LEAD drop"]),
            ("is heard by nobody", &["iifname LEAD drop"]),
            ("does not hear one other", &["iifname OTHER oifname LEAD drop"]),
        ] {
            let lead = scene.leader().await;
            let other = scene.hosts.ids().into_iter().find(|node| *node != lead).unwrap();
            let of = |rule: &&str| {
                let rule = rule.replace("LEAD", &format!("\"h{lead}\""));
                rule.replace("OTHER", &format!("\"h{other}\""))
            };
            let rules: Vec<String> = rules.iter().map(of).collect();
            let name = format!("the leader's host {name}");
            scene
                .fault(&name, HOLD, async |hosts| cut(hosts, &rules), async |hosts| cut(hosts, &[]))
                .await;
        }
        scene.client.close().await;
    });
}

#[test]
fn hosts_that_vanish_addresses_that_change_and_links_of_other_sizes_cost_no_write() {
    if !possible() {
        return;
    }
    real(async {
        let mut scene = Scene::start(None, 2).await;
        let lead = scene.leader().await;
        let victim = scene.hosts.ids().into_iter().rfind(|node| *node != lead).unwrap();
        let vanish = async |hosts: &mut Hosts| {
            // The link first: nothing that the dying process says gets out.
            hosts.ip(victim.0, "link set eth0 down");
            hosts.kill(victim).await;
        };
        let back = async |hosts: &mut Hosts| {
            let route = format!("link set eth0 up\nroute replace default via 10.77.{victim}.1");
            hosts.ip(victim.0, &route);
            hosts.launch(victim).await;
        };
        scene.fault("a host vanishes without FIN, and comes back", HOLD, vanish, back).await;

        let connections = |client: &Client| -> BTreeSet<(NodeId, u64)> {
            client.traffic().iter().map(|node| (node.node, node.connection)).collect()
        };
        let before = connections(&scene.client);
        assert_eq!(before.len(), 3, "{before:?}");
        let moves = async |hosts: &mut Hosts| {
            hosts.move_client("10.78.9");
        };
        let stays = async |_: &mut Hosts| {};
        scene.fault("the client's address changes", Duration::from_secs(2), moves, stays).await;
        // QUIC takes them along: nobody had to dial.
        assert_eq!(connections(&scene.client), before);

        scene.hosts.mtu(9000);
        let client = scene.hosts.client(ClientConfig::default()).await;
        let old = std::mem::replace(&mut scene.client, client);
        old.close().await;
        for n in 1..=20 {
            let points = [large(n, 50_000)];
            write(&scene.client, "db", &points, &options(), &scene.ledger).await.unwrap();
        }
        let sizes = |client: &Client| -> Vec<u16> {
            client.traffic().iter().map(|node| node.mtu).collect()
        };
        let wide = sizes(&scene.client);
        assert!(wide.len() == 3 && wide.iter().all(|mtu| *mtu > 5_000), "{wide:?}");
        let slowest = Cell::new(Duration::ZERO);
        let (client, ledger) = (scene.client.clone(), Arc::clone(&scene.ledger));
        let narrow = async |hosts: &mut Hosts| {
            hosts.mtu(1280);
            for n in 21..=40 {
                let start = Instant::now();
                write(&client, "db", &[large(n, 50_000)], &options(), &ledger).await.unwrap();
                slowest.set(slowest.get().max(start.elapsed()));
            }
        };
        let usual = async |hosts: &mut Hosts| {
            // Nothing tells a sender that its packets are too large: it has to find out.
            let narrow = sizes(&client);
            assert!(narrow.len() == 3 && narrow.iter().all(|mtu| *mtu < 1280), "{narrow:?}");
            hosts.mtu(1500);
        };
        scene.fault("links go from MTU 9000 to 1280", HOLD, narrow, usual).await;
        println!("(of 20 writes of 50 kB right behind it the slowest took {:?})", slowest.get());
        scene.client.close().await;
    });
}

#[test]
fn delay_with_loss_costs_no_write() {
    if !possible() {
        return;
    }
    real(async {
        let mut scene = Scene::start(Some(RELAY), 8).await;
        let worse = async |hosts: &mut Hosts| {
            hosts.rules("", "meta l4proto udp numgen random mod 100 < 5 drop");
            hosts.delay(Duration::from_millis(50)).await;
        };
        let better = async |hosts: &mut Hosts| {
            hosts.rules("", "");
            hosts.delay(Duration::ZERO).await;
        };
        let name = "50 ms delay each way, 5 % loss";
        scene.fault(name, Duration::from_secs(8), worse, better).await;
        scene.client.close().await;
    });
}
