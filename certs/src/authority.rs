//! The cluster's certificate authority: makes itself, nodes and clients.
//!
//! Invariant: everything it signs names its own cluster, ends no later than it does, and says by
//! its extended key usage on which side of a connection it may stand: nodes on both, clients only
//! on the dialling one, so a client's key cannot pose as a node. Called by `quorate certs`, by
//! `quorate demo` and, without a disk, by tests and simulations.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, UnixTime};
use serde::Deserialize;

use crate::credentials::{Credentials, SERVER_NAME};
use crate::identity::{Identity, IdentityError, NameError, Roles, cluster_uri, valid_name};
use crate::load::{self, LoadError};
use crate::publish::{Existing, NewFile, PublishError, publish};
use crate::revocation::{self, CRL};
use crate::validity::{Moment, Standing, Validity};

mod renew;
mod revoke;
mod rollover;

/// The CA's certificate, in the CA's directory and beside every identity it made.
pub const CA_CERT: &str = "ca.crt";
/// The CA's private key.
pub const CA_KEY: &str = "ca.key";
/// A node's or client's certificate.
pub const LEAF_CERT: &str = "tls.crt";
/// A node's or client's private key.
pub const LEAF_KEY: &str = "tls.key";
/// The cluster's name where none is given.
pub const DEFAULT_CLUSTER: &str = "quorate";

const DAY_S: u64 = 24 * 60 * 60;

/// How long certificates last, and what may be in them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Validity of a CA in days; default 3,650 (10 years). Replacing a CA means touching every
    /// node and client, so this is long; what bounds the harm of a lost key is `leaf_validity_days`.
    pub ca_validity_days: u32,
    /// Validity of node and client certificates in days, cut to the CA's own; default 365. Shorter
    /// is safer and needs renewal more often.
    pub leaf_validity_days: u32,
    /// How far before its making a certificate becomes valid, in seconds; default 3,600. Covers
    /// clocks that are behind the one of the machine that made it.
    pub backdate_s: u32,
    /// The most additional names (`--san`) of one node; default 64. They travel in every handshake.
    pub max_sans: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { ca_validity_days: 3650, leaf_validity_days: 365, backdate_s: 3600, max_sans: 64 }
    }
}

/// A CA with its private key, ready to sign.
#[derive(Debug)]
pub struct Authority {
    cluster: String,
    config: Config,
    /// Who is trusted: the CA itself and, during a rollover, its predecessors.
    roots: Vec<CertificateDer<'static>>,
    /// The same as text, for every `ca.crt` that is written.
    pem: String,
    validity: Validity,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a CA and writes `dir/ca.key` (mode 0600) and `dir/ca.crt`.
    ///
    /// # Errors
    /// A bad cluster name, files that are there already, or whatever the disk says.
    pub fn create(
        dir: &Path,
        cluster: &str,
        config: Config,
        now: UnixTime,
        existing: Existing,
    ) -> Result<Self, IssueError> {
        let authority = Self::ephemeral(cluster, config, now)?;
        let key = authority.issuer.key().serialize_pem();
        let files = [NewFile::secret(CA_KEY, &key), NewFile::public(CA_CERT, &authority.pem)];
        publish(dir, &files, existing)?;
        Ok(authority)
    }

