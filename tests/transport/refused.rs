//! Certificates that must open no door, in either direction: both ends say why, and nothing that their
//! holders send reaches a handler.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use quorate_certs::{
    Credentials, Identity, Revocations, Role, Roles, SERVER_NAME, Serial, UnixTime, forge::Forgery,
};
use quorate_client::{
    config::TransportConfig,
    connection::{ConnectError, Local},
    pool::{DownReason, Member, PeerState, Pool},
};
use quorate_protocol::{
    frame::Frame,
    hello::{ALPN, Hello, MINOR},
    id::NodeId,
    message::Status,
};
use quorate_tests::harness::net::SimNet;
use tokio::time::{sleep, timeout};

use super::{
    access::Counting,
    hostile::Raw,
    world::{
        CLUSTER, authorities, client_credentials, dialer_with, host, node_credentials, on,
        sim_dialer, simulate,
    },
};

const DAY: u64 = 24 * 60 * 60;
/// Whoever has this one is on the list of those it meets.
const REVOKED: &str = "revoked";

/// What a test's nodes log.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// From now on, until the guard is dropped.
    pub fn start() -> (Self, (tracing::subscriber::DefaultGuard, tracing::Dispatch)) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || writer.clone())
            .finish();
        // With one subscriber only, what another test's thread meets first is off for all threads.
        let second = tracing::Dispatch::new(tracing_subscriber::registry());
        (log, (tracing::subscriber::set_default(subscriber), second))
    }

    pub fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

fn at(days: i64) -> UnixTime {
    let now = UnixTime::now().as_secs();
    UnixTime::since_unix_epoch(Duration::from_secs(now.saturating_add_signed(days * DAY as i64)))
}

fn list(revoked: &Credentials) -> Revocations {
    Serial::of(&revoked.chain()[0]).into_iter().collect()
}

fn client(cluster: &str) -> Identity {
    Identity::client(cluster, "eve", Roles::from_iter([Role::Admin])).unwrap()
}

fn node(cluster: &str, name: &str) -> Identity {
    Identity::node(cluster, name).unwrap()
}

/// An honest certificate of our CA, still to be spoilt.
fn honest(identity: Identity) -> Forgery<'static> {
    let ours = &authorities().0;
    let is_node = identity.is_node();
    Forgery {
        signer: Some(ours),
        uris: vec![identity.to_string()],
        names: if is_node { vec![SERVER_NAME.to_owned()] } else { Vec::new() },
        usages: (is_node, true),
        dates: (at(-1), at(1)),
        holder: identity,
        trusts: ours,
    }
}

/// Somebody who must not get in, and what each end says.
struct Case {
    what: &'static str,
    credentials: Credentials,
    says: Local,
    dialler: &'static str,
    listener: &'static str,
}

fn diallers() -> Vec<Case> {
    let case = |what, forgery: Forgery<'static>, dialler, listener| {
        let says = Local { cluster: CLUSTER, node: NodeId(0), ..Local::default() };
        Case { what, credentials: forgery.make().unwrap(), says, dialler, listener }
    };
    let theirs = &authorities().1;
    let good = || honest(client("prod"));
    let out = "it has expired or is not valid yet";
    let another = "of another CA";
    let mut all = vec![
        case("expired", Forgery { dates: (at(-2), at(-1)), ..good() }, out, out),
        case("not yet valid", Forgery { dates: (at(1), at(2)), ..good() }, out, out),
        case("of another CA", Forgery { signer: Some(theirs), ..good() }, another, another),
        case("signed by itself", Forgery { signer: None, ..good() }, another, another),
        case(
            "of another cluster, whose CA we trust",
            Forgery { uris: vec![client("test").to_string()], ..good() },
            "belongs to another cluster",
            "spiffe://test/client/eve?role=admin, but this is cluster 'prod'",
        ),
        case(REVOKED, good(), "was revoked", "was revoked"),
        case(
            "not for the dialling side",
            Forgery { usages: (true, false), ..honest(node("prod", "n2")) },
            "not made for this side",
            "not made for this side",
        ),
        // The TLS library takes that for any use, as RFC 5280 does.
        case(
            "for no side in particular",
            Forgery { usages: (false, false), ..good() },
            "lacks client authentication",
            "spiffe://prod/client/eve?role=admin lacks client authentication",
        ),
        case(
            "without an identity",
            Forgery { uris: Vec::new(), ..good() },
            "0 URI names",
            "0 URI names instead of one",
        ),
        case(
            "with two identities",
            Forgery {
                uris: vec![client("prod").to_string(), node("prod", "n2").to_string()],
                ..good()
            },
            "2 URI names",
            "2 URI names instead of one",
        ),
        case(
            "with a role that there is not",
            Forgery { uris: vec!["spiffe://prod/client/eve?role=node".to_owned()], ..good() },
            "unknown role 'node'",
            "unknown role 'node'",
        ),
    ];
    let says = |what, identity, node, dialler, listener| {
        let credentials = honest(identity).make().unwrap();
        Case {
            what,
            credentials,
            says: Local { cluster: CLUSTER, node, ..Local::default() },
            dialler,
            listener,
        }
    };
    all.push(says(
        "a client that says it is a node",
        client("prod"),
        NodeId(2),
        "claims to be a node",
        "spiffe://prod/client/eve?role=admin claims to be a node",
    ));
    all.push(says(
        "a node that says it is another",
        node("prod", "n3"),
        NodeId(2),
        "claims to be node 2, which is 'n2'",
        "spiffe://prod/node/n3 claims to be node 2, which is 'n2'",
    ));
    all
}

