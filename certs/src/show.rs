//! Describes certificates to people and scripts: `quorate certs show [--json]`.
//!
//! Invariant: shows what is there, also if it is expired, foreign or without identity, and never
//! opens a key. Text out of certificates is escaped before it can reach a terminal.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::authority::{CA_CERT, LEAF_CERT};
use crate::identity::{Identity, IdentityError, Kind, cluster_of, parse_der, shorten};
use crate::load::{LoadError, read_certificates};
use crate::revocation::{CRL, Revocations};
use crate::validity::{Standing, Validity};

/// One certificate, in the words of `certs show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateInfo {
    /// The file it was read from; empty if it came from elsewhere.
    pub file: String,
    /// `ca`, `node`, `client`, or `unknown` for a certificate without identity.
    pub kind: String,
    /// The cluster it belongs to.
    pub cluster: Option<String>,
    /// The node's or client's name.
    pub name: Option<String>,
    /// The identity as a URI.
    pub identity: Option<String>,
    /// A client's roles as granted; empty for others.
    pub roles: Vec<String>,
    /// DNS names and IP addresses.
    pub sans: Vec<String>,
    /// The subject, as a distinguished name.
    pub subject: String,
    /// The issuer, as a distinguished name.
    pub issuer: String,
    /// The serial number in hex.
    pub serial: String,
    /// The first moment of validity, RFC 3339.
    pub not_before: String,
    /// The last moment of validity, RFC 3339.
    pub not_after: String,
    /// `valid`, `expired`, `not yet valid` or `revoked` at the time of asking.
    pub status: String,
    /// SHA-256 of the DER, in hex.
    pub fingerprint_sha256: String,
}

/// Describes one certificate as of `now`.
///
/// # Errors
/// Not a certificate.
pub fn describe(der: &CertificateDer<'_>, now: UnixTime) -> Result<CertificateInfo, IdentityError> {
    let certificate = parse_der(der)?;
    let validity = Validity::of(&certificate);
    let mut info = CertificateInfo {
        file: String::new(),
        kind: "unknown".to_owned(),
        cluster: None,
        name: None,
        identity: None,
        roles: Vec::new(),
        sans: sans(&certificate),
        subject: shorten(&certificate.subject().to_string()),
        issuer: shorten(&certificate.issuer().to_string()),
        serial: certificate.raw_serial_as_string(),
        not_before: validity.not_before.to_string(),
        not_after: validity.not_after.to_string(),
        status: match validity.at(now) {
            Standing::Valid => "valid",
            Standing::NotYetValid => "not yet valid",
            Standing::Expired => "expired",
        }
        .to_owned(),
        fingerprint_sha256: hex(digest(&SHA256, der).as_ref()),
    };
    if certificate.is_ca() {
        "ca".clone_into(&mut info.kind);
        info.cluster = cluster_of(&certificate).ok().flatten();
    } else if let Ok(identity) = Identity::from_certificate(der) {
        info.identity = Some(identity.to_string());
        info.name = Some(identity.name().to_owned());
        info.kind = match &identity.kind {
            Kind::Node { .. } => "node".to_owned(),
            Kind::Client { roles, .. } => {
                info.roles = roles.iter().map(|role| role.to_string()).collect();
                "client".to_owned()
            }
        };
        info.cluster = Some(identity.cluster);
    }
    Ok(info)
}

/// Describes a file; or a directory's `ca.crt` and `tls.crt`, then the `tls.crt` of every directory
/// directly in it, by name.
///
/// # Errors
/// Nothing to show there, or a file that cannot be read.
pub fn show(path: &Path, now: UnixTime) -> Result<Vec<CertificateInfo>, LoadError> {
    let unreadable = |source| LoadError::Unreadable { file: path.to_owned(), source };
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(unreadable)? {
            files.push(entry.map_err(unreadable)?.path().join(LEAF_CERT));
        }
        files.sort();
        files.splice(0..0, [path.join(CA_CERT), path.join(LEAF_CERT)]);
        files.retain(|file| file.is_file());
    } else {
        files.push(path.to_owned());
    }
    if files.is_empty() {
        return Err(LoadError::Missing {
            file: path.join(CA_CERT),
            hint: "there are no certificates here; 'quorate certs ca' makes a CA".to_owned(),
        });
    }
    let missing = || "name a certificate, or a directory of 'quorate certs'".to_owned();
    let mut shown = Vec::new();
    for file in files {
        let revoked = beside(&file)?;
        for der in read_certificates(&file, &missing)?.0 {
            let mut info = describe(&der, now)
                .map_err(|source| LoadError::Identity { file: file.clone(), source })?;
            if revoked.find(&[der]).is_some() {
                "revoked".clone_into(&mut info.status);
            }
            info.file = file.display().to_string();
            shown.push(info);
        }
    }
    Ok(shown)
}