    /// Makes a CA that exists in memory only, for tests and simulations.
    ///
    /// # Errors
    /// A bad cluster name, or a validity that X.509 cannot express.
    pub fn ephemeral(cluster: &str, config: Config, now: UnixTime) -> Result<Self, IssueError> {
        let cluster = valid_name(cluster)?.to_owned();
        let validity = lasting(config.ca_validity_days, &config, now);
        let mut params = params(&cluster, validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(cluster_uri(&cluster))?];
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            cluster,
            config,
            pem: certificate.pem(),
            roots: vec![certificate.into()],
            validity,
            issuer: Issuer::new(params, key),
        })
    }

    /// Opens the CA in `dir`. An expired one opens too, but signs nothing.
    ///
    /// # Errors
    /// Missing or damaged files, a key of another CA, a certificate that names no cluster.
    pub fn open(dir: &Path, config: Config) -> Result<Self, IssueError> {
        let ca = load::authority(dir)?;
        // Already checked against the certificate, so only an algorithm that rcgen cannot sign with
        // is left to go wrong here.
        let key = KeyPair::try_from(&ca.key)?;
        Ok(Self {
            cluster: ca.cluster,
            config,
            issuer: Issuer::from_ca_cert_der(&ca.certificate, key)?,
            roots: ca.roots,
            pem: ca.pem,
            validity: ca.validity,
        })
    }

    /// The cluster that this CA speaks for.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// What its identities trust, as in every `ca.crt` it writes: usually one certificate.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// What signs.
    #[cfg(feature = "forge")]
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Makes a node and writes `dir/name/{ca.crt,tls.crt,tls.key}`; returns `dir/name`. Each of
    /// `sans` is a DNS name or an IP address.
    ///
    /// # Errors
    /// A bad name, an expired CA, files that are there already, or whatever the disk says.
    pub fn issue_node(
        &self,
        dir: &Path,
        name: &str,
        sans: &[String],
        now: UnixTime,
        existing: Existing,
    ) -> Result<PathBuf, IssueError> {
        self.sign_node(name, sans, now)?.write(dir, self, existing)
    }

    /// Makes a client with these roles and writes `dir/name/{ca.crt,tls.crt,tls.key}`; returns
    /// `dir/name`.
    ///
    /// # Errors
    /// As [`Self::issue_node`], and for no role.
    pub fn issue_client(
        &self,
        dir: &Path,
        name: &str,
        roles: Roles,
        now: UnixTime,
        existing: Existing,
    ) -> Result<PathBuf, IssueError> {
        self.sign_client(name, roles, now)?.write(dir, self, existing)
    }

    /// Makes a node without touching a disk.
    ///
    /// # Errors
    /// A bad name, or an expired CA.
    pub fn issue_node_in_memory(
        &self,
        name: &str,
        sans: &[String],
        now: UnixTime,
    ) -> Result<Credentials, IssueError> {
        self.sign_node(name, sans, now)?.into_credentials(self)
    }

    /// Makes a client without touching a disk.
    ///
    /// # Errors
    /// A bad name, no role, or an expired CA.
    pub fn issue_client_in_memory(
        &self,
        name: &str,
        roles: Roles,
        now: UnixTime,
    ) -> Result<Credentials, IssueError> {
        self.sign_client(name, roles, now)?.into_credentials(self)
    }

    /// A node's certificate for a key that is elsewhere, as text.
    pub(crate) fn certify_node(
        &self,
        name: &str,
        sans: &[String],
        now: UnixTime,
        key: &impl PublicKeyData,
    ) -> Result<String, IssueError> {
        let (identity, names, usages) = self.node(name, sans)?;
        Ok(self.certify(&identity, names, usages, now, key)?.1.pem())
    }

    /// A client's certificate for a key that is elsewhere, as text.
    pub(crate) fn certify_client(
        &self,
        name: &str,
        roles: Roles,
        now: UnixTime,
        key: &impl PublicKeyData,
    ) -> Result<String, IssueError> {
        let (identity, names, usages) = self.client(name, roles)?;
        Ok(self.certify(&identity, names, usages, now, key)?.1.pem())
    }

    /// Puts a certificate, its key unless that is elsewhere, and what its holder must know of others into
    /// `dir/name`, which it returns.
    pub(crate) fn place(
        &self,
        dir: &Path,
        name: &str,
        key: Option<&str>,
        certificate: &str,
        existing: Existing,
    ) -> Result<PathBuf, IssueError> {
        let list = revocation::read_text(&dir.join(CRL))?;
        let dir = dir.join(name);
        // Key and certificate side by side: a crash between the two is found by `load`, which
        // compares them, and mended by making the identity again.
        let mut files: Vec<_> = key.map(|key| NewFile::secret(LEAF_KEY, key)).into_iter().collect();
        files.push(NewFile::public(LEAF_CERT, certificate));
        files.push(NewFile::public(CA_CERT, &self.pem));
        files.extend(list.as_deref().map(|list| NewFile::public(CRL, list)));
        publish(&dir, &files, existing)?;
        Ok(dir)
    }

    fn node(&self, name: &str, sans: &[String]) -> Result<Wanted, IssueError> {
        let identity = Identity::node(&self.cluster, name)?;
        if sans.len() > self.config.max_sans {
            return Err(IssueError::TooManyNames { max: self.config.max_sans });
        }
        let mut names = vec![dns(SERVER_NAME)?];
        names.extend(additional(sans)?);
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok((identity, names, usages))
    }

    fn client(&self, name: &str, roles: Roles) -> Result<Wanted, IssueError> {
        let identity = Identity::client(&self.cluster, name, roles)?;
        Ok((identity, Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth]))
    }

    fn sign_node(&self, name: &str, sans: &[String], now: UnixTime) -> Result<Leaf, IssueError> {
        self.sign(self.node(name, sans)?, now)
    }

    fn sign_client(&self, name: &str, roles: Roles, now: UnixTime) -> Result<Leaf, IssueError> {
        self.sign(self.client(name, roles)?, now)
    }

    fn sign(&self, wanted: Wanted, now: UnixTime) -> Result<Leaf, IssueError> {
        let (identity, names, usages) = wanted;
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let (validity, certificate) = self.certify(&identity, names, usages, now, &key)?;
        Ok(Leaf { identity, validity, certificate, key })
    }

    fn certify(
        &self,
        identity: &Identity,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        now: UnixTime,
        key: &impl PublicKeyData,
    ) -> Result<(Validity, Certificate), IssueError> {
        if self.validity.at(now) != Standing::Valid {
            return Err(IssueError::OutOfTime {
                cluster: self.cluster.clone(),
                validity: self.validity,
            });
        }
        let mut validity = lasting(self.config.leaf_validity_days, &self.config, now);
        validity.not_after = validity.not_after.min(self.validity.not_after);
        let mut params = params(identity.name(), validity)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![uri(identity.to_string())?];
        params.subject_alt_names.extend(names);
        params.serial_number = Some(serial()?);
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok((validity, certificate))
    }
}