#[test]
fn whoever_does_not_belong_gets_no_further_than_the_handshake_and_both_ends_say_why() {
    let (log, _guard) = Log::start();
    simulate(35, async |net| {
        let cases = diallers();
        let revoked = cases.iter().find(|case| case.what == REVOKED).unwrap();
        let ours = node_credentials("n1").revoking(&list(&revoked.credentials));
        let home = Counting::start(&net, 1, NodeId(1), ours);
        for (n, case) in (100u8..).zip(cases) {
            let Case { what, credentials, says, dialler, listener } = case;
            let config = TransportConfig::default();
            let theirs = dialer_with(&net.env(host(n)), credentials.clone(), config);
            theirs.set_local(says);
            let error = theirs.dial(&on(1).to_string(), NodeId(0)).await.unwrap_err();
            let told = error.to_string();
            assert!(told.contains(dialler) && !told.contains('\n'), "{what}: {told}");
            assert!(!error.retryable(), "{what}: {error:?}");
            settle(&home).await;
            let logged = log.take();
            let from = format!("refused client from {}", host(n));
            assert!(logged.contains(&from) && logged.contains(listener), "{what}: {logged}");
            assert_eq!(logged.lines().count(), 1, "{what}: {logged}");

            // And one that waits for no answer, but asks at once.
            pushes(&net, &credentials, says.node).await;
            settle(&home).await;
            assert!(log.take().contains(listener), "{what}");
            assert_eq!(home.calls(), 0, "{what}");
        }
        // The same request by somebody who belongs: what was pushed above would have been served.
        let honest = honest(client("prod")).make().unwrap();
        pushes(&net, &honest, NodeId(0)).await;
        assert_eq!(home.calls(), 1);
    });
}

/// Sends Hello and a request behind it without waiting for anything, and waits for the end.
async fn pushes(net: &SimNet, credentials: &Credentials, node: NodeId) {
    let Ok(raw) = Raw::connect_as(net, on(1), ALPN, credentials).await else { return };
    let hello = Hello { minor: MINOR, features: 0, cluster: CLUSTER, node, expect: NodeId(0) };
    let frames = [Frame::new(1, &hello, Bytes::new()), Frame::new(2, &Status {}, Bytes::new())];
    let Ok((mut send, _recv)) = raw.quic.open_bi().await else { return };
    for frame in frames {
        let _ = send.write_all(&frame.unwrap().head().unwrap()).await;
    }
    let _ = send.finish();
    sleep(Duration::from_secs(1)).await;
}

