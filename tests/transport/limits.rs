//! What one peer may take of a node, and what becomes of those that want more, or go on too slowly.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use quorate_client::{config::TransportConfig, lane::framed::FrameWriter};
use quorate_node::{endpoint, limits::LimitsConfig};
use quorate_protocol::{
    code::Close,
    frame::Frame,
    hello::ALPN,
    id::{MetaIndex, NodeId, ShardId},
    message::{MetaGet, Scan},
};
use quorate_tests::harness::net::SimNet;
use tokio::time::{Instant, sleep, timeout};

use super::{
    hostile::{Raw, bytes, lives},
    world::{
        Node, connect, dialer_with, host, later, node_credentials, on, shard, sim_dialer, simulate,
        write_to,
    },
};

fn node(net: &SimNet, n: u8, limits: LimitsConfig) -> Node {
    let config = TransportConfig::default();
    Node::limited(&net.env(host(n)), on(n), n.into(), node_credentials("n1"), config, limits)
}

#[test]
fn one_certificate_and_one_address_have_so_many_connections() {
    simulate(60, async |net| {
        for (n, limits) in [
            (1, LimitsConfig { peer_connections: 2, ..LimitsConfig::default() }),
            (2, LimitsConfig { address_connections: 2, ..LimitsConfig::default() }),
        ] {
            let node = node(&net, n, limits);
            let dialer = sim_dialer(&net);
            let first = connect(&dialer, &node).await;
            let second = connect(&dialer, &node).await;
            let addr = node.addr.to_string();
            let error = dialer.dial(&addr, NodeId(0)).await.unwrap_err();
            assert!(error.retryable(), "{error:?}");
            // Somebody else comes in, from elsewhere and with another certificate.
            let env = net.env(host(201));
            let other = dialer_with(&env, node_credentials("n7"), TransportConfig::default());
            connect(&other, &node).await;
            drop(first);
            while dialer.dial(&addr, NodeId(0)).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
            drop(second);
        }
    });
}

#[test]
fn an_address_that_must_be_proven_is_and_nobody_notices() {
    simulate(61, async |net| {
        let node = node(&net, 1, LimitsConfig { retry_handshakes: 0, ..LimitsConfig::default() });
        let begun = Instant::now();
        let connection = connect(&sim_dialer(&net), &node).await;
        let with = begun.elapsed();
        connection.request(&write_to(shard::ECHO, 0), Bytes::new(), later()).await.unwrap();
        let plain = Node::start(&net.env(host(2)), on(2), 2);
        let begun = Instant::now();
        connect(&sim_dialer(&net), &plain).await;
        assert!(with > begun.elapsed(), "no round trip more: nothing was asked");
    });
}

#[test]
fn a_rate_of_handshakes_is_kept_for_each_address() {
    simulate(62, async |net| {
        let limits = LimitsConfig { address_handshakes_per_s: 1, ..LimitsConfig::default() };
        let node = node(&net, 1, limits);
        let dialer = sim_dialer(&net);
        let addr = node.addr.to_string();
        let begun = Instant::now();
        let mut came = 0;
        while begun.elapsed() < Duration::from_secs(10) {
            came += u32::from(dialer.dial(&addr, NodeId(0)).await.is_ok());
        }
        // A burst of four of either kind, and one of either a second.
        assert!((18..=30).contains(&came), "{came}");
        connect(&super::world::dialer(&net.env(host(201))), &node).await;
    });
}

#[test]
fn whoever_is_not_known_yet_may_send_so_much_and_no_more() {
    simulate(69, async |net| {
        for (n, stranger_window, takes) in [(1, 10_000, 10_000), (2, 0, 4 << 10)] {
            let config = TransportConfig { stranger_window, ..TransportConfig::default() };
            let node = Node::with(&net.env(host(n)), on(n), 1, node_credentials("n1"), config);
            let raw = Raw::connect(&net, &node, ALPN).await.unwrap();
            // Hello would come on the first stream, so nobody reads the second.
            let _first = raw.quic.open_bi().await.unwrap();
            let (mut second, _recv) = raw.quic.open_bi().await.unwrap();
            let mut taken = 0;
            while let Ok(Ok(more)) =
                timeout(Duration::from_millis(500), second.write(&[0; 1_000])).await
            {
                taken += more;
            }
            assert_eq!(taken, takes);
            drop((_first, second, _recv, raw));
            lives(&net, &node).await;
        }
    });
}

