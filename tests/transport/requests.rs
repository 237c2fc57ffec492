//! Requests on lanes: order, deadlines, cancellation, credit, failures.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use quorate_client::{
    config::TransportConfig,
    connection::{NotSent, RequestError},
    env::Env,
};
use quorate_protocol::{
    change::{Change, NewField},
    code::Code,
    id::{DatabaseId, MetaIndex},
    message::{Ping, Propose, RaftVote, Status},
    schema::FieldType,
};
use tokio::time::Instant;

use super::world::{
    Node, client_credentials, connect, dialer, dialer_with, host, later, node_credentials, on,
    shard, sim_dialer, sim_node, simulate, write_to,
};

#[test]
fn answers_come_back_as_they_are_ready() {
    simulate(1, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        let mut answers = Vec::new();
        let start = Instant::now();
        let mut done = tokio::task::JoinSet::new();
        for wait in [500u64, 300, 100, 0] {
            let payload = Bytes::from(vec![9; 1000 + usize::try_from(wait).unwrap()]);
            let permit = connection.reserve(payload.len(), later()).await.unwrap();
            let write = write_to(shard::SLOW, wait);
            let answer = connection.send(permit, &write, payload.clone(), later());
            done.spawn(async move {
                let (written, echoed) = answer.await.unwrap();
                assert_eq!(echoed, payload);
                assert_eq!(written.copy.unwrap().sequence.0, payload.len() as u64);
                wait
            });
        }
        while let Some(wait) = done.join_next().await {
            answers.push(wait.unwrap());
        }
        assert_eq!(answers, [0, 100, 300, 500]);
        assert!(start.elapsed() < Duration::from_millis(600), "pipelined");
        assert_eq!(connection.open_requests(), 0);
        assert_eq!(node.server.sessions(), 1);
    });
}

#[tokio::test]
async fn many_requests_over_real_sockets() {
    let env = Env::system();
    let node = Node::start(&env, ([127, 0, 0, 1], 0).into(), 1);
    let connection = connect(&dialer(&env), &node).await;
    let mut done = tokio::task::JoinSet::new();
    for i in 0..2000usize {
        let connection = Arc::clone(&connection);
        done.spawn(async move {
            let payload = Bytes::from(vec![i as u8; (i * 37) % 70_000]);
            let write = write_to(shard::ECHO, 0);
            let (_, echoed) = connection.request(&write, payload.clone(), later()).await.unwrap();
            assert_eq!(echoed, payload);
        });
    }
    while let Some(result) = done.join_next().await {
        result.unwrap();
    }
    assert_eq!(node.echo.calls.load(Ordering::Relaxed), 2000);
    assert_eq!(connection.credit_left() as u64, connection.welcome().credit);
}

#[test]
fn a_deadline_gives_the_request_up_on_both_sides() {
    simulate(2, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        let deadline = Instant::now() + Duration::from_millis(200);
        let write = write_to(shard::NEVER, 0);
        let error =
            connection.request(&write, Bytes::from(vec![0; 5000]), deadline).await.unwrap_err();
        assert!(matches!(error, RequestError::Deadline), "{error}");
        assert!(Instant::now() < deadline + Duration::from_millis(5));
        node.idle().await;
        // The answer to the cancelled request returns its credit.
        let all = usize::try_from(connection.welcome().credit).unwrap();
        while connection.credit_left() < all {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(connection.open_requests(), 0);
        let echo = write_to(shard::ECHO, 0);
        connection.request(&echo, Bytes::new(), later()).await.unwrap();
    });
}

#[test]
fn dropping_the_future_cancels_the_request() {
    simulate(3, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        let write = write_to(shard::NEVER, 0);
        let request = connection.request(&write, Bytes::new(), later());
        let _ = tokio::time::timeout(Duration::from_millis(50), request).await;
        assert_eq!(node.echo.calls.load(Ordering::Relaxed), 1);
        node.idle().await;
    });
}

