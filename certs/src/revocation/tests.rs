//! Lists that are taken and lists that are not.

use std::fs;
use std::time::Duration;

use rustls::{CertificateError, Error};
use rustls_pki_types::UnixTime;

use super::*;
use crate::{Authority, Config, Credentials, Existing, PeerError, Roles};

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

struct Place {
    dir: tempfile::TempDir,
    ca: Authority,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create(dir.path(), "prod", Config::default(), now(), Existing::Refuse)
            .unwrap();
        for name in ["n1", "n2"] {
            ca.issue_node(dir.path(), name, &[], now(), Existing::Refuse).unwrap();
        }
        ca.issue_client(dir.path(), "app", Roles::default(), now(), Existing::Refuse).unwrap();
        Self { dir, ca }
    }

    fn load(&self, name: &str) -> Result<Credentials, LoadError> {
        Credentials::load(&self.dir.path().join(name), now())
    }

    fn revoke(&self, name: &str) -> usize {
        let serial = self.ca.serial(self.dir.path(), name).unwrap();
        self.ca.revoke(self.dir.path(), &[serial], now()).unwrap()
    }
}

#[test]
fn serial_numbers_are_one_however_they_are_written() {
    let serial = Serial::new(&[0, 0, 0x0a, 0xff]);
    assert_eq!(serial.to_string(), "0a:ff");
    for text in ["0a:ff", "0A:FF", "aff", "00:00:0a:ff"] {
        assert_eq!(Serial::parse(text).as_ref(), Some(&serial), "{text}");
    }
    assert_eq!((Serial::parse(""), Serial::parse("0g"), Serial::parse("-1")), (None, None, None));
}

#[test]
fn who_is_revoked_is_refused_in_the_handshake_and_afterwards_and_nobody_else_is() {
    let place = Place::new();
    let app = place.load("app").unwrap();
    let n2 = place.load("n2").unwrap();
    assert_eq!(place.revoke("app"), 1);
    let n1 = place.load("n1").unwrap();
    assert_eq!(n1.revocations().len(), 1);

    let verdict = n1.judge(app.chain(), now());
    assert_eq!(verdict.unwrap_err(), Error::InvalidCertificate(CertificateError::Revoked));
    let open = n1.still_accepts(app.chain()).unwrap_err();
    assert!(matches!(open, PeerError::Revoked { .. }), "{open}");
    assert!(matches!(n1.verify_peer(app.chain()), Err(PeerError::Revoked { .. })));
    n1.judge(n2.chain(), now()).unwrap();
    n1.still_accepts(n2.chain()).unwrap();
    assert!(matches!(place.load("app"), Err(LoadError::Revoked { .. })));

    // As somebody who is dialled.
    assert_eq!(place.revoke("n2"), 2);
    let n1 = place.load("n1").unwrap();
    assert_eq!(
        n1.judge_dialled(n2.chain(), now()).unwrap_err(),
        Error::InvalidCertificate(CertificateError::Revoked)
    );
    // A new one is another one.
    place.ca.renew(place.dir.path(), "n2", now()).unwrap();
    let n2 = place.load("n2").unwrap();
    n1.judge_dialled(n2.chain(), now()).unwrap();
    assert_eq!(n2.revocations().len(), 2, "the list goes with it");
}

#[test]
fn that_its_time_is_over_ends_no_open_connection_but_lets_nobody_in() {
    let place = Place::new();
    let (n1, app) = (place.load("n1").unwrap(), place.load("app").unwrap());
    let later = UnixTime::since_unix_epoch(Duration::from_secs(1_840_000_000));
    n1.still_accepts(app.chain()).unwrap();
    assert!(n1.judge(app.chain(), later).is_err());
    let other = Place::new().load("app").unwrap();
    let distrusted = n1.still_accepts(other.chain()).unwrap_err();
    assert!(matches!(distrusted, PeerError::Distrusted { .. }), "{distrusted}");
}

#[test]
fn a_list_of_somebody_else_or_half_of_one_is_refused() {
    let place = Place::new();
    place.revoke("app");
    let file = place.dir.path().join("n1").join(CRL);
    let good = fs::read_to_string(&file).unwrap();
    place.load("n1").unwrap();

    let other = Place::new();
    other.revoke("app");
    let foreign = fs::read(other.dir.path().join(CRL)).unwrap();
    let certificate = fs::read(place.dir.path().join("ca.crt")).unwrap();
    let cut = good.len() / 2;
    for (content, why) in [
        (&foreign[..], "has signed it"),
        (&good.as_bytes()[..cut], "PEM"),
        (b"", "no PEM revocation list"),
        (&certificate, "something else"),
    ] {
        fs::write(&file, content).unwrap();
        let error = place.load("n1").unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("ca.crl"), "{error}");
    }

    // Any changed byte of what is signed.
    let der = read_lists(&place.dir.path().join(CRL)).unwrap().remove(0);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let root = &place.ca.roots()[0];
    let root = parse_der(root).unwrap();
    let list = parse_list(&file, &der).unwrap();
    assert!(signed_by(&list, &root, &provider));
    let signed = list.tbs_cert_list.as_ref();
    let begin = der.windows(signed.len()).position(|window| window == signed).unwrap();
    for at in begin..begin + signed.len() {
        let mut changed = der.clone();
        changed[at] ^= 1;
        if let Ok(list) = parse_list(&file, &changed) {
            assert!(!signed_by(&list, &root, &provider), "byte {at}");
        }
    }
}

#[test]
fn lists_grow_and_outlive_the_ca_that_began_them() {
    let place = Place::new();
    let app = place.load("app").unwrap();
    place.revoke("app");
    place.revoke("app");
    assert_eq!(place.revoke("n2"), 2);
    let dir = place.dir.path();
    let ca = place.ca.roll_over(dir, now()).unwrap();
    let both = Credentials::load(&dir.join("n1"), now()).unwrap();
    assert!(both.judge(app.chain(), now()).is_err());
    let refused =
        Authority::open(dir, Config::default()).unwrap().finish_rollover(dir, Config::default());
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("app, n1, n2"), "{refused}");
    for name in ["app", "n1", "n2"] {
        ca.renew(dir, name, now()).unwrap();
    }
    // Between the old and the new, whoever trusts both.
    let n1 = Credentials::load(&dir.join("n1"), now()).unwrap();
    both.judge_dialled(n1.chain(), now()).unwrap();
    n1.judge_dialled(both.chain(), now()).unwrap();
    let ca = ca.finish_rollover(dir, Config::default()).unwrap();
    assert_eq!(ca.roots().len(), 1);
    let n1 = Credentials::load(&dir.join("n1"), now()).unwrap();
    assert!(matches!(n1.still_accepts(both.chain()), Err(PeerError::Distrusted { .. })));
    assert_eq!(n1.revocations().len(), 2);
    assert!(ca.finish_rollover(dir, Config::default()).is_err());
}
