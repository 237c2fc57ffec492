//! Bytes that are no protocol, from somebody with a good certificate: that connection is closed
//! with a reason, the node lives, and nobody else notices.

use std::{sync::Arc, time::Duration};

use quinn::{Connection, ConnectionError, crypto::rustls::QuicClientConfig};
use quorate_client::{WriteOptions, config::TransportConfig};
use quorate_protocol::{
    code::{Close, Code},
    frame::Frame,
    hello::{ALPN, Hello, MINOR},
    id::{ClusterId, NodeId},
    message::{NodeStatus, Request, Status, Write},
};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::{simulated, soak},
    load::{Writer, sample, write},
    observe::{create_database, exports},
};
use tokio::time::timeout;

const ONE: NodeId = NodeId(1);

/// A connection that has said nothing yet.
async fn connect(cluster: &mut Cluster, endpoint: &quinn::Endpoint) -> Connection {
    let credentials = cluster.client_credentials("vandal");
    let tls = QuicClientConfig::try_from(credentials.client_config(ALPN).unwrap()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(TransportConfig::default().quic());
    let addr = cluster.node(ONE).addr();
    endpoint.connect_with(config, addr, quorate_certs::SERVER_NAME).unwrap().await.unwrap()
}

fn frame<R: Request>(id: u64, request: &R) -> Vec<u8> {
    let frame = Frame::new(id, request, bytes::Bytes::new()).unwrap();
    let mut bytes = frame.head().unwrap().to_vec();
    bytes.extend_from_slice(&frame.payload);
    bytes
}

fn hello() -> Vec<u8> {
    let nobody = NodeId(0);
    let hello =
        Hello { minor: MINOR, features: 0, cluster: ClusterId(0), node: nobody, expect: nobody };
    frame(1, &hello)
}

/// Sends bytes on the first stream and says how the node takes it.
async fn say(connection: &Connection, what: &str, bytes: &[u8], finish: bool) -> ConnectionError {
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    // The node may close before it has read everything.
    let _ = send.write_all(bytes).await;
    if finish {
        let _ = send.finish();
    }
    let closed = timeout(Duration::from_secs(20), connection.closed()).await;
    closed.unwrap_or_else(|_| panic!("{what}: the node leaves the connection open"))
}

/// The node closed the connection because of the protocol, and says why.
#[track_caller]
fn assert_closed(error: &ConnectionError, what: &str) {
    let ConnectionError::ApplicationClosed(close) = error else {
        panic!("{what}: the node did not close the connection itself: {error}");
    };
    assert_eq!(Close::from_number(close.error_code.into_inner()), Close::Protocol, "{what}");
    assert!(!close.reason.is_empty(), "{what}: closed without a reason");
}

#[test]
fn garbage_closes_its_own_connection_and_nothing_else() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 91).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 1).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let pause = Duration::from_millis(10);
        let writer = Writer::start(&client, "db", 1, 2, pause, options, &ledger);
        let env = cluster.client_env();
        let endpoint = env.client_endpoint(&TransportConfig::default()).unwrap();

        let request = frame(2, &Status {});
        let absurd = [0xff_u8, 0xff, 0xff, 0x7f, 4, 0, 1, 2, 3, 4];
        let large = (quorate_protocol::frame::MAX_FRAME + 1).to_le_bytes();
        let header_behind_end = [8_u8, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0];
        let cases: Vec<(&str, Vec<u8>, bool)> = vec![
            ("an absurd length instead of Hello", absurd.to_vec(), false),
            ("an absurd length", [hello(), absurd.to_vec()].concat(), false),
            ("one byte too long", [hello(), large.to_vec()].concat(), false),
            ("a header behind its frame", [hello(), header_behind_end.to_vec()].concat(), false),
            ("a frame of no bytes", [hello(), vec![0; 8]].concat(), false),
            ("half a frame", [hello(), request[..request.len() / 2].to_vec()].concat(), true),
            ("half a Hello", hello()[..6].to_vec(), true),
            ("text", b"GET / HTTP/1.1\r\nHost: quorate\r\n\r\n".to_vec(), false),
            ("a request instead of Hello", request.clone(), false),
        ];
        for (what, bytes, finish) in cases {
            let connection = connect(&mut cluster, &endpoint).await;
            let error = say(&connection, what, &bytes, finish).await;
            assert_closed(&error, what);
            writer.acked(1).await;
        }

        // Noise of many kinds and lengths, before and after the greeting.
        for round in 0..soak(20) {
            let connection = connect(&mut cluster, &endpoint).await;
            let mut bytes = if round % 2 == 0 { hello() } else { Vec::new() };
            let length = 8 + (env.entropy.next_u64() % 4096) as usize;
            bytes.extend((0..length).map(|_| env.entropy.next_u64() as u8));
            let what = format!("noise of {length} bytes in round {round}");
            let error = say(&connection, &what, &bytes, true).await;
            assert_closed(&error, &what);
        }

        // What is a frame, but no body of its op, costs an answer and not the connection.
        let connection = connect(&mut cluster, &endpoint).await;
        let (mut send, recv) = connection.open_bi().await.unwrap();
        let mut reader = quorate_client::lane::framed::FrameReader::new(recv);
        send.write_all(&hello()).await.unwrap();
        reader.next().await.unwrap().unwrap();
        let mut malformed = Frame::new(3, &Status {}, bytes::Bytes::new()).unwrap();
        malformed.op = <Write as quorate_protocol::frame::Message>::OP;
        let mut bytes = malformed.head().unwrap().to_vec();
        bytes.extend(frame(4, &Status {}));
        send.write_all(&bytes).await.unwrap();
        let mut answers =
            [reader.next().await.unwrap().unwrap(), reader.next().await.unwrap().unwrap()];
        answers.sort_by_key(|answer| answer.id);
        let failure: quorate_protocol::message::Failure = answers[0].message().unwrap();
        assert_eq!(failure.code, quorate_protocol::code::Code::Malformed);
        let status: NodeStatus = answers[1].message().unwrap();
        assert_eq!(status.node, ONE);
        drop(connection);

        writer.acked(5).await;
        let done = writer.stop().await;
        assert!(done.iter().all(|write| write.error.is_none()), "somebody else noticed: {done:?}");
        ledger.check(&exports(&client, "db", &[ONE]).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn a_damaged_batch_is_refused_and_not_stored() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 92).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 1).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let map = client.map();
        let raw = quorate_tests::harness::raw::Raw::new(
            cluster.client_env(),
            cluster.client_credentials("raw"),
        );
        let connection = raw.connect(&map, ONE).await;
        let version = quorate_protocol::id::Version(1_700_000_000_000_000_001);
        let (request, bytes) =
            quorate_tests::harness::raw::encode(&map, "db", &[sample(1, 1)], version);
        let mut refused = 0;
        for bit in (0..bytes.len() * 8).step_by(if soak(1) == 1 { 7 } else { 1 }) {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
            let reply = connection.request(&request, damaged.into(), deadline).await;
            let error = match reply {
                Ok((written, _)) => written.copy.unwrap().error,
                Err(quorate_client::connection::RequestError::Failure(failure)) => {
                    Some(failure.code)
                }
                Err(other) => panic!("{other}"),
            };
            assert!(error.is_some(), "bit {bit} was flipped, and the batch stored");
            refused += 1;
        }
        assert!(refused > 100);
        for _ in 0..2 {
            let text = exports(&client, "db", &[ONE]).await;
            ledger.check(&text).assert_whole();
            cluster.node(ONE).fold().await;
        }
        cluster.finish().await;
    });
}