/// Who is on the lists beside a file.
fn beside(file: &Path) -> Result<Revocations, LoadError> {
    let dir = file.parent().unwrap_or(Path::new(""));
    let ca = dir.join(CA_CERT);
    if !ca.is_file() || !dir.join(CRL).is_file() {
        return Ok(Revocations::default());
    }
    let (roots, _) = read_certificates(&ca, &String::new)?;
    Revocations::load(dir, &roots, &rustls::crypto::aws_lc_rs::default_provider())
}

fn sans(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some(shorten(dns)),
            GeneralName::IPAddress(bytes) => Some(ip(bytes)),
            _ => None,
        })
        .collect()
}

fn ip(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ipv4Addr::from(v4).to_string()
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ipv6Addr::from(v6).to_string()
    } else {
        hex(bytes)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl fmt::Display for CertificateInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "-".to_owned();
        if !self.file.is_empty() {
            writeln!(f, "{}", self.file)?;
        }
        let rows = [
            ("kind", self.kind.clone()),
            ("cluster", self.cluster.clone().unwrap_or_else(none)),
            ("identity", self.identity.clone().unwrap_or_else(none)),
            ("names", self.sans.join(", ")),
            ("subject", self.subject.clone()),
            ("issuer", self.issuer.clone()),
            ("serial", self.serial.clone()),
            ("valid", format!("{} to {} ({})", self.not_before, self.not_after, self.status)),
            ("sha256", self.fingerprint_sha256.clone()),
        ];
        for (label, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
            writeln!(f, "  {label:<9} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Config, Existing, Role};
    use std::time::Duration;

    #[test]
    fn shows_a_directory_of_identities() {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let later = UnixTime::since_unix_epoch(Duration::from_secs(1_840_000_000));
        let ca = Authority::create(dir.path(), "prod", Config::default(), now, Existing::Refuse)
            .unwrap();
        let sans = ["db1.example".to_owned(), "10.0.0.1".to_owned(), "::1".to_owned()];
        ca.issue_node(dir.path(), "n1", &sans, now, Existing::Refuse).unwrap();
        let roles = [Role::Admin].into_iter().collect();
        ca.issue_client(dir.path(), "app", roles, now, Existing::Refuse).unwrap();

        let shown = show(dir.path(), now).unwrap();
        let column =
            |f: fn(&CertificateInfo) -> &str| -> Vec<&str> { shown.iter().map(f).collect() };
        assert_eq!(column(|i| &i.kind), ["ca", "client", "node"]);
        assert_eq!(column(|i| &i.status), ["valid"; 3]);
        assert_eq!(column(|i| &i.issuer), ["CN=prod"; 3]);
        assert_eq!(column(|i| &i.subject), ["CN=prod", "CN=app", "CN=n1"]);
        assert!(shown.iter().all(|i| i.cluster.as_deref() == Some("prod")));
        assert_eq!(shown[1].roles, ["admin"]);
        assert_eq!(shown[2].sans, ["quorate-node", "db1.example", "10.0.0.1", "::1"]);
        assert_eq!(shown[2].not_before, "2027-01-15T07:00:00Z");
        assert_eq!(shown[2].not_after, "2028-01-15T08:00:00Z");
        assert_eq!(shown[2].fingerprint_sha256.len(), 64);
        let json = serde_json::to_value(&shown[2]).unwrap();
        assert_eq!(json["identity"], "spiffe://prod/node/n1");

        let one = show(&dir.path().join("n1"), later).unwrap();
        assert_eq!(one.len(), 2);
        assert_eq!([&*one[0].status, &*one[1].status], ["valid", "expired"]);
        assert!(one[1].to_string().contains("(expired)"));
        assert_eq!(show(&dir.path().join("n1/tls.crt"), now).unwrap().len(), 1);
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(show(empty.path(), now), Err(LoadError::Missing { .. })));
    }
}
