//! A new certificate and key for somebody who has one: `quorate certs renew`.
//!
//! Invariant: the new one says of its holder exactly what the old one said. Nothing else is taken over:
//! a key that was copied somewhere is worth nothing once its certificate is revoked.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rustls_pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::{Authority, IssueError, LEAF_CERT};
use crate::credentials::SERVER_NAME;
use crate::identity::{Identity, Kind, parse_der};
use crate::load::{LoadError, damaged, read_certificates};
use crate::publish::Existing;

/// What a certificate says of its holder.
pub(super) struct Holder {
    pub(super) identity: Identity,
    /// Additional names, of a node.
    pub(super) sans: Vec<String>,
}

impl Authority {
    /// Makes a new certificate and key for the holder of `dir/name/tls.crt`, in its place; returns
    /// `dir/name`. The old certificate goes on counting until it ends or is revoked.
    ///
    /// # Errors
    /// No certificate there, one of another cluster, or as [`Self::issue_node`].
    pub fn renew(&self, dir: &Path, name: &str, now: UnixTime) -> Result<PathBuf, IssueError> {
        let Holder { identity, sans } = self.holder(dir, name)?;
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
        Ok(Holder { identity, sans: additional(&parsed) })
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
