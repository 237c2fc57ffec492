//! Versions of the protocol side by side: another major, and later minors at either end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::{ConnectionError, crypto::rustls::QuicServerConfig};
use quorate_client::{
    config::TransportConfig,
    connection::{ConnectError, Local, alert},
    lane::framed::{FrameReader, FrameWriter},
};
use quorate_protocol::{
    code::Close,
    frame::{Frame, MAX_FRAME},
    hello::{ALPN, Hello, MINOR, Welcome},
    id::{MetaIndex, NodeId, Version},
};
use quorate_tests::harness::net::SimNet;
use tokio::time::sleep;

use super::{
    hostile::{Raw, lives},
    refused::Log,
    world::{
        CLUSTER, Node, connect, host, later, node_credentials, on, shard, sim_dialer, sim_node,
        simulate, write_to,
    },
};

/// Somebody who listens with a node's certificate and speaks this.
fn listener(net: &SimNet, alpn: &[u8]) -> quinn::Endpoint {
    let tls = node_credentials("n2").server_config(alpn).unwrap();
    let tls = QuicServerConfig::try_from(tls).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    net.env(host(2)).endpoint(on(2), Some(server), &TransportConfig::default()).unwrap()
}

#[test]
fn another_major_version_is_refused_and_both_ends_say_why() {
    let (log, _guard) = Log::start();
    simulate(40, async |net| {
        const NO_APPLICATION_PROTOCOL: u8 = 120;
        // Of whoever dials.
        let node = sim_node(&net, 1);
        let error = Raw::connect(&net, &node, b"quorate/2").await.err().unwrap();
        let ConnectionError::ConnectionClosed(close) = error else { panic!("{error}") };
        assert_eq!(alert(close.error_code.into()), Some(NO_APPLICATION_PROTOCOL));
        sleep(Duration::from_millis(100)).await;
        let logged = log.take();
        let expected = format!("refused client from {}", host(199));
        assert!(logged.contains(&expected), "{logged}");
        assert!(logged.contains("it speaks no protocol version of ours"), "{logged}");
        lives(&net, &node).await;

        // Of whoever is dialled.
        let there = listener(&net, b"quorate/2");
        let dialer = sim_dialer(&net);
        let addr = on(2).to_string();
        let accepted = async { there.accept().await.unwrap().await };
        let (dialled, accepted) = tokio::join!(dialer.dial(&addr, NodeId(0)), accepted);
        let error = dialled.unwrap_err();
        assert!(matches!(error, ConnectError::Protocol { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("{addr} does not speak this protocol's major version; upgrade the older side")
        );
        assert!(!error.retryable());
        let ConnectionError::TransportError(error) = accepted.unwrap_err() else { panic!() };
        assert_eq!(alert(error.code.into()), Some(NO_APPLICATION_PROTOCOL));
    });
}

#[test]
fn of_two_minor_versions_the_lower_one_is_spoken_whoever_dials() {
    simulate(48, async |net| {
        let minors = [(0, 1), (1, 0), (3, 2), (2, 3), (2, 2)];
        for (n, (dials, listens)) in (1..).zip(minors) {
            let (dials, listens) = (MINOR + dials, MINOR + listens);
            let node = Node::speaking(&net.env(host(n)), on(n), listens);
            let dialer = sim_dialer(&net);
            dialer.set_local(Local { minor: dials, ..dialer.local() });
            let connection = connect(&dialer, &node).await;
            let lower = dials.min(listens);
            assert_eq!(connection.welcome().minor, lower, "{dials} {listens}");
            let seen = node.echo.minor.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(seen, lower, "{dials} {listens}");
            let echo = write_to(shard::ECHO, 0);
            connection.request(&echo, Bytes::from_static(b"understood"), later()).await.unwrap();
        }
    });
}

#[test]
fn a_minor_version_above_the_one_that_was_offered_is_refused_and_both_ends_say_why() {
    simulate(49, async |net| {
        let there = listener(&net, ALPN);
        let accepted = tokio::spawn(async move {
            let quic = there.accept().await.unwrap().await.unwrap();
            let (send, recv) = quic.accept_bi().await.unwrap();
            let hello = FrameReader::new(recv).next().await.unwrap().unwrap();
            let minor = hello.message::<Hello>().unwrap().minor + 1;
            let welcome = Welcome {
                minor,
                features: 0,
                cluster: CLUSTER,
                node: NodeId(2),
                meta_index: MetaIndex(0),
                highest_version: Version(0),
                max_frame: MAX_FRAME,
                credit: 1 << 24,
            };
            let frame = Frame::new(hello.id, &welcome, Bytes::new()).unwrap();
            FrameWriter::new(send).write(&[frame]).await.unwrap();
            quic.closed().await
        });
        let error = sim_dialer(&net).dial(&on(2).to_string(), NodeId(0)).await.unwrap_err();
        let expected = format!("it chose minor version {}, we speak up to {MINOR}", MINOR + 1);
        assert!(matches!(error, ConnectError::Garbled { .. }), "{error:?}");
        assert!(error.to_string().contains(&expected), "{error}");
        let ConnectionError::ApplicationClosed(close) = accepted.await.unwrap() else { panic!() };
        assert_eq!(Close::from_number(close.error_code.into_inner()), Close::Protocol);
        let reason = String::from_utf8_lossy(&close.reason);
        assert!(reason.contains(&expected), "{reason}");
    });
}