/// A number of its own: by default it would follow from the key, so that who is revoked would take along
/// every later certificate for the same key.
fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0; 16];
    let random = default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
    // Positive, and never shorter.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Who a certificate is for, the names it has, and what it may be used for.
type Wanted = (Identity, Vec<SanType>, Vec<ExtendedKeyUsagePurpose>);

/// A fresh certificate and its key.
struct Leaf {
    identity: Identity,
    validity: Validity,
    certificate: Certificate,
    key: KeyPair,
}

impl Leaf {
    fn write(self, dir: &Path, ca: &Authority, existing: Existing) -> Result<PathBuf, IssueError> {
        let (key, certificate) = (self.key.serialize_pem(), self.certificate.pem());
        ca.place(dir, self.identity.name(), Some(&key), &certificate, existing)
    }

    fn into_credentials(self, ca: &Authority) -> Result<Credentials, IssueError> {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let chain = vec![self.certificate.into()];
        let not_after = self.validity.not_after;
        Ok(Credentials::new(self.identity, not_after, chain, key, &ca.roots)?)
    }
}

fn lasting(days: u32, config: &Config, now: UnixTime) -> Validity {
    let now = Moment::from(now);
    Validity {
        not_before: now.minus(config.backdate_s.into()),
        not_after: now.plus(u64::from(days) * DAY_S),
    }
}

pub(crate) fn params(
    common_name: &str,
    validity: Validity,
) -> Result<CertificateParams, IssueError> {
    let date = |moment: Moment| match moment.to_asn1() {
        Some(time) if validity.not_before < validity.not_after => Ok(time.to_datetime()),
        _ => Err(IssueError::Validity(validity)),
    };
    let mut params = CertificateParams::default();
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

/// What a request says of its bearer: a name.
pub(crate) fn request_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// DNS names and addresses, each once.
pub(crate) fn additional(sans: &[String]) -> Result<Vec<SanType>, IssueError> {
    let mut seen = BTreeSet::from([SERVER_NAME]);
    let new = sans.iter().filter(|san| seen.insert(san));
    new.map(|san| match san.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => dns(san),
    })
    .collect()
}

pub(crate) fn uri(uri: String) -> Result<SanType, IssueError> {
    Ok(SanType::URI(uri.try_into()?))
}

pub(crate) fn dns(name: &str) -> Result<SanType, IssueError> {
    let bad = || IssueError::San(name.escape_debug().to_string());
    let valid = DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(valid.as_ref().try_into().map_err(|_| bad())?))
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// A cluster, node or client name that cannot stand in a path or URI.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A client without roles.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A `--san` that is neither.
    #[error("'{0}' is neither a DNS name nor an IP address")]
    San(String),
    /// More `--san` than configured.
    #[error("at most {max} additional names per certificate")]
    TooManyNames {
        /// [`Config::max_sans`].
        max: usize,
    },
    /// Dates that X.509 cannot express, or none at all.
    #[error("no certificate can last from {} to {}: choose another validity", .0.not_before, .0.not_after)]
    Validity(Validity),
    /// A file that is no request, or not one that can be granted.
    #[error("{} cannot be signed: {why}", file.display())]
    Request {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The CA may not sign at this time.
    #[error("the CA of '{cluster}' is valid from {} to {}: check the clock, or make a new CA with 'quorate certs ca'", validity.not_before, validity.not_after)]
    OutOfTime {
        /// Whose CA.
        cluster: String,
        /// When it is valid.
        validity: Validity,
    },
    /// A rollover cannot begin, or has not begun.
    #[error("{}", if *.cas > 1 {
        "a rollover is under way: end it with 'quorate certs rollover --finish' first"
    } else {
        "there is no rollover to finish: 'quorate certs rollover' begins one"
    })]
    Rollover {
        /// How many CAs are trusted.
        cas: usize,
    },
    /// A rollover cannot end.
    #[error(
        "the old CA is still needed by {names}: renew these with 'quorate certs renew' and bring them to where they are used first"
    )]
    StillOld {
        /// Whose certificates it has signed.
        names: String,
    },
    /// A request whose certificate would come beside a key that it is not for.
    #[error("{} is the key of another certificate than the request's: renew that with 'quorate certs renew', or remove the key and sign again", .0.display())]
    OtherKey(PathBuf),
    /// A certificate that would be renewed for the key that it was revoked with.
    #[error(
        "the certificate of '{0}' is revoked, and its key is not here to be replaced: make a new one where it is used, with 'quorate certs request --force', and sign that"
    )]
    Revoked(String),
    /// Files that are there already, or cannot be written.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The CA's own files.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The cryptographic library refused.
    #[error("cannot make a certificate: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The TLS library refused what was just made.
    #[error("cannot use the new certificate: {0}")]
    Tls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests;
