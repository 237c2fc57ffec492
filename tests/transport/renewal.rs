//! Certificates that change while connections are open.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_certs::{Credentials, Revocations, Roles, Serial, UnixTime};
use quorate_client::{
    config::TransportConfig,
    connection::{ConnectError, Lost},
    pool::{Member, PeerState, Pool},
};
use quorate_protocol::{code::Close, id::NodeId, message::Ping};
use tokio::time::{Instant, sleep, timeout};

use super::world::{
    authorities, connect, dialer_with, host, later, node_credentials, shard, sim_dialer, sim_node,
    simulate, write_to,
};

/// A certificate that nobody else has.
fn fresh_client() -> Credentials {
    let ours = &authorities().0;
    ours.issue_client_in_memory("app", Roles::default(), UnixTime::now()).unwrap()
}

/// These, which refuse the holder of those.
fn without(credentials: Credentials, other: &Credentials) -> Credentials {
    let revoked: Revocations = other.chain().iter().filter_map(Serial::of).collect();
    credentials.revoking(&revoked)
}

#[test]
fn who_is_revoked_is_closed_and_told_why_and_nobody_else_is() {
    simulate(40, async |net| {
        let node = sim_node(&net, 1);
        let (good, bad) = (fresh_client(), fresh_client());
        let stays = sim_dialer(&net);
        stays.set_credentials(good).unwrap();
        let goes = dialer_with(&net.env(host(201)), bad.clone(), TransportConfig::default());
        let (stays, other) = (connect(&stays, &node).await, connect(&goes, &node).await);
        let never = write_to(shard::NEVER, 0);
        let asked = other.request(&never, Bytes::new(), later());
        let asked = async {
            let closed = timeout(Duration::from_secs(10), other.closed());
            tokio::join!(timeout(Duration::from_secs(10), asked), closed)
        };
        let revoke = async {
            sleep(Duration::from_millis(50)).await;
            node.server.set_credentials(without(node_credentials("n1"), &bad)).unwrap();
        };
        let ((answer, lost), ()) = tokio::join!(asked, revoke);
        assert!(matches!(answer, Ok(Err(_))), "{answer:?}");
        let Ok(Lost::Closed { code: Close::Unauthorised, reason }) = lost else {
            panic!("{lost:?}");
        };
        assert!(reason.contains("was revoked (serial number"), "{reason}");
        stays.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        let error = goes.dial(&node.addr.to_string(), NodeId(0)).await.unwrap_err();
        assert!(matches!(error, ConnectError::CertificateRefused { .. }), "{error:?}");
        assert!(error.to_string().contains("revoked"), "{error}");
        assert!(!error.retryable());
        // Whoever comes with another certificate is somebody else.
        goes.set_credentials(fresh_client()).unwrap();
        connect(&goes, &node).await;
        node.idle().await;
    });
}

#[test]
fn a_node_that_is_revoked_is_left_and_not_dialled_again() {
    simulate(41, async |net| {
        let node = sim_node(&net, 1);
        let theirs = node_credentials("n1");
        node.server.set_credentials(theirs.clone()).unwrap();
        let dialer = sim_dialer(&net);
        let connection = connect(&dialer, &node).await;
        dialer.set_credentials(without(fresh_client(), &theirs)).unwrap();
        assert_eq!(timeout(Duration::from_secs(1), connection.closed()).await, Ok(Lost::Local));
        let error = dialer.dial(&node.addr.to_string(), NodeId(0)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
        assert!(error.to_string().contains("revoked"), "{error}");
        node.idle().await;
    });
}

#[test]
fn a_renewed_certificate_takes_the_place_of_the_old_one_without_losing_an_answer() {
    simulate(42, async |net| {
        let node = sim_node(&net, 1);
        let config = TransportConfig::default();
        let dialer = dialer_with(&net.env(host(200)), fresh_client(), config.clone());
        let pool = Pool::new(Arc::clone(&dialer));
        pool.update([(NodeId(1), node.addr.to_string())]);
        let peer = pool.peer(NodeId(1)).unwrap();
        let before = peer.wait_up().await.unwrap();
        let (id, mut states) = (before.stable_id(), peer.watch());
        // Longer than everything else here takes.
        let wait = config.renew_spread + config.connect_timeout * 2;
        let slow = write_to(shard::SLOW, u64::try_from(wait.as_millis()).unwrap());
        let slow = tokio::spawn(async move { before.request(&slow, Bytes::new(), later()).await });
        dialer.set_credentials(fresh_client()).unwrap();
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < wait, "not replaced");
            let _ = timeout(wait, states.changed()).await;
            match &*states.borrow_and_update() {
                PeerState::Up(now) if now.stable_id() != id => break,
                PeerState::Up(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(start.elapsed() < config.renew_spread + config.connect_timeout, "in time");
        let after = peer.connection().unwrap();
        assert!(!slow.is_finished(), "the old one is in use still");
        assert_eq!(node.server.sessions(), 2);
        after.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        slow.await.unwrap().unwrap();
        while node.server.sessions() > 1 {
            sleep(Duration::from_millis(10)).await;
        }
        after.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        // The same once more changes nothing.
        dialer.set_credentials(dialer.credentials()).unwrap();
        sleep(wait).await;
        assert_eq!(peer.connection().unwrap().stable_id(), after.stable_id());
        pool.shutdown().await;
    });
}

#[test]
fn a_renewed_certificate_brings_no_other_node_in_the_place_of_the_one_that_was_dialled() {
    simulate(44, async |net| {
        let node = sim_node(&net, 1);
        let config = TransportConfig::default();
        let dialer = dialer_with(&net.env(host(200)), fresh_client(), config.clone());
        let pool = Pool::new(Arc::clone(&dialer));
        let name = Some("n1".to_owned());
        pool.update([Member { node: NodeId(1), name, addr: node.addr.to_string() }]);
        let peer = pool.peer(NodeId(1)).unwrap();
        let before = peer.wait_up().await.unwrap();
        // A node of the cluster too, and it still says that it is node 1.
        node.server.set_credentials(node_credentials("n3")).unwrap();
        dialer.set_credentials(fresh_client()).unwrap();
        sleep(config.renew_spread + config.connect_timeout).await;
        let now = peer.wait_up().await.unwrap();
        assert_eq!((now.identity().name(), now.stable_id()), ("n1", before.stable_id()));
        // Once it is itself again, the new certificate is used.
        node.server.set_credentials(node_credentials("n1")).unwrap();
        sleep(config.backoff_max + config.renew_spread + config.connect_timeout).await;
        let now = peer.wait_up().await.unwrap();
        assert_ne!(now.stable_id(), before.stable_id());
        pool.shutdown().await;
    });
}
