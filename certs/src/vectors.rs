//! Holds this crate against the vectors in its specification, in both directions where there are two.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;

use crate::{Identity, Kind, Roles, UnixTime, describe};

#[path = "../../protocol/tests/spec/mod.rs"]
mod spec;

fn of_kind(kind: &str, at_least: usize) -> Vec<spec::Vector> {
    let all = spec::vectors(kind);
    assert!(all.len() >= at_least, "{} of {kind}", all.len());
    all
}

#[test]
fn identities_are_read_and_written_as_specified() {
    for vector in of_kind("identity", 3) {
        let uri = String::from_utf8(vector.bytes.clone()).unwrap();
        let read: Identity = uri.parse().unwrap();
        let roles: Roles =
            vector.one("roles").split(',').filter_map(|role| role.parse().ok()).collect();
        let (cluster, name) = (vector.one("cluster"), vector.one("name"));
        let made = match vector.one("holder") {
            "node" => Identity::node(cluster, name).unwrap(),
            _ => Identity::client(cluster, name, roles).unwrap(),
        };
        assert_eq!(made, read, "{}", vector.name);
        assert_eq!(made.to_string(), uri, "{}", vector.name);
    }
}

#[test]
fn what_must_be_refused_is_refused() {
    for vector in of_kind("identity-invalid", 11) {
        let uri = String::from_utf8(vector.bytes.clone()).unwrap();
        assert!(uri.parse::<Identity>().is_err(), "{}", vector.name);
    }
}

#[test]
fn certificates_are_understood_as_specified() {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let all = of_kind("certificate", 3);
    let mut roots = RootCertStore::empty();
    for ca in all.iter().filter(|v| v.one("holder") == "ca") {
        roots.add(CertificateDer::from(&*ca.bytes)).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let or_none = |text: String| {
        if text.is_empty() { "-".to_owned() } else { text }
    };
    for vector in &all {
        let der = CertificateDer::from(&*vector.bytes);
        let info = describe(&der, now).unwrap();
        let identity = info.identity.clone().unwrap_or_default();
        for (key, value) in [
            ("holder", info.kind.clone()),
            ("cluster", info.cluster.clone().unwrap_or_default()),
            ("identity", or_none(identity.clone())),
            ("names", or_none(info.sans.join(","))),
            ("serial", info.serial),
            ("not_before", info.not_before),
            ("not_after", info.not_after),
            ("sha256", info.fingerprint_sha256),
        ] {
            assert_eq!(value, vector.one(key), "{key} of {}", vector.name);
        }
        if info.kind == "ca" {
            continue;
        }
        let read = Identity::from_certificate(&der).unwrap();
        assert_eq!(read.to_string(), identity);
        assert_eq!(matches!(read.kind, Kind::Node { .. }), info.kind == "node");
        verifier.verify_client_cert(&der, &[], now).unwrap();
    }
}
