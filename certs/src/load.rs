//! Reads what a process is started with, and says what is wrong with it before anybody connects.
//!
//! Invariant: what loads is accepted by every peer with the same CA at that time; what does not
//! fails with the file's name and what to do. Files are bounded before they are read. Called by
//! `quorate` at start and by `authority` to open a CA.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::{CertificateError, InconsistentKeys};
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::authority::{CA_CERT, CA_KEY, LEAF_CERT, LEAF_KEY};
use crate::credentials::Credentials;
use crate::identity::{Identity, IdentityError, Kind, cluster_of, parse_der};
use crate::revocation::Revocations;
use crate::validity::{Moment, Standing, Validity};

/// The largest certificate or key file, in bytes. One certificate takes about 800.
pub const MAX_FILE: u64 = 1024 * 1024;
/// The most certificates in one file.
pub const MAX_CERTIFICATES: usize = 16;

impl Credentials {
    /// Reads and checks `dir/{ca.crt,tls.crt,tls.key}`, and `dir/ca.crl` if it is there.
    ///
    /// # Errors
    /// The first thing that is wrong: a file that is missing, no file, too large or damaged; a key
    /// of another certificate; a certificate that is expired, revoked, of another CA or cluster, without
    /// identity, or not made for what its identity does.
    pub fn load(dir: &Path, now: UnixTime) -> Result<Self, LoadError> {
        let files = [CA_CERT, LEAF_CERT, LEAF_KEY].map(|name| dir.join(name));
        let missing = || leaf_hint(dir, &files);
        let [ca, cert, key] = &files;
        let (roots, _) = read_certificates(ca, &missing)?;
        let (chain, _) = read_certificates(cert, &missing)?;
        let key_der = read_key(key, &missing)?;

        let leaf = chain.first().ok_or_else(|| damaged(cert, "it is empty"))?;
        let parsed = parse_der(leaf).map_err(|e| damaged(cert, &e.to_string()))?;
        let identity = Identity::from_certificate(leaf)
            .map_err(|source| LoadError::Identity { file: cert.clone(), source })?;
        let remake = || remake_hint(dir, &identity);
        let validity = Validity::of(&parsed);
        in_time(cert, validity, now, &remake)?;
        let (trusted, ca_end) = trusted_roots(ca, &roots, &identity, now)?;

        let not_after = validity.not_after.min(ca_end);
        let credentials = Self::new(identity.clone(), not_after, chain, key_der, &trusted)
            .map_err(|e| match e {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    LoadError::KeyMismatch { key: key.clone(), cert: cert.clone(), hint: remake() }
                }
                rustls::Error::InvalidCertificate(e) => damaged(cert, &e.to_string()),
                e => damaged(key, &e.to_string()),
            })?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let credentials = credentials.revoking(&Revocations::load(dir, &trusted, &provider)?);
        credentials.verify_own(now).map_err(|e| match e {
            rustls::Error::InvalidCertificate(CertificateError::Revoked) => {
                LoadError::Revoked { file: cert.clone(), hint: remake() }
            }
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => LoadError::OtherAuthority { cert: cert.clone(), ca: ca.clone() },
            source => LoadError::NotAccepted { file: cert.clone(), source, hint: remake() },
        })?;
        Ok(credentials)
    }
}

/// The roots that may be trusted at `now`, and when the last of them ends.
fn trusted_roots(
    file: &Path,
    roots: &[CertificateDer<'static>],
    identity: &Identity,
    now: UnixTime,
) -> Result<(Vec<CertificateDer<'static>>, Moment), LoadError> {
    let mut trusted = Vec::with_capacity(roots.len());
    let mut end = None;
    let mut out_of_time = Ok(());
    for root in roots {
        let parsed = parse_der(root).map_err(|e| damaged(file, &e.to_string()))?;
        let cluster = ca_cluster(file, &parsed)?;
        if let Some(cluster) = cluster.filter(|c| *c != identity.cluster) {
            return Err(LoadError::OtherCluster {
                file: file.to_owned(),
                cluster,
                identity: identity.clone(),
            });
        }
        let validity = Validity::of(&parsed);
        let hint =
            || "make a new CA with 'quorate certs ca', and all certificates again".to_owned();
        // After a rollover the old root may expire beside the new one. TLS itself never looks at
        // the dates of a root, so one that is over is left out here.
        match in_time(file, validity, now, &hint) {
            Ok(()) => {
                trusted.push(root.clone());
                end = end.max(Some(validity.not_after));
            }
            Err(e) => out_of_time = Err(e),
        }
    }
    match end {
        Some(end) => Ok((trusted, end)),
        None => Err(out_of_time.err().unwrap_or_else(|| damaged(file, "it is empty"))),
    }
}

/// The files of a CA, checked against each other.
pub(crate) struct CaFiles {
    pub(crate) cluster: String,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) validity: Validity,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) pem: String,
}