#[test]
fn without_credit_nothing_is_sent() {
    simulate(4, async |net| {
        let config = TransportConfig {
            credit: 1, // raised to one largest frame
            ..TransportConfig::default()
        };
        let env = net.env(host(1));
        let node = Node::with(&env, on(1), 1, node_credentials("n1"), config);
        let connection = connect(&sim_dialer(&net), &node).await;
        let credit = usize::try_from(connection.welcome().credit).unwrap();
        assert_eq!(credit, 4 << 20);
        let mut held = Vec::new();
        for _ in 0..4 {
            let permit = connection.try_reserve(1_000_000).unwrap();
            let payload = Bytes::from(vec![0; 1_000_000]);
            let write = write_to(shard::NEVER, 0);
            held.push(connection.send(permit, &write, payload, later()));
        }
        let error = connection.try_reserve(1_000_000).unwrap_err();
        assert!(matches!(error, RequestError::NotSent(NotSent::Full)), "{error}");
        let deadline = Instant::now() + Duration::from_millis(100);
        let error = connection.reserve(1_000_000, deadline).await.unwrap_err();
        assert!(matches!(error, RequestError::NotSent(NotSent::Deadline)), "{error}");
        let error = connection.reserve(5_000_000, later()).await.unwrap_err();
        assert!(matches!(error, RequestError::NotSent(NotSent::TooLarge { .. })), "{error}");
        // Raft and signs of life are not held up by it.
        connection.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        held.pop();
        connection.reserve(1_000_000, later()).await.unwrap();
    });
}

#[test]
fn more_requests_than_the_node_takes_are_busy() {
    simulate(5, async |net| {
        let config = TransportConfig { max_requests: 3, ..TransportConfig::default() };
        let node = Node::with(&net.env(host(1)), on(1), 1, node_credentials("n1"), config);
        let connection = connect(&sim_dialer(&net), &node).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let permit = connection.reserve(0, later()).await.unwrap();
            let write = write_to(shard::NEVER, 0);
            held.push(connection.send(permit, &write, Bytes::new(), later()));
        }
        let write = write_to(shard::ECHO, 0);
        let error = connection.request(&write, Bytes::new(), later()).await.unwrap_err();
        assert_eq!(error.code(), Code::Busy);
        let RequestError::Failure(failure) = error else { panic!("{error}") };
        assert!(failure.retry_after_ms > 0);
        drop(held);
        node.idle().await;
        connection.request(&write, Bytes::new(), later()).await.unwrap();
    });
}

#[test]
fn a_service_that_forgets_or_panics_still_answers() {
    simulate(6, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        for shard in [shard::FORGET, shard::PANIC] {
            let write = write_to(shard, 0);
            let error = connection.request(&write, Bytes::from_static(b"x"), later()).await;
            assert_eq!(error.unwrap_err().code(), Code::Internal);
        }
        assert_eq!(connection.credit_left() as u64, connection.welcome().credit);
    });
}

#[test]
fn roles_decide_and_a_refusal_costs_one_answer_only() {
    simulate(7, async |net| {
        let node = sim_node(&net, 1);
        let client = connect(&sim_dialer(&net), &node).await;
        let error = client.request(&RaftVote {}, Bytes::new(), later()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthorised);
        let RequestError::Failure(failure) = &error else { panic!("{error}") };
        assert_eq!(failure.meta_index, MetaIndex(5));
        assert!(!error.retryable());

        let reader = super::world::authorities().0.issue_client_in_memory(
            "reader",
            [quorate_certs::Role::Read].into_iter().collect(),
            quorate_certs::UnixTime::now(),
        );
        let reader = dialer_with(&net.env(host(201)), reader.unwrap(), TransportConfig::default());
        let reader = connect(&reader, &node).await;
        let write = write_to(shard::ECHO, 0);
        let error = reader.request(&write, Bytes::new(), later()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthorised);
        let error = reader.request(&Status {}, Bytes::new(), later()).await.unwrap_err();
        assert_eq!(error.code(), Code::NotReady, "allowed; the echo does not know it");
        assert_eq!(node.echo.calls.load(Ordering::Relaxed), 1);

        // A node may do all of it.
        let peer =
            dialer_with(&net.env(host(2)), node_credentials("n2"), TransportConfig::default());
        let peer = connect(&peer, &node).await;
        let error = peer.request(&RaftVote {}, Bytes::new(), later()).await.unwrap_err();
        assert_eq!(error.code(), Code::NotReady);
    });
}

