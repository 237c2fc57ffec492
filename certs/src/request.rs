//! Certificates for keys that never leave their host: a request is made there, and signed elsewhere.
//!
//! Invariant: of a request the CA takes the public key, the name and the DNS names and addresses, all of
//! them checked as if they had been typed; what its bearer becomes, a node or a client of what roles,
//! is decided by whoever signs. Called by `quorate certs request|sign`.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateSigningRequestParams, DnType, DnValue, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SanType,
};
use rustls_pki_types::UnixTime;

use crate::authority::{Authority, IssueError, LEAF_KEY, additional, request_params};
use crate::identity::{Roles, valid_name};
use crate::load::LoadError;
use crate::publish::{Existing, NewFile, publish};

/// A request, beside the key that it is for.
pub const REQUEST: &str = "tls.csr";

/// The largest request that is read, in bytes.
const MAX_REQUEST: u64 = 64 << 10;

/// What the bearer of a request becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// A node.
    Node,
    /// A client with these roles.
    Client(Roles),
}

/// Makes a key and a request for it: `dir/name/{tls.key,tls.csr}`; returns `dir/name`. Needs no CA.
///
/// # Errors
/// A bad name, files that are there already, or whatever the disk says.
pub fn request(
    dir: &Path,
    name: &str,
    sans: &[String],
    existing: Existing,
) -> Result<PathBuf, IssueError> {
    let name = valid_name(name)?;
    let mut params = request_params(name);
    params.subject_alt_names = additional(sans)?;
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let pem = params.serialize_request(&key)?.pem()?;
    let key = key.serialize_pem();
    let dir = dir.join(name);
    publish(&dir, &[NewFile::secret(LEAF_KEY, &key), NewFile::public(REQUEST, &pem)], existing)?;
    Ok(dir)
}

impl Authority {
    /// Signs a request: writes `dir/NAME/{tls.crt,ca.crt}`, which belong beside the key, and returns
    /// `dir/NAME`.
    ///
    /// # Errors
    /// A file that is no request, or asks for what no certificate has; as [`Self::issue_node`].
    pub fn sign_request(
        &self,
        dir: &Path,
        file: &Path,
        bearer: Bearer,
        now: UnixTime,
        existing: Existing,
    ) -> Result<PathBuf, IssueError> {
        let bad = |why: &str| IssueError::Request { file: file.to_owned(), why: why.to_owned() };
        let unreadable = |source| LoadError::Unreadable { file: file.to_owned(), source };
        if fs::metadata(file).map_err(unreadable)?.len() > MAX_REQUEST {
            return Err(bad("it is too large"));
        }
        let pem = fs::read_to_string(file).map_err(unreadable)?;
        // Whoever made it has the key: its signature is checked here.
        let asked = CertificateSigningRequestParams::from_pem(&pem)
            .map_err(|error| bad(&error.to_string()))?;
        let algorithms = [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384];
        if !algorithms.contains(&asked.public_key.algorithm()) {
            return Err(bad("its key is neither Ed25519 nor ECDSA P-256 or P-384"));
        }
        let name = match asked.params.distinguished_name.get(&DnType::CommonName) {
            Some(DnValue::Utf8String(name)) => name.clone(),
            Some(DnValue::PrintableString(name)) => name.as_str().to_owned(),
            _ => return Err(bad("it has no common name")),
        };
        let mut sans = Vec::new();
        for san in &asked.params.subject_alt_names {
            sans.push(match san {
                SanType::DnsName(name) => name.as_str().to_owned(),
                SanType::IpAddress(address) => IpAddr::to_string(address),
                _ => return Err(bad("it asks for names that are no DNS names or addresses")),
            });
        }
        let certificate = match bearer {
            Bearer::Node => self.certify_node(&name, &sans, now, &asked.public_key)?,
            Bearer::Client(_) if !sans.is_empty() => {
                return Err(bad("nobody dials a client: ask without --san"));
            }
            Bearer::Client(roles) => self.certify_client(&name, roles, now, &asked.public_key)?,
        };
        let key = dir.join(valid_name(&name)?).join(LEAF_KEY);
        if key.exists() && !is_of(&key, &asked.public_key) {
            return Err(IssueError::OtherKey(key));
        }
        self.place(dir, &name, None, &certificate, existing)
    }
}