/// Reads and checks `dir/{ca.crt,ca.key}`. Of several certificates, the key's own is the CA.
pub(crate) fn authority(dir: &Path) -> Result<CaFiles, LoadError> {
    let [cert_file, key_file] = [CA_CERT, CA_KEY].map(|name| dir.join(name));
    let missing = || match (cert_file.exists(), key_file.exists()) {
        (false, false) => format!("run 'quorate certs ca --dir {}'", dir.display()),
        (true, _) => "certificates are made where the CA's key is: run this there".to_owned(),
        (false, true) => "restore it: any node's ca.crt is a copy".to_owned(),
    };
    let (roots, pem) = read_certificates(&cert_file, &missing)?;
    let key = read_key(&key_file, &missing)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut own = None;
    for root in &roots {
        let pair = (vec![root.clone()], key.clone_key());
        match rustls::sign::CertifiedKey::from_der(pair.0, pair.1, &provider) {
            Ok(_) => own = Some(root),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {}
            Err(rustls::Error::InvalidCertificate(e)) => {
                return Err(damaged(&cert_file, &e.to_string()));
            }
            Err(e) => return Err(damaged(&key_file, &e.to_string())),
        }
    }
    let Some(certificate) = own.cloned() else {
        return Err(LoadError::KeyMismatch {
            key: key_file,
            cert: cert_file,
            hint: "restore the two files that were made together".to_owned(),
        });
    };
    let parsed = parse_der(&certificate).map_err(|e| damaged(&cert_file, &e.to_string()))?;
    let Some(cluster) = ca_cluster(&cert_file, &parsed)? else {
        return Err(LoadError::Identity { file: cert_file, source: IdentityError::UriCount(0) });
    };
    let validity = Validity::of(&parsed);
    drop(parsed);
    Ok(CaFiles { cluster, validity, certificate, key, roots, pem })
}

fn ca_cluster(
    file: &Path,
    ca: &x509_parser::certificate::X509Certificate<'_>,
) -> Result<Option<String>, LoadError> {
    if !ca.is_ca() {
        return Err(LoadError::NotAnAuthority { file: file.to_owned() });
    }
    cluster_of(ca).map_err(|source| LoadError::Identity { file: file.to_owned(), source })
}

fn in_time(
    file: &Path,
    validity: Validity,
    now: UnixTime,
    hint: &dyn Fn() -> String,
) -> Result<(), LoadError> {
    match validity.at(now) {
        Standing::Valid => Ok(()),
        Standing::Expired => Err(LoadError::Expired {
            file: file.to_owned(),
            not_after: validity.not_after,
            hint: hint(),
        }),
        Standing::NotYetValid => Err(LoadError::NotYetValid {
            file: file.to_owned(),
            not_before: validity.not_before,
            now: now.into(),
        }),
    }
}

