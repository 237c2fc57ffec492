//! Real TLS handshakes between in-memory buffers: who gets through, and who does not.

use rustls::{CertificateError, ClientConnection, Error, ServerConnection};

use super::*;
use crate::{Authority, Config, Role, Roles};

const NOW_S: u64 = 1_800_000_000;
const ALPN: &[u8] = b"quorate/1";

#[derive(Debug)]
struct Frozen(u64);

impl TimeProvider for Frozen {
    fn current_time(&self) -> Option<UnixTime> {
        Some(at(self.0))
    }
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn authority(cluster: &str) -> Authority {
    Authority::ephemeral(cluster, Config::default(), at(NOW_S)).unwrap()
}

fn node(ca: &Authority, name: &str) -> Credentials {
    ca.issue_node_in_memory(name, &[], at(NOW_S)).unwrap().with_time(Arc::new(Frozen(NOW_S)))
}

fn client(ca: &Authority, name: &str) -> Credentials {
    ca.issue_client_in_memory(name, Roles::default(), at(NOW_S))
        .unwrap()
        .with_time(Arc::new(Frozen(NOW_S)))
}

/// How the handshake ended on the dialling and on the accepting side.
struct Outcome {
    dialler: Result<(), Error>,
    acceptor: Result<(), Error>,
    dial: ClientConnection,
    accept: ServerConnection,
}

fn shake(dialler: ClientConfig, acceptor: ServerConfig) -> Outcome {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut outcome = Outcome {
        dialler: Ok(()),
        acceptor: Ok(()),
        dial: ClientConnection::new(Arc::new(dialler), name).unwrap(),
        accept: ServerConnection::new(Arc::new(acceptor)).unwrap(),
    };
    // Flights of at most some kilobytes; both sides are quiet long before this many rounds.
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while outcome.dial.wants_write() {
            outcome.dial.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() && outcome.acceptor.is_ok() {
            outcome.accept.read_tls(&mut rest).unwrap();
            outcome.acceptor = outcome.accept.process_new_packets().map(drop);
        }
        let mut bytes = Vec::new();
        while outcome.accept.wants_write() {
            outcome.accept.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() && outcome.dialler.is_ok() {
            outcome.dial.read_tls(&mut rest).unwrap();
            outcome.dialler = outcome.dial.process_new_packets().map(drop);
        }
    }
    outcome
}

fn between(dialler: &Credentials, acceptor: &Credentials) -> Outcome {
    shake(dialler.client_config(ALPN).unwrap(), acceptor.server_config(ALPN).unwrap())
}

fn certificate_error(result: &Result<(), Error>) -> &CertificateError {
    match result {
        Err(Error::InvalidCertificate(e)) => e,
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_of_one_cluster_see_each_others_identity() {
    let ca = authority("c");
    let (n1, n2, app) = (node(&ca, "n1"), node(&ca, "n2"), client(&ca, "app"));
    for dialler in [&n2, &app] {
        let outcome = between(dialler, &n1);
        assert_eq!((&outcome.dialler, &outcome.acceptor), (&Ok(()), &Ok(())));
        assert!(!outcome.dial.is_handshaking() && !outcome.accept.is_handshaking());
        assert_eq!(outcome.accept.alpn_protocol(), Some(ALPN));
        assert_eq!(outcome.accept.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(outcome.dial.tls13_tickets_received(), 0);

        let seen = outcome.accept.peer_certificates().unwrap();
        assert_eq!(n1.verify_peer(seen), Ok(dialler.identity().clone()));
        let seen = outcome.dial.peer_certificates().unwrap();
        assert_eq!(dialler.verify_node(seen, Some("n1")), Ok(n1.identity().clone()));
        assert_eq!(dialler.verify_node(seen, None), Ok(n1.identity().clone()));
        assert!(matches!(dialler.verify_node(seen, Some("n2")), Err(PeerError::OtherNode { .. })));
    }
}

#[test]
fn another_ca_is_refused_by_either_side() {
    // The same name, too: then the names of the issuers agree and only the signature tells.
    for (name, expected) in
        [("c", CertificateError::BadSignature), ("d", CertificateError::UnknownIssuer)]
    {
        let (ours, theirs) = (authority("c"), authority(name));
        let n1 = node(&ours, "n1");

        // The dialler refuses a stranger's node.
        let outcome = between(&client(&ours, "app"), &node(&theirs, "n1"));
        assert_eq!(certificate_error(&outcome.dialler), &expected);
        assert!(matches!(outcome.acceptor, Err(Error::AlertReceived(_))));

        // The acceptor refuses a stranger's client, even one that trusts the acceptor.
        let stranger = client(&theirs, "app");
        let mut trusting = client(&ours, "app");
        trusting.certified = stranger.certified;
        let outcome = between(&trusting, &n1);
        assert_eq!(certificate_error(&outcome.acceptor), &expected);
        assert!(matches!(outcome.dialler, Err(Error::AlertReceived(_))));
    }
}

#[test]
fn a_client_without_certificate_is_refused() {
    let ca = authority("c");
    let n1 = node(&ca, "n1");
    let anonymous =
        ClientConfig::builder_with_details(Arc::clone(&n1.provider), Arc::new(Frozen(NOW_S)))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(Arc::clone(&n1.roots))
            .with_no_client_auth();
    let mut anonymous = anonymous;
    anonymous.alpn_protocols = vec![ALPN.to_vec()];
    let outcome = shake(anonymous, n1.server_config(ALPN).unwrap());
    assert_eq!(outcome.acceptor, Err(Error::NoCertificatesPresented));
}

#[test]
fn a_client_cannot_pose_as_a_node() {
    let ca = authority("c");
    let (app, thief) = (client(&ca, "app"), client(&ca, "thief"));
    let outcome = between(&app, &thief);
    assert!(outcome.dialler.is_err());
    // Should another CA tool have let it: the identity still does not.
    assert!(matches!(app.verify_node(thief.chain(), None), Err(PeerError::NotANode { .. })));
}

#[test]
fn expired_certificates_are_refused_by_the_clock_that_was_given() {
    let ca = authority("c");
    let late = NOW_S + 366 * 24 * 3600;
    let (n1, app) = (node(&ca, "n1"), client(&ca, "app"));

    let acceptor = n1.clone().with_time(Arc::new(Frozen(late)));
    let outcome = between(&app, &acceptor);
    let error = certificate_error(&outcome.acceptor);
    assert!(matches!(error, CertificateError::ExpiredContext { .. }));

    let outcome = between(&app.with_time(Arc::new(Frozen(late))), &n1);
    let error = certificate_error(&outcome.dialler);
    assert!(matches!(error, CertificateError::ExpiredContext { .. }));
}

#[test]
fn another_protocol_is_refused() {
    let ca = authority("c");
    let outcome = shake(
        client(&ca, "app").client_config(b"quorate/9").unwrap(),
        node(&ca, "n1").server_config(ALPN).unwrap(),
    );
    assert_eq!(outcome.acceptor, Err(Error::NoApplicationProtocol));
}

#[test]
fn a_peer_of_another_cluster_under_the_same_root_is_refused() {
    let ours = node(&authority("c"), "n1");
    let theirs = node(&authority("d"), "n2");
    let error = ours.verify_peer(theirs.chain()).unwrap_err();
    assert!(matches!(&error, PeerError::OtherCluster { ours, .. } if ours == "c"));
    assert!(error.to_string().contains("spiffe://d/node/n2"), "{error}");
    assert!(matches!(
        ours.verify_peer(&[]),
        Err(PeerError::Identity(IdentityError::NoCertificate))
    ));
}

#[test]
fn warns_of_the_end_in_time() {
    let credentials = node(&authority("c"), "n1");
    let (day, year) = (24 * 3600, 365 * 24 * 3600);
    let month = Duration::from_secs(30 * day);
    assert_eq!(credentials.expires_soon(at(NOW_S), month), None);
    let soon = credentials.expires_soon(at(NOW_S + year - 29 * day), month).unwrap();
    assert!(soon.to_string().contains("2028-01-15T08:00:00Z"), "{soon}");
}

#[test]
fn debug_output_holds_no_key() {
    let ca = authority("c");
    let credentials =
        ca.issue_client_in_memory("a", [Role::Read].into_iter().collect(), at(NOW_S)).unwrap();
    assert!(!format!("{credentials:?}").contains("key"));
    assert!(format!("{ca:?}").contains("[elided]"));
}
