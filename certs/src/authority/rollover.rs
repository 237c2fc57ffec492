//! A new CA in place of one that runs: `quorate certs rollover`.
//!
//! Order, each step everywhere before the next: all trust both CAs; all have certificates of the new one;
//! nobody trusts the old one. Invariant: the last step is refused while a certificate in the folder would
//! lose its CA by it.

use std::path::Path;

use rustls_pki_types::UnixTime;

use super::{Authority, CA_CERT, CA_KEY, Config, IssueError, LEAF_CERT};
use crate::identity::parse_der;
use crate::load::read_certificates;
use crate::publish::{Existing, NewFile, publish};
use crate::revocation::CRL;

impl Authority {
    /// Makes a new CA for the same cluster. From now on `dir/ca.crt` and the one beside every certificate
    /// in `dir` name both, and the new one signs. The old key is gone.
    ///
    /// # Errors
    /// A rollover that is under way, or whatever the disk says.
    pub fn roll_over(self, dir: &Path, now: UnixTime) -> Result<Self, IssueError> {
        if self.roots.len() > 1 {
            return Err(IssueError::Rollover { cas: self.roots.len() });
        }
        let mut next = Self::ephemeral(&self.cluster, self.config.clone(), now)?;
        next.pem.push_str(&self.pem);
        next.roots.extend(self.roots);
        let list = next.take_over_list(dir, now)?;
        // Who has the new certificates and the old list goes on with both; the other way round would not.
        let mut files = vec![NewFile::public(CA_CERT, &next.pem)];
        files.extend(list.as_ref().map(|list| NewFile::public(CRL, list)));
        let key = next.issuer.key().serialize_pem();
        // A CA's key without its certificate is of no use, and a certificate that nobody needs yet harms
        // nobody: if this is cut short, the key's own CA is in the file in any case.
        publish(dir, &[files.remove(0), NewFile::secret(CA_KEY, &key)], Existing::Replace)?;
        let mut all = vec![NewFile::public(CA_CERT, &next.pem)];
        all.append(&mut files);
        next.distribute(dir, &all)?;
        Ok(next)
    }

    /// Ends a rollover: from now on only this CA is in the `ca.crt` of `dir` and of all in it.
    ///
    /// # Errors
    /// A certificate in `dir` that another CA has signed, or whatever the disk says.
    pub fn finish_rollover(self, dir: &Path, config: Config) -> Result<Self, IssueError> {
        let own = self.roots.iter().position(|root| self.is(root));
        let Some(pem) = own.filter(|_| self.roots.len() > 1).and_then(|at| section(&self.pem, at))
        else {
            return Err(IssueError::Rollover { cas: 1 });
        };
        let left: Vec<String> = Self::names(dir)?
            .into_iter()
            .filter(|name| {
                let file = dir.join(name).join(LEAF_CERT);
                let leaf = read_certificates(&file, &String::new).ok();
                let leaf = leaf.and_then(|(chain, _)| chain.into_iter().next());
                leaf.is_none_or(|leaf| !self.has_signed(&leaf))
            })
            .collect();
        if !left.is_empty() {
            return Err(IssueError::StillOld { names: left.join(", ") });
        }
        self.distribute(dir, &[NewFile::public(CA_CERT, &pem)])?;
        Self::open(dir, config)
    }

    /// Whether this root is the certificate of the key that signs here.
    fn is(&self, root: &[u8]) -> bool {
        let key = rcgen::PublicKeyData::der_bytes(self.issuer.key());
        parse_der(root).is_ok_and(|root| *root.public_key().subject_public_key.data == *key)
    }

    /// Whether the key that signs here has signed this certificate.
    fn has_signed(&self, leaf: &[u8]) -> bool {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = rcgen::PublicKeyData::der_bytes(self.issuer.key());
        parse_der(leaf).is_ok_and(|leaf| {
            provider.signature_verification_algorithms.all.iter().any(|algorithm| {
                let (signed, signature) = (leaf.tbs_certificate.as_ref(), &leaf.signature_value);
                algorithm.verify_signature(key, signed, &signature.data).is_ok()
            })
        })
    }
}

/// One certificate's part of a PEM text.
fn section(pem: &str, at: usize) -> Option<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let part = pem.split_inclusive(END).nth(at)?;
    let begin = part.find("-----BEGIN CERTIFICATE-----")?;
    Some(format!("{}\n", part.get(begin..)?))
}
