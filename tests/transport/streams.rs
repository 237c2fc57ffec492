//! Requests on streams of their own: long answers, answers without an end, long requests.

use std::time::Duration;

use bytes::Bytes;
use quorate_client::{config::TransportConfig, connection::RequestError, env::Env};
use quorate_protocol::{
    code::Code,
    id::{MetaIndex, ShardId},
    message::{MetaGet, MetaWatch, Ping, RaftSnapshot, Scan},
};
use tokio::time::Instant;

use super::world::{
    Node, connect, dialer, dialer_with, host, later, node_credentials, sim_dialer, sim_node,
    simulate,
};

fn scan(frames: i64, bytes: i64) -> Scan {
    Scan {
        shard: ShardId(1),
        meta_index: MetaIndex(0),
        measurement: None,
        tags: vec![],
        fields: vec![],
        from: frames,
        to: bytes,
        after: None,
        limit: 0,
        rows: 0,
    }
}

#[tokio::test]
async fn a_scan_streams_over_real_sockets() {
    let env = Env::system();
    let node = Node::start(&env, ([127, 0, 0, 1], 0).into(), 1);
    let connection = connect(&dialer(&env), &node).await;
    let mut stream =
        connection.open_stream(&scan(100, 300_000), Bytes::new(), later()).await.unwrap();
    let (mut frames, mut bytes) = (0, 0);
    while let Some((_, payload)) = stream.next().await.unwrap() {
        frames += 1;
        bytes += payload.len();
    }
    assert_eq!((frames, bytes), (100, 99 * 300_000));
    assert!(stream.next().await.unwrap().is_none());
}

#[test]
fn a_scan_nobody_reads_stops_the_node_and_nobody_else() {
    simulate(20, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        let mut streams = Vec::new();
        for _ in 0..8 {
            let scan = scan(10_000, 100_000);
            let open = connection.open_stream(&scan, Bytes::new(), later());
            streams.push(open.await.unwrap());
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(node.echo.running.load(std::sync::atomic::Ordering::Relaxed), 8);
        // Unread streams leave room for everything else, and the connection is not mute.
        connection.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        assert!(connection.lost().is_none());
        // Letting go of them ends the work.
        drop(streams);
        node.idle().await;
    });
}

#[test]
fn a_watch_is_silent_and_lives_and_an_answer_may_be_large() {
    simulate(21, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        let start = Instant::now();
        let watch = MetaWatch { after: MetaIndex(5) };
        let mut news = connection.open_stream(&watch, Bytes::new(), later()).await.unwrap();
        for step in 1..=3 {
            let (changed, _) = news.next().await.unwrap().unwrap();
            assert_eq!(changed.index, MetaIndex(5 + step));
        }
        assert!(start.elapsed() >= Duration::from_secs(90));
        drop(news);
        let get = MetaGet { after: MetaIndex(9_000_000) };
        let (state, map) =
            connection.exchange(&get, Bytes::new(), later(), 10_000_000).await.unwrap();
        assert_eq!((state.index, map.len()), (MetaIndex(5), 9_000_000));
        let error = connection.exchange(&get, Bytes::new(), later(), 8_999_999).await;
        assert!(matches!(error.unwrap_err(), RequestError::Protocol(_)));
        node.idle().await;
    });
}

#[test]
fn a_snapshot_travels_in_many_frames_between_nodes_only() {
    simulate(22, async |net| {
        let node = sim_node(&net, 1);
        let peer =
            dialer_with(&net.env(host(2)), node_credentials("n2"), TransportConfig::default());
        let peer = connect(&peer, &node).await;
        let snapshot = Bytes::from(vec![3; 10_000_000]);
        let (_, length) =
            peer.exchange(&RaftSnapshot {}, snapshot.clone(), later(), 100).await.unwrap();
        assert_eq!(length, "10000000");

        let client = connect(&sim_dialer(&net), &node).await;
        let error = client
            .exchange(&RaftSnapshot {}, Bytes::from_static(b"small"), later(), 100)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Unauthorised);
        let error = client.exchange(&RaftSnapshot {}, snapshot, later(), 100).await.unwrap_err();
        assert!(matches!(error, RequestError::Lost(_)), "{error}");
    });
}