#[test]
fn a_hint_for_a_node_that_does_not_own_the_shard_is_refused() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 46).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 1).await;
        write(&client, "db", &[sample(1, 0)], &WriteOptions::default(), &ledger).await.unwrap();
        let map = client.map();
        let raw = quorate_tests::harness::raw::Raw::new(
            cluster.client_env(),
            cluster.client_credentials("raw"),
        );
        let version = quorate_protocol::id::Version(1_700_000_000_000_000_001);
        let (request, bytes) =
            quorate_tests::harness::raw::encode(&map, "db", &[sample(1, 1)], version);
        let owners = map.shard(request.shard).unwrap().shard.owners.clone();
        let strangers: Vec<NodeId> =
            cluster.ids().into_iter().filter(|node| !owners.contains(node)).collect();
        assert_eq!((owners.len(), strangers.len()), (1, 2));
        // The one stranger shall keep a hint for the other, who would never take it.
        let connection = raw.connect(&map, strangers[0]).await;
        let request = Write { store: false, hint_for: vec![strangers[1]], ..request };
        let written = quorate_tests::harness::raw::send(&connection, &request, &bytes).await;
        assert_eq!(written.hints[0].answer.error, Some(Code::NotOwner));

        // For the owner it does; and one message gives a node one hint of a batch, not thousands.
        let request = Write { hint_for: owners.clone(), ..request };
        let written = quorate_tests::harness::raw::send(&connection, &request, &bytes).await;
        assert_eq!(written.hints[0].answer.error, None);
        let request = Write { hint_for: vec![owners[0]; 3], ..request };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        match connection.request(&request, bytes, deadline).await {
            Err(quorate_client::connection::RequestError::Failure(failure)) => {
                assert_eq!(failure.code, Code::Malformed);
            }
            other => panic!("{other:?}"),
        }
        cluster.finish().await;
    });
}
