//! Which certificates count no more although their time is not over: the lists in `ca.crl`.
//!
//! Invariants: a list counts only if a CA in the `ca.crt` beside it has signed it; a list that is over
//! its `nextUpdate` goes on counting, because a network without the newest list is no reason to let in
//! who was thrown out. Serial numbers are told apart whoever issued them, so that after a rollover the
//! new CA speaks for the certificates of the old one too. Read by `load`, asked by `verifier` in every
//! handshake and by `credentials` about open connections.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{AlgorithmIdentifier, CertificateDer};
use x509_parser::prelude::X509Certificate;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::identity::parse_der;
use crate::load::{self, LoadError, damaged, pem_fault};

/// The lists of revoked certificates, beside `ca.crt`; there need not be one.
pub const CRL: &str = "ca.crl";

/// A serial number without leading zeros; prints as `certs show` does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// The number with these big-endian bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().into())
    }

    /// The number of a certificate, if it can be read.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        Some(Self::new(parse_der(certificate).ok()?.raw_serial()))
    }

    /// Reads what [`fmt::Display`] prints; colons may be left out.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u32> =
            text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
        let bytes: Option<Vec<u8>> = digits
            .rchunks(2)
            .rev()
            .map(|pair| u8::try_from(pair.iter().fold(0, |sum, digit| sum * 16 + digit)).ok())
            .collect();
        bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| Self::new(&bytes))
    }

    /// Its big-endian bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// The serial numbers that count no more. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations(Arc<BTreeSet<Serial>>);

impl Revocations {
    /// Reads `dir/ca.crl`, whose lists one of `roots` must each have signed. Without the file nothing
    /// is revoked.
    ///
    /// # Errors
    /// A file that cannot be read, holds something else, or a list of somebody else's.
    pub(crate) fn load(
        dir: &Path,
        roots: &[CertificateDer<'static>],
        provider: &CryptoProvider,
    ) -> Result<Self, LoadError> {
        let file = dir.join(CRL);
        let mut serials = BTreeSet::new();
        for der in read_lists(&file)? {
            let list = parse_list(&file, &der)?;
            let ours = |root: &CertificateDer<'static>| {
                parse_der(root).is_ok_and(|root| signed_by(&list, &root, provider))
            };
            if !roots.iter().any(ours) {
                return Err(damaged(&file, "no CA in the ca.crt beside it has signed it"));
            }
            serials.extend(
                list.iter_revoked_certificates().map(|entry| Serial::new(entry.raw_serial())),
            );
        }
        Ok(Self(Arc::new(serials)))
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this one is.
    #[must_use]
    pub fn contains(&self, serial: &Serial) -> bool {
        self.0.contains(serial)
    }

    /// What is revoked here or there.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.0.is_subset(&self.0) {
            return self.clone();
        }
        Self(Arc::new(self.0.union(&other.0).cloned().collect()))
    }

    /// The first certificate of a chain that is revoked.
    #[must_use]
    pub fn find(&self, chain: &[CertificateDer<'_>]) -> Option<Serial> {
        if self.0.is_empty() {
            return None;
        }
        chain.iter().filter_map(Serial::of).find(|serial| self.0.contains(serial))
    }
}

/// The text of a file of lists, if it is there.
pub(crate) fn read_text(file: &Path) -> Result<Option<String>, LoadError> {
    if read_lists(file)?.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(load::read(file, &String::new)?);
    text.map(Some).map_err(|_| damaged(file, "it is not PEM text"))
}

impl FromIterator<Serial> for Revocations {
    fn from_iter<I: IntoIterator<Item = Serial>>(serials: I) -> Self {
        Self(Arc::new(serials.into_iter().collect()))
    }
}

/// The lists in a file; none if it is not there.
pub(crate) fn read_lists(file: &Path) -> Result<Vec<Vec<u8>>, LoadError> {
    let bytes = match load::read(file, &String::new) {
        Err(LoadError::Missing { .. }) => return Ok(Vec::new()),
        other => other?,
    };
    let mut lists = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes) {
        match section {
            Ok((SectionKind::Crl, der)) => lists.push(der),
            Ok(_) => return Err(damaged(file, "something else than revocation lists is in it")),
            Err(error) => return Err(damaged(file, &pem_fault(&error))),
        }
    }
    // An empty file is one that is only half written: a list that revokes nothing is not empty.
    if lists.is_empty() {
        return Err(damaged(file, "no PEM revocation list is in it"));
    }
    Ok(lists)
}

pub(crate) fn parse_list<'a>(
    file: &Path,
    der: &'a [u8],
) -> Result<CertificateRevocationList<'a>, LoadError> {
    let Ok(([], list)) = x509_parser::parse_x509_crl(der) else {
        return Err(damaged(file, "a revocation list in it is damaged"));
    };
    // Such as one that says that it is about some certificates only, or about changes since another.
    if list.extensions().iter().any(|extension| extension.critical) {
        return Err(damaged(file, "a revocation list in it is not about all certificates"));
    }
    Ok(list)
}

/// Whether this CA, which must be allowed to, has signed the list.
fn signed_by(
    list: &CertificateRevocationList<'_>,
    ca: &X509Certificate<'_>,
    provider: &CryptoProvider,
) -> bool {
    let may = ca.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()));
    let key = ca.public_key();
    may && list.issuer() == ca.subject()
        && provider
            .signature_verification_algorithms
            .all
            .iter()
            .filter(|algorithm| {
                is(algorithm.signature_alg_id(), list.signature_algorithm.algorithm.as_bytes())
                    && is(algorithm.public_key_alg_id(), key.algorithm.algorithm.as_bytes())
            })
            .any(|algorithm| {
                let signature = &list.signature_value.data;
                let signed = list.tbs_cert_list.as_ref();
                let key = &key.subject_public_key.data;
                algorithm.verify_signature(key, signed, signature).is_ok()
            })
}

/// Whether an algorithm has this object identifier. Its parameters are the verification's concern.
fn is(algorithm: AlgorithmIdentifier, oid: &[u8]) -> bool {
    let Ok(length) = u8::try_from(oid.len()) else { return false };
    algorithm.as_ref().strip_prefix(&[0x06, length]).is_some_and(|rest| rest.starts_with(oid))
}

#[cfg(test)]
mod tests;