/// Whether this file's key is the one that a request is for.
fn is_of(file: &Path, asked: &impl PublicKeyData) -> bool {
    let pem = fs::read_to_string(file).ok();
    let key = pem.and_then(|pem| KeyPair::from_pem(&pem).ok());
    key.is_some_and(|key| key.der_bytes() == asked.der_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{CA_CERT, LEAF_CERT};
    use crate::{Config, Credentials, Identity};

    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000))
    }

    #[test]
    fn a_key_never_leaves_its_host_and_the_signer_decides_what_it_is() {
        let (host, offline) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ca = Authority::ephemeral("prod", Config::default(), now()).unwrap();
        let sans = ["n1.example.org".to_owned(), "10.0.0.1".to_owned()];
        let made = request(host.path(), "n1", &sans, Existing::Refuse).unwrap();
        assert!(request(host.path(), "n1", &sans, Existing::Refuse).is_err());
        // Only this travels.
        let travels = offline.path().join("n1.csr");
        fs::copy(made.join(REQUEST), &travels).unwrap();
        assert!(!fs::read_to_string(&travels).unwrap().contains("PRIVATE"));
        let refuse = Existing::Refuse;
        let roles = Roles::default();
        assert!(
            ca.sign_request(offline.path(), &travels, Bearer::Client(roles), now(), refuse)
                .unwrap_err()
                .to_string()
                .contains("--san")
        );
        let signed =
            ca.sign_request(offline.path(), &travels, Bearer::Node, now(), refuse).unwrap();
        for name in [LEAF_CERT, CA_CERT] {
            fs::copy(signed.join(name), made.join(name)).unwrap();
        }
        let node = Credentials::load(&made, now()).unwrap();
        assert_eq!(node.identity(), &Identity::node("prod", "n1").unwrap());
        let shown = &crate::show(&made.join(LEAF_CERT), now()).unwrap()[0];
        assert!(shown.sans.contains(&"n1.example.org".to_owned()), "{shown:?}");
        assert!(shown.sans.contains(&"10.0.0.1".to_owned()), "{shown:?}");
        // Signing leaves no key at the CA.
        assert!(!signed.join(LEAF_KEY).exists());

        let made = request(host.path(), "app", &[], refuse).unwrap();
        let file = made.join(REQUEST);
        let signed =
            ca.sign_request(offline.path(), &file, Bearer::Client(roles), now(), refuse).unwrap();
        for name in [LEAF_CERT, CA_CERT] {
            fs::copy(signed.join(name), made.join(name)).unwrap();
        }
        let client = Credentials::load(&made, now()).unwrap();
        assert!(!client.identity().is_node());
    }

    #[test]
    fn what_was_requested_is_renewed_for_the_same_key_unless_that_is_revoked() {
        let (host, offline) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pki = offline.path();
        let ca =
            Authority::create(pki, "prod", Config::default(), now(), Existing::Refuse).unwrap();
        let sans = ["n1.example.org".to_owned()];
        let made = request(host.path(), "n1", &sans, Existing::Refuse).unwrap();
        let file = made.join(REQUEST);
        let signed = ca.sign_request(pki, &file, Bearer::Node, now(), Existing::Refuse).unwrap();
        let first = ca.serial(pki, "n1").unwrap();
        let bring = |files: &[&str]| {
            for name in files {
                fs::copy(signed.join(name), made.join(name)).unwrap();
            }
            Credentials::load(&made, now())
        };
        bring(&[LEAF_CERT, CA_CERT]).unwrap();

        // A new certificate, and the key that is nowhere but at its host fits it.
        ca.renew(pki, "n1", now()).unwrap();
        assert_ne!(ca.serial(pki, "n1").unwrap(), first);
        assert!(!signed.join(LEAF_KEY).exists());
        assert_eq!(bring(&[LEAF_CERT]).unwrap().identity().name(), "n1");
        let shown = &crate::show(&made.join(LEAF_CERT), now()).unwrap()[0];
        assert!(shown.sans.contains(&sans[0]), "{shown:?}");

        // So does one of another CA, that all trust by then.
        let ca = ca.roll_over(pki, now()).unwrap();
        ca.renew(pki, "n1", now()).unwrap();
        let ca = ca.finish_rollover(pki, Config::default()).unwrap();
        bring(&[LEAF_CERT, CA_CERT]).unwrap();

        // Whoever has a revoked key gets no more certificates for it.
        let serial = ca.serial(pki, "n1").unwrap();
        ca.revoke(pki, &[serial], now()).unwrap();
        let error = ca.renew(pki, "n1", now()).unwrap_err().to_string();
        assert!(error.contains("certs request --force"), "{error}");
        let made = request(host.path(), "n1", &sans, Existing::Replace).unwrap();
        let file = made.join(REQUEST);
        ca.sign_request(pki, &file, Bearer::Node, now(), Existing::Replace).unwrap();
        // With what is revoked, which a host that comes later must know too.
        bring(&[LEAF_CERT, CA_CERT, crate::revocation::CRL]).unwrap();
        ca.renew(pki, "n1", now()).unwrap();
    }

    #[test]
    fn a_certificate_comes_to_no_key_but_its_own() {
        let (host, pki) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ca = Authority::ephemeral("prod", Config::default(), now()).unwrap();
        let file = request(host.path(), "n1", &[], Existing::Refuse).unwrap().join(REQUEST);
        // Somebody made a key of that name there too.
        let here = request(pki.path(), "n1", &[], Existing::Refuse).unwrap();
        let sign =
            |file: &Path| ca.sign_request(pki.path(), file, Bearer::Node, now(), Existing::Replace);
        let error = sign(&file).unwrap_err().to_string();
        assert!(error.contains("key of another"), "{error}");
        sign(&here.join(REQUEST)).unwrap();
        Credentials::load(&here, now()).unwrap();
    }

    #[test]
    fn what_is_no_request_or_was_changed_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::ephemeral("prod", Config::default(), now()).unwrap();
        let made = request(dir.path(), "n1", &[], Existing::Refuse).unwrap();
        let good = fs::read_to_string(made.join(REQUEST)).unwrap();
        let file = dir.path().join("x.csr");
        let sign = |text: &str| {
            fs::write(&file, text).unwrap();
            ca.sign_request(dir.path(), &file, Bearer::Node, now(), Existing::Replace)
        };
        sign(&good).unwrap();
        assert!(sign("").is_err());
        assert!(sign(&"a".repeat(70_000)).is_err());
        // Another name under the same signature.
        let mut der = pem_bytes(&good);
        let at = der.windows(2).position(|two| two == b"n1").unwrap();
        der[at + 1] = b'2';
        assert!(sign(&pem_text(&der)).unwrap_err().to_string().contains("x.csr"));
        // A name that would leave the directory.
        let mut params = request_params("../n9");
        params.subject_alt_names.clear();
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let evil = params.serialize_request(&key).unwrap().pem().unwrap();
        assert!(matches!(sign(&evil), Err(IssueError::Name(_))));
    }

    fn pem_bytes(text: &str) -> Vec<u8> {
        use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
        CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).unwrap().to_vec()
    }

    fn pem_text(der: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::from("-----BEGIN CERTIFICATE REQUEST-----\n");
        for three in der.chunks(3) {
            let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
                << (8 * (3 - three.len()));
            for digit in 0..4 {
                text.push(match digit <= three.len() {
                    true => char::from(DIGITS[(word >> (18 - 6 * digit) & 63) as usize]),
                    false => '=',
                });
            }
        }
        text + "\n-----END CERTIFICATE REQUEST-----\n"
    }
}