/// Until the node has let go of whoever came.
async fn settle(node: &Counting) {
    sleep(Duration::from_millis(100)).await;
    while node.server.sessions() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn whoever_answers_must_be_the_node_that_was_dialled() {
    let (log, _guard) = Log::start();
    let theirs = &authorities().1;
    let good = || honest(node("prod", "n2"));
    let out = "it has expired or is not valid yet";
    let cases = [
        ("expired", Forgery { dates: (at(-2), at(-1)), ..good() }, out, out),
        ("not yet valid", Forgery { dates: (at(1), at(2)), ..good() }, out, out),
        (
            "of another CA",
            Forgery { signer: Some(theirs), ..good() },
            "of another CA",
            "of another CA",
        ),
        ("signed by itself", Forgery { signer: None, ..good() }, "of another CA", "of another CA"),
        (REVOKED, good(), "was revoked", "was revoked"),
        (
            "of another cluster, whose CA we trust",
            Forgery { uris: vec![node("test", "n2").to_string()], ..good() },
            "belongs to another cluster: the peer is spiffe://test/node/n2",
            "spiffe://test/node/n2, but this is cluster 'prod'",
        ),
        ("a client's", honest(client("prod")), "not made for this side", "not made for this side"),
        (
            "not for the listening side",
            Forgery { usages: (false, true), ..good() },
            "not made for this side",
            "not made for this side",
        ),
        (
            "for no side in particular",
            Forgery { usages: (false, false), ..good() },
            "lacks server authentication",
            "spiffe://prod/node/n2 lacks server authentication",
        ),
        (
            "without the name that all nodes have",
            Forgery { names: vec!["n2".to_owned()], ..good() },
            "not a valid certificate of a node",
            "not a valid certificate of a node",
        ),
        (
            "a client's that may listen",
            Forgery {
                usages: (true, true),
                names: vec![SERVER_NAME.to_owned()],
                ..honest(client("prod"))
            },
            "which is not a node",
            "which is not a node",
        ),
        (
            "another node's",
            honest(node("prod", "n3")),
            "is not node 2: the peer is spiffe://prod/node/n3, not node 'n2'",
            "spiffe://prod/node/n3, not node 'n2'",
        ),
    ];
    simulate(36, async |net| {
        // A client, and another node: they use the same code and must come to the same.
        let of_node = |list: &Revocations| {
            let ours = node_credentials("n1").revoking(list);
            let peer = dialer_with(&net.env(host(201)), ours, TransportConfig::default());
            peer.set_local(Local { cluster: CLUSTER, node: NodeId(1), ..Local::default() });
            peer
        };
        let peer = of_node(&Revocations::default());
        for (n, (what, forgery, dialler, listener)) in (10u8..).zip(cases) {
            let bad = forgery.make().unwrap();
            let list = if what == REVOKED { list(&bad) } else { Revocations::default() };
            let ours = client_credentials().revoking(&list);
            let user = dialer_with(&net.env(host(200)), ours, TransportConfig::default());
            let there = Counting::start(&net, n, NodeId(2), bad);
            for from in [user, of_node(&list)] {
                let error =
                    from.dial_named(&on(n).to_string(), NodeId(2), Some("n2")).await.unwrap_err();
                let told = error.to_string();
                assert!(told.contains(dialler) && !told.contains('\n'), "{what}: {told}");
                assert!(!error.retryable(), "{what}: {error:?}");
                settle(&there).await;
                let logged = log.take();
                assert!(logged.contains(listener), "{what}: {logged}");
                assert_eq!(there.calls(), 0, "{what}");
            }
        }
        let _there =
            Counting::start(&net, 2, NodeId(2), honest(node("prod", "n2")).make().unwrap());
        peer.dial_named(&on(2).to_string(), NodeId(2), Some("n2")).await.unwrap();
    });
}

#[test]
fn a_pool_uses_no_node_whose_certificate_is_another_s_however_it_was_met() {
    simulate(37, async |net| {
        // It says that it is node 1, and is a node of the cluster, but not that one.
        let _liar = Counting::start(&net, 9, NodeId(1), node_credentials("n3"));
        let _one = Counting::start(&net, 1, NodeId(1), node_credentials("n1"));
        let member = |addr: std::net::SocketAddr| Member {
            node: NodeId(1),
            name: Some("n1".to_owned()),
            addr: addr.to_string(),
        };
        let pool = Pool::new(sim_dialer(&net));
        pool.seed([on(9).to_string()]);
        while pool.up().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        // A seed is not known by name; what it says of itself makes it no member's connection.
        assert_eq!(pool.up()[0].node(), NodeId(1));
        pool.update([member(on(1))]);
        let peer = pool.peer(NodeId(1)).unwrap();
        assert_eq!(peer.wait_up().await.unwrap().identity().name(), "n1");
        pool.shutdown().await;

        let pool = Pool::new(sim_dialer(&net));
        pool.update([member(on(9))]);
        let peer = pool.peer(NodeId(1)).unwrap();
        let mut state = peer.watch();
        let down = state.wait_for(|state| matches!(state, PeerState::Down { .. }));
        drop(timeout(Duration::from_secs(60), down).await.unwrap());
        let PeerState::Down { reason: DownReason::Connect(error), .. } = peer.state() else {
            panic!("{:?}", peer.state())
        };
        assert!(matches!(*error, ConnectError::WrongNode { .. }), "{error}");
        pool.update([member(on(1))]);
        assert_eq!(peer.wait_up().await.unwrap().identity().name(), "n1");
        pool.shutdown().await;
    });
}
