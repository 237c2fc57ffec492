//! Peers that break the rules: each is told why and closed, and nobody else notices.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use quinn::ConnectionError;
use quorate_certs::{Credentials, SERVER_NAME};
use quorate_client::{
    config::TransportConfig,
    lane::framed::{FrameReader, FrameWriter},
};
use quorate_protocol::{
    code::{Close, Code},
    frame::{Frame, Message, flags},
    hello::{ALPN, Hello, MINOR, Welcome},
    id::NodeId,
    message::{Failure, Ping, Pong},
};
use quorate_tests::harness::net::SimNet;

use super::world::{
    CLUSTER, Node, client_credentials, connect, host, later, node_credentials, on, shard,
    sim_dialer, sim_node, simulate, write_to,
};

/// A peer with a good certificate and no manners.
pub struct Raw {
    pub quic: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Raw {
    pub async fn connect(net: &SimNet, node: &Node, alpn: &[u8]) -> Result<Self, ConnectionError> {
        Self::connect_as(net, node.addr, alpn, &client_credentials()).await
    }

    pub async fn connect_as(
        net: &SimNet,
        node: SocketAddr,
        alpn: &[u8],
        credentials: &Credentials,
    ) -> Result<Self, ConnectionError> {
        let config = TransportConfig::default();
        let endpoint = net.env(host(199)).client_endpoint(&config).unwrap();
        let tls = credentials.client_config(alpn).unwrap();
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let mut client = quinn::ClientConfig::new(std::sync::Arc::new(tls));
        client.transport_config(config.quic());
        let connecting = endpoint.connect_with(client, node, SERVER_NAME).unwrap();
        Ok(Self { quic: connecting.await?, _endpoint: endpoint })
    }

    pub async fn welcomed(net: &SimNet, node: &Node) -> (Self, quinn::SendStream, FrameReader) {
        let raw = Self::connect(net, node, ALPN).await.unwrap();
        let (send, reader) = raw.greet().await;
        (raw, send, reader)
    }

    /// A stream on which `Welcome` has come.
    pub async fn greet(&self) -> (quinn::SendStream, FrameReader) {
        let (mut send, recv) = self.quic.open_bi().await.unwrap();
        send.write_all(&bytes(&Frame::new(9, &hello(), Bytes::new()).unwrap())).await.unwrap();
        let mut reader = FrameReader::new(recv);
        let welcome = reader.next().await.unwrap().unwrap();
        assert_eq!(welcome.id, 9);
        welcome.message::<Welcome>().unwrap();
        (send, reader)
    }

    /// Waits until the node closes it, and says with what.
    pub async fn closed(&self) -> (Close, String) {
        // Of virtual time: whoever is not closed by then never is.
        let closed = tokio::time::timeout(Duration::from_secs(600), self.quic.closed()).await;
        match closed.expect("the node closes it") {
            ConnectionError::ApplicationClosed(close) => (
                Close::from_number(close.error_code.into_inner()),
                String::from_utf8(close.reason.to_vec()).unwrap(),
            ),
            other => panic!("{other}"),
        }
    }
}

fn hello() -> Hello {
    Hello { minor: MINOR, features: 0, cluster: CLUSTER, node: NodeId(0), expect: NodeId(0) }
}

pub fn bytes(frame: &Frame) -> Vec<u8> {
    [&frame.head().unwrap()[..], &frame.payload].concat()
}

/// The node still serves others, and holds nothing of the one it closed.
pub async fn lives(net: &SimNet, node: &Node) {
    let connection = connect(&sim_dialer(net), node).await;
    let write = write_to(shard::ECHO, 0);
    connection.request(&write, Bytes::from_static(b"still here"), later()).await.unwrap();
    drop(connection);
    while node.server.sessions() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn an_absurd_length_closes_with_a_reason() {
    simulate(41, async |net| {
        let node = sim_node(&net, 1);
        let (raw, mut send, _reader) = Raw::welcomed(&net, &node).await;
        send.write_all(&[0xff, 0xff, 0xff, 0xff, 0, 0]).await.unwrap();
        let (code, reason) = raw.closed().await;
        assert_eq!(code, Close::Protocol);
        assert!(reason.contains("4294967295"), "{reason}");
        lives(&net, &node).await;
    });
}

#[test]
fn an_end_inside_a_frame_is_not_an_end() {
    simulate(42, async |net| {
        let node = sim_node(&net, 1);
        let frame = bytes(&Frame::new(1, &Ping {}, Bytes::new()).unwrap());
        for cut in 1..frame.len() {
            let (raw, _hello, _reader) = Raw::welcomed(&net, &node).await;
            let (mut send, _recv) = raw.quic.open_bi().await.unwrap();
            send.write_all(&frame[..cut]).await.unwrap();
            send.finish().unwrap();
            let (code, reason) = raw.closed().await;
            assert_eq!(code, Close::Protocol, "{cut}");
            assert!(reason.contains("inside a frame"), "{reason}");
        }
        lives(&net, &node).await;
    });
}

#[test]
fn garbage_and_strangers_to_hello_are_closed() {
    simulate(43, async |net| {
        let node = sim_node(&net, 1);
        let ping = bytes(&Frame::new(1, &Ping {}, Bytes::new()).unwrap());
        for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], &ping, &[0; 64], &[1, 0, 0, 0, 9]] {
            let raw = Raw::connect(&net, &node, ALPN).await.unwrap();
            let (mut send, _recv) = raw.quic.open_bi().await.unwrap();
            send.write_all(first).await.unwrap();
            assert_eq!(raw.closed().await.0, Close::Protocol, "{first:?}");
        }
        // Silence is not waited out for ever either.
        let raw = Raw::connect(&net, &node, ALPN).await.unwrap();
        assert_eq!(raw.closed().await.0, Close::Protocol);
        lives(&net, &node).await;
    });
}