/// A bounded read of a regular file; anything else could block or never end.
pub(crate) fn read(file: &Path, missing: &dyn Fn() -> String) -> Result<Vec<u8>, LoadError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => LoadError::Missing { file: file.to_owned(), hint: missing() },
        _ => LoadError::Unreadable { file: file.to_owned(), source },
    };
    if !fs::metadata(file).map_err(failed)?.is_file() {
        return Err(damaged(file, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(file).and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(damaged(file, "it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// All certificates of a file, at least one, and the file's text. Nothing else may be in it: the
/// text of a `ca.crt` is copied to every identity, and a key must not go with it.
pub(crate) fn read_certificates(
    file: &Path,
    missing: &dyn Fn() -> String,
) -> Result<(Vec<CertificateDer<'static>>, String), LoadError> {
    let text =
        String::from_utf8(read(file, missing)?).map_err(|_| damaged(file, "it is not PEM text"))?;
    let mut certificates = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        match section {
            Ok((SectionKind::Certificate, der)) => certificates.push(der.into()),
            Ok(_) => return Err(damaged(file, "something else than certificates is in it")),
            Err(e) => return Err(damaged(file, &pem_fault(&e))),
        }
        if certificates.len() > MAX_CERTIFICATES {
            return Err(damaged(file, "more than 16 certificates are in it"));
        }
    }
    if certificates.is_empty() {
        return Err(damaged(file, "no PEM certificate is in it"));
    }
    Ok((certificates, text))
}

fn read_key(
    file: &Path,
    missing: &dyn Fn() -> String,
) -> Result<PrivateKeyDer<'static>, LoadError> {
    PrivateKeyDer::from_pem_slice(&read(file, missing)?).map_err(|e| match e {
        pem::Error::NoItemsFound => damaged(file, "no PEM private key is in it"),
        e => damaged(file, &pem_fault(&e)),
    })
}

/// Says what is wrong without repeating what is in the file.
pub(crate) fn pem_fault(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM section has no end line",
        pem::Error::IllegalSectionStart { .. } => "a PEM section begins with a broken line",
        pem::Error::Base64Decode(_) => "a PEM section is not base64",
        _ => "it is not PEM",
    }
    .to_owned()
}

pub(crate) fn damaged(file: &Path, why: &str) -> LoadError {
    LoadError::Damaged { file: file.to_owned(), why: why.to_owned() }
}

/// `P/N` as the `--dir P --name N` that makes it.
fn dir_and_name(dir: &Path) -> String {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match dir.file_name() {
        Some(name) => format!("--dir {} --name {}", parent.display(), name.display()),
        None => "--dir DIR --name NAME".to_owned(),
    }
}

fn leaf_hint(dir: &Path, files: &[PathBuf; 3]) -> String {
    if dir.join(CA_KEY).exists() {
        let dir = dir.display();
        return format!("{dir} is the CA's own directory: use the one of a name, {dir}/NAME");
    }
    let force = if files.iter().any(|file| file.exists()) { " --force" } else { "" };
    format!("run 'quorate certs node {}{force}' (or 'certs client')", dir_and_name(dir))
}

fn remake_hint(dir: &Path, identity: &Identity) -> String {
    let place = dir_and_name(dir);
    match &identity.kind {
        Kind::Node { .. } => format!("run 'quorate certs node {place} --force'"),
        Kind::Client { roles, .. } => {
            let roles: String = roles.iter().map(|role| format!(" --role {role}")).collect();
            format!("run 'quorate certs client {place}{roles} --force'")
        }
    }
}

/// Why certificates cannot be used. Each message is one line and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file is not there.
    #[error("missing {}: {hint}", file.display())]
    Missing {
        /// Which.
        file: PathBuf,
        /// How to make it.
        hint: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{} cannot be used: {why}; restore it or make it again with 'quorate certs'", file.display())]
    Damaged {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Key and certificate were not made together.
    #[error("{} is not the key of {}: {hint}", key.display(), cert.display())]
    KeyMismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        cert: PathBuf,
        /// How to mend it.
        hint: String,
    },
    /// The certificate was signed by somebody else.
    #[error("{} was not signed by the CA in {}: take both from the same 'quorate certs' directory", cert.display(), ca.display())]
    OtherAuthority {
        /// The certificate.
        cert: PathBuf,
        /// The CA.
        ca: PathBuf,
    },
    /// The CA is of another cluster than the certificate.
    #[error("{} is the CA of cluster '{cluster}', but the certificate beside it is {identity}: take both from the same 'quorate certs' directory", file.display())]
    OtherCluster {
        /// The CA's file.
        file: PathBuf,
        /// The CA's cluster.
        cluster: String,
        /// Who the certificate is for.
        identity: Identity,
    },
    /// A certificate in the CA's place that may not sign.
    #[error("{} is not a CA certificate: copy ca.crt from the CA's directory", file.display())]
    NotAnAuthority {
        /// Which.
        file: PathBuf,
    },
    /// Too late.
    #[error("{} expired on {not_after}: {hint}", file.display())]
    Expired {
        /// Which.
        file: PathBuf,
        /// Its last moment.
        not_after: Moment,
        /// How to renew it.
        hint: String,
    },
    /// Thrown out.
    #[error("{} was revoked: {hint}", file.display())]
    Revoked {
        /// Which.
        file: PathBuf,
        /// How to make another.
        hint: String,
    },
    /// A certificate of somebody else in the place of the one in use.
    #[error("{} is for {is}, but this process is {was}: restart it to be somebody else", file.display())]
    OtherHolder {
        /// Which.
        file: PathBuf,
        /// Who it was for.
        was: Box<Identity>,
        /// Who it is for now.
        is: Box<Identity>,
    },
    /// Too early: more likely a clock than a certificate.
    #[error("{} is valid only from {not_before}, and here it is {now}: set this machine's clock", file.display())]
    NotYetValid {
        /// Which.
        file: PathBuf,
        /// Its first moment.
        not_before: Moment,
        /// The time of the check.
        now: Moment,
    },
    /// No identity in the certificate.
    #[error("{}: {source}; make it with 'quorate certs'", file.display())]
    Identity {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        source: IdentityError,
    },
    /// Peers would refuse it for another reason, such as a usage it was not made for.
    #[error("peers would not accept {}: {source}; {hint}", file.display())]
    NotAccepted {
        /// Which.
        file: PathBuf,
        /// What they would say.
        source: rustls::Error,
        /// How to mend it.
        hint: String,
    },
}

#[cfg(test)]
mod tests;
