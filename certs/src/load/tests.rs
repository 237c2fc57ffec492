//! Every way in which a directory of certificates can be wrong, each with its own answer.

use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use super::*;
use crate::{Authority, Config, Existing, Role, Roles};

const NOW_S: u64 = 1_800_000_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn now() -> UnixTime {
    at(NOW_S)
}

struct Place {
    dir: tempfile::TempDir,
    ca: Authority,
}

impl Place {
    fn new(cluster: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::default();
        let ca = Authority::create(dir.path(), cluster, config, now(), Existing::Refuse).unwrap();
        ca.issue_node(dir.path(), "n1", &[], now(), Existing::Refuse).unwrap();
        Self { dir, ca }
    }

    fn node(&self) -> PathBuf {
        self.dir.path().join("n1")
    }

    fn load_at(&self, now: UnixTime) -> Result<Credentials, LoadError> {
        Credentials::load(&self.node(), now)
    }

    /// The error, whose message must be one line.
    fn refused(&self) -> LoadError {
        let error = self.load_at(now()).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        error
    }

    fn replace(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.node().join(name), content).unwrap();
    }

    fn take(&self, name: &str, other: &Self) {
        fs::copy(other.node().join(name), self.node().join(name)).unwrap();
    }
}

#[test]
fn a_missing_file_says_which_and_how_to_make_it() {
    for name in [CA_CERT, LEAF_CERT, LEAF_KEY] {
        let place = Place::new("c");
        fs::remove_file(place.node().join(name)).unwrap();
        let error = place.refused();
        let (dir, node) = (place.dir.path(), place.node());
        assert!(matches!(error, LoadError::Missing { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "missing {}/{name}: run 'quorate certs node --dir {} --name n1 --force' (or 'certs client')",
                node.display(),
                dir.display()
            )
        );
    }
    let nowhere = Credentials::load(Path::new("nowhere"), now()).unwrap_err();
    assert_eq!(
        nowhere.to_string(),
        "missing nowhere/ca.crt: run 'quorate certs node --dir . --name nowhere' (or 'certs client')"
    );
}

#[test]
fn the_directory_of_the_ca_is_told_apart() {
    let place = Place::new("c");
    let error = Credentials::load(place.dir.path(), now()).unwrap_err();
    assert!(error.to_string().contains("/NAME"), "{error}");
}

#[test]
fn garbage_is_refused_by_file() {
    let long = vec![b'x'; 1024 * 1024 + 1];
    let der = "-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n";
    let contents: [&[u8]; 8] = [
        b"",
        b"\0\xff\xfe",
        b"not PEM at all\n",
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        der.as_bytes(),
        &long,
    ];
    for name in [CA_CERT, LEAF_CERT, LEAF_KEY] {
        for content in contents {
            let place = Place::new("c");
            place.replace(name, content);
            let error = place.refused();
            assert!(
                matches!(&error, LoadError::Damaged { file, .. } if file.ends_with(name)),
                "{error}"
            );
        }
        let place = Place::new("c");
        fs::remove_file(place.node().join(name)).unwrap();
        fs::create_dir(place.node().join(name)).unwrap();
        assert!(matches!(place.refused(), LoadError::Damaged { .. }));
    }
}

#[test]
fn a_cut_or_flipped_certificate_never_panics() {
    let place = Place::new("c");
    let good = place.load_at(now()).unwrap();
    let der = good.chain()[0].to_vec();
    for i in 0..der.len() {
        let _ = describe_and_identify(&der[..i]);
        for bit in [0x01, 0x80] {
            let mut flipped = der.clone();
            flipped[i] ^= bit;
            let _ = describe_and_identify(&flipped);
        }
    }
    assert!(describe_and_identify(&der));
}

fn describe_and_identify(der: &[u8]) -> bool {
    let der = CertificateDer::from(der);
    crate::describe(&der, now()).is_ok() && Identity::from_certificate(&der).is_ok()
}

#[test]
fn too_many_certificates_are_refused() {
    let place = Place::new("c");
    let one = fs::read_to_string(place.node().join(CA_CERT)).unwrap();
    place.replace(CA_CERT, one.repeat(MAX_CERTIFICATES));
    place.load_at(now()).unwrap();
    place.replace(CA_CERT, one.repeat(MAX_CERTIFICATES + 1));
    assert!(matches!(place.refused(), LoadError::Damaged { .. }));
}

#[test]
fn a_key_beside_a_certificate_in_one_file_is_refused() {
    let place = Place::new("c");
    let ca = fs::read_to_string(place.dir.path().join(CA_CERT)).unwrap();
    let key = fs::read_to_string(place.dir.path().join(CA_KEY)).unwrap();
    place.replace(CA_CERT, ca + &key);
    assert!(matches!(place.refused(), LoadError::Damaged { .. }));
}

#[test]
fn the_key_of_another_certificate_is_refused() {
    let (place, other) = (Place::new("c"), Place::new("c"));
    place.take(LEAF_KEY, &other);
    let error = place.refused();
    assert!(matches!(error, LoadError::KeyMismatch { .. }), "{error}");
    assert!(error.to_string().contains("--name n1 --force"), "{error}");
}

#[test]
fn another_ca_is_refused_whatever_its_name() {
    let (place, namesake, stranger) = (Place::new("c"), Place::new("c"), Place::new("d"));
    place.take(CA_CERT, &namesake);
    assert!(matches!(place.refused(), LoadError::OtherAuthority { .. }));
    place.take(CA_CERT, &stranger);
    let error = place.refused();
    assert!(matches!(&error, LoadError::OtherCluster { cluster, .. } if cluster == "d"), "{error}");
}

#[test]
fn a_leaf_is_not_a_ca() {
    let place = Place::new("c");
    fs::copy(place.node().join(LEAF_CERT), place.node().join(CA_CERT)).unwrap();
    assert!(matches!(place.refused(), LoadError::NotAnAuthority { .. }));
}

#[test]
fn the_wrong_time_is_said_with_its_date() {
    let place = Place::new("c");
    let year = 365 * 24 * 3600;
    place.load_at(at(NOW_S + year)).unwrap();
    let expired = place.load_at(at(NOW_S + year + 1)).unwrap_err();
    assert!(matches!(expired, LoadError::Expired { .. }));
    let text = expired.to_string();
    assert!(text.contains("tls.crt expired on 2028-01-15T08:00:00Z"), "{text}");
    assert!(text.contains("quorate certs node --dir"), "{text}");

    place.load_at(at(NOW_S - 3600)).unwrap();
    let early = place.load_at(at(NOW_S - 3601)).unwrap_err();
    assert!(matches!(early, LoadError::NotYetValid { .. }), "{early}");
}

#[test]
fn the_hint_for_a_client_keeps_its_roles() {
    let place = Place::new("c");
    let roles: Roles = [Role::Admin, Role::Read].into_iter().collect();
    let path =
        place.ca.issue_client(place.dir.path(), "app", roles, now(), Existing::Refuse).unwrap();
    let error = Credentials::load(&path, at(NOW_S * 2)).unwrap_err();
    assert!(error.to_string().ends_with("--name app --role admin --role read --force'"), "{error}");
}

#[test]
fn an_expired_root_beside_a_valid_one_is_left_out() {
    let place = Place::new("c");
    let short = Config { ca_validity_days: 1, ..Config::default() };
    let old = tempfile::tempdir().unwrap();
    let then = at(NOW_S - 30 * 24 * 3600);
    Authority::create(old.path(), "c", short, then, Existing::Refuse).unwrap();
    let old = fs::read_to_string(old.path().join(CA_CERT)).unwrap();
    let both = old.clone() + &fs::read_to_string(place.node().join(CA_CERT)).unwrap();
    place.replace(CA_CERT, both);
    place.load_at(now()).unwrap();
    place.replace(CA_CERT, old);
    let error = place.refused();
    assert!(
        matches!(&error, LoadError::Expired { file, .. } if file.ends_with(CA_CERT)),
        "{error}"
    );
}

/// A leaf that `Authority` would never make, signed by its key.
fn odd_leaf(place: &Place, change: impl FnOnce(&mut CertificateParams)) {
    let ca = authority(place.dir.path()).unwrap();
    let signer = KeyPair::try_from(&ca.key).unwrap();
    let issuer = Issuer::from_ca_cert_der(&ca.certificate, signer).unwrap();
    let mut params = CertificateParams::new(vec!["quorate-node".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "n1");
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    place.replace(LEAF_CERT, leaf.pem());
    place.replace(LEAF_KEY, key.serialize_pem());
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn identities_of_other_tools_are_accepted_if_they_follow_the_rules_and_refused_if_not() {
    let place = Place::new("c");
    odd_leaf(&place, |p| p.subject_alt_names.push(uri("spiffe://c/node/n9")));
    assert_eq!(place.load_at(now()).unwrap().identity().name(), "n9");

    odd_leaf(&place, |_| ());
    assert!(matches!(
        place.refused(),
        LoadError::Identity { source: IdentityError::UriCount(0), .. }
    ));
    odd_leaf(&place, |p| {
        let two = [uri("spiffe://c/node/n1"), uri("spiffe://c/node/n2")];
        p.subject_alt_names.extend(two);
    });
    assert!(matches!(
        place.refused(),
        LoadError::Identity { source: IdentityError::UriCount(2), .. }
    ));
    odd_leaf(&place, |p| p.subject_alt_names.push(uri("https://c/node/n1")));
    assert!(matches!(place.refused(), LoadError::Identity { .. }));
    odd_leaf(&place, |p| p.subject_alt_names.push(uri("spiffe://d/node/n1")));
    assert!(matches!(place.refused(), LoadError::OtherCluster { .. }));
}

#[test]
fn a_node_that_may_not_serve_is_refused() {
    let place = Place::new("c");
    odd_leaf(&place, |p| {
        p.subject_alt_names.push(uri("spiffe://c/node/n1"));
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert!(matches!(place.refused(), LoadError::NotAccepted { .. }));
    odd_leaf(&place, |p| {
        p.subject_alt_names = vec![uri("spiffe://c/node/n1")];
    });
    let error = place.refused();
    assert!(matches!(error, LoadError::NotAccepted { .. }));
    assert!(error.to_string().contains("quorate-node"), "{error}");
}