#[test]
fn a_peer_over_its_credit_is_closed() {
    simulate(44, async |net| {
        let node = sim_node(&net, 1);
        let (raw, send, _reader) = Raw::welcomed(&net, &node).await;
        let mut writer = FrameWriter::new(send);
        let payload = Bytes::from(vec![0; 4_000_000]);
        for id in 1..=5 {
            let write = write_to(shard::NEVER, 0);
            let frame = Frame::new(id, &write, payload.clone()).unwrap();
            // The last ones fail because the connection is closed by then.
            let _ = writer.write(&[frame]).await;
        }
        let (code, reason) = raw.closed().await;
        assert_eq!(code, Close::Overloaded);
        assert!(reason.contains("16777216"), "{reason}");
        lives(&net, &node).await;
        assert_eq!(node.echo.running.load(std::sync::atomic::Ordering::Relaxed), 0);
    });
}

#[test]
fn an_unknown_op_costs_an_answer_and_ids_must_be_fresh() {
    simulate(45, async |net| {
        let node = sim_node(&net, 1);
        let (raw, send, mut reader) = Raw::welcomed(&net, &node).await;
        let mut writer = FrameWriter::new(send);
        let ping = Frame::new(3, &Ping {}, Bytes::new()).unwrap();
        let unknown = Frame { op: 0x7abc, ..ping.clone() };
        writer.write(&[unknown]).await.unwrap();
        let answer = reader.next().await.unwrap().unwrap();
        assert_eq!(answer.id, 3);
        assert_eq!(answer.message::<Failure>().unwrap().code, Code::Unsupported);
        writer.write(std::slice::from_ref(&ping)).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().op, Pong::OP);

        // A Cancel of what is not open means nothing.
        let cancel = quorate_protocol::message::Cancel { id: 55 };
        let cancel = Frame::new(0, &cancel, Bytes::new()).unwrap();
        writer.write(&[cancel, ping]).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().op, Pong::OP);

        let never = Frame::new(7, &write_to(shard::NEVER, 0), Bytes::new()).unwrap();
        writer.write(&[never.clone(), never]).await.unwrap();
        let (code, reason) = raw.closed().await;
        assert_eq!(code, Close::Protocol);
        assert!(reason.contains("id 7"), "{reason}");
        lives(&net, &node).await;
    });
}

#[test]
fn requests_in_several_frames_are_for_snapshots_only() {
    simulate(46, async |net| {
        let node = sim_node(&net, 1);
        let (raw, send, _reader) = Raw::welcomed(&net, &node).await;
        let mut writer = FrameWriter::new(send);
        let part = Frame::new(1, &write_to(shard::ECHO, 0), Bytes::from(vec![0; 1000])).unwrap();
        writer.write(&[part.with_flags(flags::MORE)]).await.unwrap();
        assert_eq!(raw.closed().await.0, Close::Protocol);
        let (raw, mut send, _reader) = Raw::welcomed(&net, &node).await;
        let ping = Frame::new(1, &Ping {}, Bytes::new()).unwrap();
        send.write_all(&bytes(&ping.with_flags(0x02))).await.unwrap();
        let (code, reason) = raw.closed().await;
        assert_eq!(code, Close::Protocol);
        assert!(reason.contains("critical"), "{reason}");
        lives(&net, &node).await;
    });
}

#[test]
fn connections_over_the_limit_are_refused_and_come_in_later() {
    simulate(47, async |net| {
        let config = TransportConfig { max_connections: 2, ..TransportConfig::default() };
        let node = Node::with(&net.env(host(1)), on(1), 1, node_credentials("n1"), config);
        let dialer = sim_dialer(&net);
        let first = connect(&dialer, &node).await;
        let _second = connect(&dialer, &node).await;
        let addr = node.addr.to_string();
        let error = dialer.dial(&addr, NodeId(0)).await.unwrap_err();
        assert!(error.retryable(), "{error:?}");
        drop(first);
        while dialer.dial(&addr, NodeId(0)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}