#[test]
fn packets_that_wait_for_a_decision_are_kept_up_to_a_limit() {
    let config = TransportConfig {
        handshake_buffer: 12_345,
        max_handshakes: 10,
        ..TransportConfig::default()
    };
    let server = endpoint::server_config(&node_credentials("n1"), &config).unwrap();
    // QUIC keeps to it; it has no other way to be asked for what it was told.
    let told = format!("{server:?}");
    for expected in ["incoming_buffer_size: 12345,", "incoming_buffer_size_total: 123450,"] {
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn frames_that_are_begun_and_not_ended_take_bounded_memory_and_time() {
    simulate(63, async |net| {
        let limits = LimitsConfig {
            request_bytes: 16 << 20,
            peer_request_bytes: 8 << 20,
            ..LimitsConfig::default()
        };
        let node = node(&net, 1, limits);
        let (raw, _lane, _reader) = Raw::welcomed(&net, &node).await;
        let begun = Instant::now();
        let mut streams = Vec::new();
        for _ in 0..8 {
            let (mut send, recv) = raw.quic.open_bi().await.unwrap();
            // 4 MiB are said to come; some do.
            let frame = [&(4u32 << 20).to_le_bytes()[..], &[0; 40_000]].concat();
            send.write_all(&frame).await.unwrap();
            streams.push((send, recv));
        }
        let (code, reason) = raw.closed().await;
        assert_eq!(code, Close::Overloaded);
        assert!(reason.contains("stall_ms") || reason.contains("request_bytes"), "{reason}");
        let took = begun.elapsed();
        assert!((Duration::from_secs(9)..Duration::from_secs(12)).contains(&took), "{took:?}");
        lives(&net, &node).await;
    });
}

#[test]
fn who_sends_slowly_but_steadily_is_served() {
    simulate(64, async |net| {
        let node = node(&net, 1, LimitsConfig { stall_bytes: 1_000, ..LimitsConfig::default() });
        let (_raw, mut send, mut reader) = Raw::welcomed(&net, &node).await;
        let write = write_to(shard::ECHO, 0);
        let frame = bytes(&Frame::new(1, &write, Bytes::from(vec![7; 20_000])).unwrap());
        for piece in frame.chunks(400) {
            sleep(Duration::from_secs(3)).await;
            send.write_all(piece).await.unwrap();
        }
        assert_eq!(reader.next().await.unwrap().unwrap().payload.len(), 20_000);
    });
}

#[test]
fn who_does_not_take_its_answers_is_closed() {
    simulate(65, async |net| {
        let node = node(&net, 1, LimitsConfig::default());
        let (raw, send, _unread) = Raw::welcomed(&net, &node).await;
        let mut writer = FrameWriter::new(send);
        let begun = Instant::now();
        for id in 1..=60 {
            // Answers of 3 MB each.
            let get = MetaGet { after: MetaIndex(3_000_000) };
            writer.write(&[Frame::new(id, &get, Bytes::new()).unwrap()]).await.unwrap();
        }
        let (code, reason) = raw.closed().await;
        assert_eq!(code, Close::Overloaded);
        assert!(reason.contains("not taken"), "{reason}");
        let took = begun.elapsed();
        assert!((Duration::from_secs(9)..Duration::from_secs(25)).contains(&took), "{took:?}");
        lives(&net, &node).await;
    });
}

#[test]
fn requests_beyond_the_room_of_a_certificate_hear_busy_or_wait() {
    simulate(66, async |net| {
        let limits = LimitsConfig {
            request_bytes: 16 << 20,
            peer_request_bytes: 5 << 20,
            ..LimitsConfig::default()
        };
        let node = node(&net, 1, limits);
        let (one, two) =
            (connect(&sim_dialer(&net), &node).await, connect(&sim_dialer(&net), &node).await);
        // Holds 4 MB for three seconds.
        let slow = write_to(shard::SLOW, 3_000);
        let large = Bytes::from(vec![1; 4_000_000]);
        let first = tokio::spawn({
            let (one, large) = (one.clone(), large.clone());
            async move { one.request(&slow, large, later()).await.map(drop) }
        });
        sleep(Duration::from_millis(500)).await;
        let begun = Instant::now();
        two.request(&write_to(shard::ECHO, 0), large, later()).await.unwrap();
        assert!(begun.elapsed() > Duration::from_secs(2), "it did not wait for the room");
        first.await.unwrap().unwrap();
        // What is small comes, also while there is no room for what is large.
        two.request(&write_to(shard::ECHO, 0), Bytes::from_static(b"small"), later())
            .await
            .unwrap();
    });
}

#[test]
fn queries_wait_for_their_turn() {
    simulate(67, async |net| {
        let limits = LimitsConfig { queries: 4, peer_queries: 2, ..LimitsConfig::default() };
        let node = node(&net, 1, limits);
        let connection = connect(&sim_dialer(&net), &node).await;
        // So many frames of so many bytes.
        let scan = |frames: i64, bytes: i64| Scan {
            shard: ShardId(0),
            meta_index: MetaIndex(0),
            measurement: None,
            tags: Vec::new(),
            fields: Vec::new(),
            from: frames,
            to: bytes,
            after: None,
            limit: 0,
            rows: 0,
        };
        let mut open = Vec::new();
        for _ in 0..2 {
            // More than fits into windows, and nobody reads it.
            let scan = scan(200, 100_000);
            open.push(connection.open_stream(&scan, Bytes::new(), later()).await.unwrap());
        }
        sleep(Duration::from_secs(1)).await;
        let mut third = connection.open_stream(&scan(2, 10), Bytes::new(), later()).await.unwrap();
        let early = timeout(Duration::from_secs(1), third.next()).await;
        assert!(early.is_err(), "it did not wait");
        assert_eq!(node.echo.running.load(Ordering::Relaxed), 2);
        // Writes do not wait for queries.
        connection.request(&write_to(shard::ECHO, 0), Bytes::new(), later()).await.unwrap();
        drop(open.pop());
        third.next().await.unwrap().unwrap();
    });
}

#[test]
fn a_client_that_asks_nothing_is_closed_and_one_that_waits_is_not() {
    simulate(68, async |net| {
        let node = node(&net, 1, LimitsConfig { idle_s: 30, ..LimitsConfig::default() });
        let (raw, _lane, _reader) = Raw::welcomed(&net, &node).await;
        let (waits, send, _answers) = Raw::welcomed(&net, &node).await;
        let never = Frame::new(1, &write_to(shard::NEVER, 0), Bytes::new()).unwrap();
        FrameWriter::new(send).write(&[never]).await.unwrap();
        let begun = Instant::now();
        let (code, reason) = raw.closed().await;
        assert_eq!((code, &reason[..]), (Close::Done, "idle (idle_s)"));
        assert!((29..=31).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        sleep(Duration::from_secs(100)).await;
        assert!(waits.quic.close_reason().is_none());
    });
}