#[test]
fn a_stopping_node_finishes_what_it_has_begun() {
    simulate(8, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        let permit = connection.reserve(10, later()).await.unwrap();
        let slow = write_to(shard::SLOW, 800);
        let begun = connection.send(permit, &slow, Bytes::from_static(b"0123456789"), later());
        connection.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        let stopping = tokio::spawn(async move {
            node.server.shutdown().await;
            node
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let write = write_to(shard::ECHO, 0);
        let error = connection.request(&write, Bytes::new(), later()).await.unwrap_err();
        assert_eq!(error.code(), Code::ShuttingDown);
        let (_, echoed) = begun.await.unwrap();
        assert_eq!(echoed, "0123456789");
        let lost = connection.closed().await;
        assert!(matches!(lost, quorate_client::connection::Lost::Closed { .. }), "{lost}");
        let node = stopping.await.unwrap();
        assert_eq!(node.server.sessions(), 0);
        // A new dial finds nobody, and says so in time.
        let error = sim_dialer(&net)
            .dial(&node.addr.to_string(), quorate_protocol::id::NodeId(0))
            .await
            .unwrap_err();
        assert!(error.retryable(), "{error}");
    });
}

#[test]
fn a_stopping_node_does_not_wait_for_ever() {
    simulate(9, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        let write = write_to(shard::NEVER, 0);
        let never = tokio::spawn({
            let connection = Arc::clone(&connection);
            async move { connection.request(&write, Bytes::new(), later()).await }
        });
        connection.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        let start = Instant::now();
        node.server.shutdown().await;
        let limit = TransportConfig::default().drain_timeout;
        assert!(start.elapsed() >= limit && start.elapsed() < limit * 2, "{:?}", start.elapsed());
        // Not a refusal: it may have had its effect.
        let error = never.await.unwrap().unwrap_err();
        assert!(matches!(error, RequestError::Lost(_)), "{error}");
        assert_eq!(node.echo.running.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn credentials_are_replaced_without_losing_connections() {
    simulate(10, async |net| {
        let node = sim_node(&net, 1);
        let dialer = sim_dialer(&net);
        let before = connect(&dialer, &node).await;
        node.server.set_credentials(node_credentials("n1")).unwrap();
        dialer.set_credentials(client_credentials()).unwrap();
        let after = connect(&dialer, &node).await;
        for connection in [before, after] {
            connection.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        }
    });
}

#[test]
fn a_credited_request_must_use_a_lane() {
    simulate(11, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        let write = write_to(shard::ECHO, 0);
        let error = connection.open_stream(&write, Bytes::new(), later()).await.unwrap_err();
        assert!(error.not_sent(), "{error}");
    });
}

#[test]
fn changes_that_are_not_answered_yet_hold_a_bounded_number_of_bytes() {
    simulate(12, async |net| {
        let node = sim_node(&net, 1);
        let connection = connect(&sim_dialer(&net), &node).await;
        let field = NewField {
            measurement: "m".into(),
            field: vec![b'f'; 2 << 20].into(),
            kind: FieldType::Float,
        };
        let change = Change::RegisterFields { database: DatabaseId(1), fields: vec![field] };
        let change = change.encode().unwrap();
        let granted = TransportConfig::default().granted_credit() as usize;
        let (fit, over) = (granted / change.len(), 3);
        let asked = (0..fit + over).map(|_| {
            let (connection, change) = (Arc::clone(&connection), change.clone());
            tokio::spawn(async move {
                let request = Propose { deadline_ms: 0, forwarded: false, after: MetaIndex(0) };
                let answer = connection.exchange(&request, change, later(), 1).await;
                answer.unwrap_err().code()
            })
        });
        let mut codes = Vec::new();
        for asked in asked.collect::<Vec<_>>() {
            codes.push(asked.await.unwrap());
        }
        let busy = codes.iter().filter(|code| **code == Code::Busy).count();
        assert_eq!((busy, codes.len()), (over, fit + over));
        // What was answered holds nothing any more, and the connection has lived.
        let request = Propose { deadline_ms: 0, forwarded: false, after: MetaIndex(0) };
        let answer = connection.exchange(&request, change, later(), 1).await;
        assert_eq!(answer.unwrap_err().code(), Code::NotReady);
        node.idle().await;
    });
}
