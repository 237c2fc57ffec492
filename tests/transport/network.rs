//! What a bad network does to connections, and what it does not.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_client::connection::{Lost, RequestError};
use quorate_protocol::{id::NodeId, message::Ping};
use quorate_tests::harness::net::{Link, SimNet};
use tokio::time::Instant;

use super::world::{connect, host, later, shard, sim_dialer, sim_node, simulate, write_to};

#[test]
fn a_mute_node_is_given_up_in_time_and_others_are_not() {
    simulate(50, async |net| {
        let (mute, fine) = (sim_node(&net, 1), sim_node(&net, 2));
        let dialer = sim_dialer(&net);
        let to_mute = connect(&dialer, &mute).await;
        let to_fine = connect(&dialer, &fine).await;
        let slow = write_to(shard::SLOW, 3_000);
        let open = tokio::spawn({
            let to_mute = Arc::clone(&to_mute);
            async move { to_mute.request(&slow, Bytes::from_static(b"mute"), later()).await }
        });
        to_mute.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        net.partition(host(1), host(200));
        let start = Instant::now();
        let (lost, healthy) = tokio::join!(open, async {
            // A slow answer from a healthy node is waited for.
            let write = write_to(shard::SLOW, 3_000);
            to_fine.request(&write, Bytes::from_static(b"slow"), later()).await
        });
        let error = lost.unwrap().unwrap_err();
        assert!(matches!(error, RequestError::Lost(Lost::Mute)), "{error}");
        assert_eq!(to_mute.closed().await, Lost::Mute);
        healthy.unwrap();
        assert!(start.elapsed() < Duration::from_millis(3_100));

        // The time it took, alone.
        net.heal_all();
        let connection = connect(&dialer, &mute).await;
        net.partition(host(1), host(200));
        let start = Instant::now();
        let error = connection.request(&Ping {}, Bytes::new(), later()).await.unwrap_err();
        assert!(matches!(error, RequestError::Lost(Lost::Mute)), "{error}");
        let limit = dialer.config().mute_after;
        let took = start.elapsed();
        assert!(took >= limit * 9 / 10 && took <= limit * 5 / 4, "{took:?}");
        // What was never sent says so.
        let error = connection.request(&Ping {}, Bytes::new(), later()).await.unwrap_err();
        assert!(error.not_sent(), "{error}");
    });
}

#[test]
fn answers_that_cannot_come_back_make_a_node_mute_too() {
    simulate(51, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        net.block(host(1), host(200));
        let error = connection.request(&Ping {}, Bytes::new(), later()).await.unwrap_err();
        assert!(matches!(error, RequestError::Lost(Lost::Mute)), "{error}");
    });
}

#[test]
fn an_idle_connection_stays_and_a_dead_one_is_noticed() {
    simulate(52, async |net| {
        let node = sim_node(&net, 1);
        let dialer = sim_dialer(&net);
        let connection = connect(&dialer, &node).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(connection.lost().is_none());
        connection.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        net.partition(host(1), host(200));
        let start = Instant::now();
        assert_eq!(connection.closed().await, Lost::TimedOut);
        assert!(start.elapsed() <= dialer.config().idle_timeout + Duration::from_millis(500));
    });
}

#[test]
fn a_short_gap_is_survived() {
    simulate(53, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        for _ in 0..10 {
            net.partition(host(1), host(200));
            let heal = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                net.heal_all();
            };
            let (answer, ()) =
                tokio::join!(connection.request(&Ping {}, Bytes::new(), later()), heal);
            answer.unwrap();
        }
    });
}

/// Some traffic over a bad network; returns the trace and the time it took.
fn noisy(seed: u64) -> (u64, u64, Duration) {
    simulate(seed, async |net: SimNet| {
        net.set_link(Link {
            jitter: Duration::from_millis(8),
            loss: 0.05,
            duplicate: 0.05,
            ..Link::default()
        });
        let start = Instant::now();
        let nodes = [sim_node(&net, 1), sim_node(&net, 2)];
        let dialer = sim_dialer(&net);
        let mut done = tokio::task::JoinSet::new();
        for node in &nodes {
            let connection = loop {
                // Even the handshake may be lost beyond its time limit.
                if let Ok(connection) = dialer.dial(&node.addr.to_string(), NodeId(0)).await {
                    break connection;
                }
            };
            for i in 0..40usize {
                let connection = Arc::clone(&connection);
                done.spawn(async move {
                    let payload = Bytes::from(vec![1; i * 700]);
                    let write = write_to(shard::ECHO, 0);
                    let echoed = connection.request(&write, payload.clone(), later()).await;
                    assert_eq!(echoed.unwrap().1, payload);
                });
            }
        }
        while let Some(result) = done.join_next().await {
            result.unwrap();
        }
        dialer.shutdown().await;
        let counters = net.counters();
        assert!(counters.lost > 0 && counters.duplicated > 0, "{counters:?}");
        (net.trace(), counters.sent, start.elapsed())
    })
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let first = noisy(60);
    assert_eq!(first, noisy(60));
    assert_ne!(first.0, noisy(61).0);
}
