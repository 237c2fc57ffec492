//! A new certificate and key for somebody who has one: `quorate certs renew`.
//!
//! Invariants: the new one says of its holder exactly what the old one said. Where the key is here, it is a
//! new one too: a key that was copied somewhere is worth nothing once its certificate is revoked. Where the
//! key never was here it stays, unless its certificate is revoked.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rcgen::SubjectPublicKeyInfo;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::{Authority, IssueError, LEAF_CERT, LEAF_KEY};
use crate::credentials::SERVER_NAME;
use crate::identity::{Identity, Kind, parse_der};
use crate::load::{LoadError, damaged, read_certificates};
use crate::publish::Existing;
use crate::revocation::Revocations;

/// What a certificate says of its holder.
pub(super) struct Holder {
    pub(super) identity: Identity,
    /// Additional names, of a node.
    pub(super) sans: Vec<String>,
    key: SubjectPublicKeyInfo,
}

impl Authority {
    /// Makes a new certificate and key for the holder of `dir/name/tls.crt`, in its place; returns
    /// `dir/name`. If the key is not there, since the certificate was requested, the new one is for the same
    /// key. The old certificate goes on counting until it ends or is revoked.
    ///
    /// # Errors
    /// No certificate there, one of another cluster, one that is revoked and whose key is elsewhere, or as
    /// [`Self::issue_node`].
    pub fn renew(&self, dir: &Path, name: &str, now: UnixTime) -> Result<PathBuf, IssueError> {
        let Holder { identity, sans, key } = self.holder(dir, name)?;
        if !dir.join(name).join(LEAF_KEY).exists() {
            let revoked = Revocations::load(dir, &self.roots, &default_provider())?;
            if revoked.contains(&self.serial(dir, name)?) {
                return Err(IssueError::Revoked(name.to_owned()));
            }
            let certificate = match &identity.kind {
                Kind::Node { name } => self.certify_node(name, &sans, now, &key)?,
                Kind::Client { name, roles } => self.certify_client(name, *roles, now, &key)?,
            };
            return self.place(dir, name, None, &certificate, Existing::Replace);
        }
        let leaf = match &identity.kind {
            Kind::Node { name } => self.sign_node(name, &sans, now)?,
            Kind::Client { name, roles } => self.sign_client(name, *roles, now)?,
        };
        leaf.write(dir, self, Existing::Replace)
    }

    /// Who has a folder in `dir`, by name.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn names(dir: &Path) -> Result<Vec<String>, IssueError> {
        let unreadable = |source| LoadError::Unreadable { file: dir.to_owned(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if let Ok(name) = entry.file_name().into_string()
                && entry.path().join(LEAF_CERT).is_file()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn holder(&self, dir: &Path, name: &str) -> Result<Holder, IssueError> {
        let file = dir.join(name).join(LEAF_CERT);
        let missing =
            || "only what is there can be renewed or revoked; see 'quorate certs show'".to_owned();
        let (chain, _) = read_certificates(&file, &missing)?;
        let leaf = chain.first().ok_or_else(|| damaged(&file, "it is empty"))?;
        let identity = Identity::from_certificate(leaf)
            .map_err(|source| LoadError::Identity { file: file.clone(), source })?;
        if identity.cluster != self.cluster {
            let (cluster, file) = (self.cluster.clone(), dir.join(super::CA_CERT));
            return Err(LoadError::OtherCluster { file, cluster, identity }.into());
        }
        let parsed = parse_der(leaf).map_err(|e| damaged(&file, &e.to_string()))?;
        let key = SubjectPublicKeyInfo::from_der(parsed.public_key().raw)?;
        Ok(Holder { identity, sans: additional(&parsed), key })
    }
}

/// The names that were given with `--san`.
fn additional(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(dns) if *dns != SERVER_NAME => Some((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => ip(bytes).map(|ip| ip.to_string()),
            _ => None,
        })
        .collect()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|v4| Ipv4Addr::from(v4).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|v6| Ipv6Addr::from(v6).into())).ok()
}
