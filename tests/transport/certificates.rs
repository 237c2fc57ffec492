//! Who may connect to whom, and what the other is told.

use quorate_certs::{Authority, Credentials, Existing, Roles, UnixTime};
use quorate_client::{
    config::TransportConfig,
    connection::{ConnectError, Local},
    env::Env,
};
use quorate_node::endpoint::{self, BindError};
use quorate_protocol::id::{ClusterId, NodeId};

use super::world::{
    CLUSTER, Node, authorities, dialer_with, host, node_credentials, on, sim_dialer, sim_node,
    simulate,
};

#[test]
fn certificates_of_another_ca_are_refused_in_both_directions() {
    simulate(30, async |net| {
        let ours = sim_node(&net, 1);
        let stranger = authorities()
            .1
            .issue_client_in_memory("app", Roles::default(), UnixTime::now())
            .unwrap();
        let other = authorities().1.issue_node_in_memory("n2", &[], UnixTime::now());
        let theirs =
            Node::with(&net.env(host(2)), on(2), 2, other.unwrap(), TransportConfig::default());

        // They do not trust us, and we do not trust them: the dialler looks first.
        let error = sim_dialer(&net).dial(&theirs.addr.to_string(), NodeId(0)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
        assert!(error.to_string().contains("another CA"), "{error}");
        assert!(!error.retryable());

        // A stranger who trusts our CA but is not of it is told by the node.
        let half = stranger_that_trusts_us();
        let dialer = dialer_with(&net.env(host(201)), half, TransportConfig::default());
        let error = dialer.dial(&ours.addr.to_string(), NodeId(0)).await.unwrap_err();
        assert!(matches!(error, ConnectError::CertificateRefused { .. }), "{error:?}");
        assert!(error.to_string().contains("another CA"), "{error}");
        assert!(!error.to_string().contains('\n'));

        let dialer = dialer_with(&net.env(host(202)), stranger, TransportConfig::default());
        let error = dialer.dial(&ours.addr.to_string(), NodeId(0)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
        while ours.server.sessions() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
}

/// A client of the other CA that trusts ours too, as after half a change of CA.
fn stranger_that_trusts_us() -> Credentials {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = authorities();
    let (now, none) = (UnixTime::now(), Existing::Refuse);
    let issue = |ca: &Authority, name| {
        ca.issue_client(&dir.path().join(name), "app", Roles::default(), now, none).unwrap()
    };
    let (our, their) = (issue(ours, "ours"), issue(theirs, "theirs"));
    let both = [&their, &our].map(|dir| std::fs::read_to_string(dir.join("ca.crt")).unwrap());
    std::fs::write(their.join("ca.crt"), both.concat()).unwrap();
    Credentials::load(&their, now).unwrap()
}

#[test]
fn another_cluster_and_another_node_are_told_apart() {
    simulate(31, async |net| {
        let node = sim_node(&net, 1);
        let addr = node.addr.to_string();
        let dialer = sim_dialer(&net);
        let error = dialer.dial(&addr, NodeId(2)).await.unwrap_err();
        assert!(matches!(error, ConnectError::WrongNode { expected: NodeId(2), .. }), "{error:?}");
        dialer.dial(&addr, NodeId(1)).await.unwrap();

        dialer.set_local(Local { cluster: ClusterId(78), node: NodeId(0), ..Local::default() });
        let error = dialer.dial(&addr, NodeId(0)).await.unwrap_err();
        assert!(matches!(error, ConnectError::WrongCluster { .. }), "{error:?}");
        assert!(error.to_string().contains("bootstrapped separately"), "{error}");
        // Who does not know its cluster yet is welcome, and learns it.
        dialer.set_local(Local::default());
        let connection = dialer.dial(&addr, NodeId(0)).await.unwrap();
        assert_eq!(connection.welcome().cluster, CLUSTER);

        // A client cannot pose as a node.
        dialer.set_local(Local { cluster: CLUSTER, node: NodeId(3), ..Local::default() });
        let error = dialer.dial(&addr, NodeId(0)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unauthorised { .. }), "{error:?}");
        let peer =
            dialer_with(&net.env(host(3)), node_credentials("n3"), TransportConfig::default());
        peer.set_local(Local { cluster: CLUSTER, node: NodeId(3), ..Local::default() });
        peer.dial(&addr, NodeId(1)).await.unwrap();
    });
}

#[test]
fn nobody_there_is_said_in_time() {
    simulate(32, async |net| {
        let dialer = sim_dialer(&net);
        let start = tokio::time::Instant::now();
        let error = dialer.dial("10.0.0.9:7000", NodeId(0)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
        let limit = dialer.config().connect_timeout;
        assert!(start.elapsed() <= limit + std::time::Duration::from_millis(5));
        for addr in ["nowhere:1", "10.0.0.9", ""] {
            let error = dialer.dial(addr, NodeId(0)).await.unwrap_err();
            assert!(matches!(error, ConnectError::Resolve { .. }), "{error:?}");
        }
    });
}

#[tokio::test]
async fn a_taken_port_is_told_from_other_trouble() {
    let env = Env::system();
    let config = TransportConfig::default();
    let first = Node::start(&env, ([127, 0, 0, 1], 0).into(), 1);
    let credentials = node_credentials("n1");
    let error = endpoint::bind(&env, first.addr, &credentials, &config).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    let elsewhere = ([192, 0, 2, 1], 0).into();
    let error = endpoint::bind(&env, elsewhere, &credentials, &config).unwrap_err();
    assert!(matches!(error, BindError::NotLocal { .. }), "{error}");
}
