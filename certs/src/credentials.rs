//! What a process presents and what it trusts, ready for TLS.
//!
//! Invariant: every configuration made here is TLS 1.3 only, demands a certificate of the same CA
//! from the other side, and offers neither resumption (a resumed session would outlive the check of
//! its certificate) nor early data (writes could be replayed). Made by `load` and `authority`; used
//! by the node's endpoint and the client's pool, which must also call [`Credentials::verify_peer`]
//! or [`Credentials::verify_node`] on what the connection presented, and [`Credentials::still_accepts`]
//! about open connections when they take new credentials.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::identity::{Identity, IdentityError, parse_der, peer_identity};
use crate::load::LoadError;
use crate::revocation::{Revocations, Serial};
use crate::validity::{Moment, Validity};
use crate::verifier::Revoking;

/// The DNS name that every node's certificate carries and every dialer asks for.
///
/// It is the same for all nodes: addresses and names of nodes change, names may hold characters that
/// DNS does not, and who answered is told by the identity, not by this.
pub const SERVER_NAME: &str = "quorate-node";

/// A certificate chain with its key, and the CA it trusts. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    not_after: Moment,
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    /// The same, whole: whose lists of revocations count.
    trusted: Arc<[CertificateDer<'static>]>,
    revoked: Revocations,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
}

impl Credentials {
    /// Puts the parts together; fails if the key is not the leaf's.
    pub(crate) fn new(
        identity: Identity,
        not_after: Moment,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trusted: &[CertificateDer<'static>],
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certified = Arc::new(CertifiedKey::from_der(chain, key, &provider)?);
        let mut roots = RootCertStore::empty();
        for root in trusted {
            roots.add(root.clone())?;
        }
        Ok(Self {
            identity,
            not_after,
            certified,
            roots: Arc::new(roots),
            trusted: trusted.into(),
            revoked: Revocations::default(),
            provider,
            time: Arc::new(DefaultTimeProvider),
        })
    }

    /// Refuses these besides.
    #[must_use]
    pub fn revoking(mut self, revoked: &Revocations) -> Self {
        self.revoked = self.revoked.union(revoked);
        self
    }

    /// Refuses besides what the list in `dir` says, if that says anything new.
    pub(crate) fn revoking_by(&self, dir: &Path) -> Result<Option<Self>, LoadError> {
        let all = self.revoked.union(&Revocations::load(dir, &self.trusted, &self.provider)?);
        Ok((all != self.revoked).then(|| self.clone().revoking(&all)))
    }

    /// With the clock of those in use until now, and all that they refuse.
    pub(crate) fn succeeding(self, last: &Self) -> Self {
        self.with_time(Arc::clone(&last.time)).revoking(&last.revoked)
    }

    /// Which certificates are refused although their time is not over.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revoked
    }

    /// Judges peers' certificates by this clock instead of the system's: for runs on virtual time.
    #[must_use]
    pub fn with_time(mut self, time: Arc<dyn TimeProvider>) -> Self {
        self.time = time;
        self
    }

    /// Who the holder is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificates presented to peers, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The last moment at which peers accept this certificate.
    #[must_use]
    pub fn not_after(&self) -> Moment {
        self.not_after
    }

    /// What to warn of, if the certificate ends less than `within` after `now`.
    #[must_use]
    pub fn expires_soon(&self, now: UnixTime, within: Duration) -> Option<ExpiresSoon> {
        (Moment::from(now).plus(within.as_secs()) > self.not_after)
            .then(|| ExpiresSoon { identity: self.identity.clone(), not_after: self.not_after })
    }

    /// TLS for the accepting side.
    ///
    /// # Errors
    /// Only what the TLS library refuses, such as a provider without TLS 1.3.
    pub fn server_config(&self, alpn: &[u8]) -> Result<ServerConfig, rustls::Error> {
        let details = (Arc::clone(&self.provider), Arc::clone(&self.time));
        let mut config = ServerConfig::builder_with_details(details.0, details.1)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(self.client_verifier()?)
            .with_cert_resolver(Arc::new(self.presented()));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// TLS for the dialling side; connect to [`SERVER_NAME`].
    ///
    /// # Errors
    /// Only what the TLS library refuses, such as a provider without TLS 1.3.
    pub fn client_config(&self, alpn: &[u8]) -> Result<ClientConfig, rustls::Error> {
        let details = (Arc::clone(&self.provider), Arc::clone(&self.time));
        let mut config = ClientConfig::builder_with_details(details.0, details.1)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.server_verifier()?)
            .with_client_cert_resolver(Arc::new(self.presented()));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }

    /// Who is on the other side of a connection that TLS has accepted, by the chain it presented,
    /// leaf first: anybody of our own cluster.
    ///
    /// # Errors
    /// No identity in it, one of another cluster, or not made for the dialling side.
    pub fn verify_peer(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, PeerError> {
        let peer = self.of_our_cluster(chain)?;
        made_for(chain, peer, Usage::Dialling)
    }

    fn of_our_cluster(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, PeerError> {
        let peer = peer_identity(chain)?;
        if let Some(serial) = self.revoked.find(chain) {
            return Err(PeerError::Revoked { peer, serial });
        }
        if peer.cluster != self.identity.cluster {
            return Err(PeerError::OtherCluster { peer, ours: self.identity.cluster.clone() });
        }
        Ok(peer)
    }

    /// As [`Self::verify_peer`], for a dialer: the other side must be a node, made for listening, and, if
    /// `name` is given, that node.
    ///
    /// # Errors
    /// As there, and for a client or another node.
    pub fn verify_node(
        &self,
        chain: &[CertificateDer<'_>],
        name: Option<&str>,
    ) -> Result<Identity, PeerError> {
        let peer = self.of_our_cluster(chain)?;
        match name {
            _ if !peer.is_node() => Err(PeerError::NotANode { peer }),
            Some(name) if name != peer.name() => {
                Err(PeerError::OtherNode { expected: name.to_owned(), peer })
            }
            _ => made_for(chain, peer, Usage::Listening),
        }
    }

    /// Whether the peer of an open connection, whose chain was accepted once, would be let in by these
    /// credentials too. That its time is over does not end a connection, or a node whose renewal is late
    /// would fall out of the cluster at once instead of at its next start.
    ///
    /// # Errors
    /// It was revoked, or its CA is not trusted any more, or as [`Self::verify_peer`].
    pub fn still_accepts(&self, chain: &[CertificateDer<'_>]) -> Result<(), PeerError> {
        let peer = self.verify_peer(chain)?;
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(PeerError::Identity(IdentityError::NoCertificate));
        };
        // A moment at which its time was not over, whatever the clock says now.
        let begin = u64::try_from(Validity::of(&parse_der(leaf)?).not_before.0).unwrap_or(0);
        let within = UnixTime::since_unix_epoch(Duration::from_secs(begin));
        // Nodes may stand on the dialling side as well, so this judges both.
        let verified = self
            .client_verifier()
            .and_then(|verifier| verifier.verify_client_cert(leaf, intermediates, within));
        verified.map(drop).map_err(|_| PeerError::Distrusted { peer })
    }

    /// Whether a peer with the same CA would accept this chain at `now`, in every part that the
    /// identity may play.
    pub(crate) fn verify_own(&self, now: UnixTime) -> Result<(), rustls::Error> {
        let (leaf, intermediates) =
            self.chain().split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.client_verifier()?.verify_client_cert(leaf, intermediates, now)?;
        let node = self.identity.is_node().then_some(Usage::Listening);
        for usage in [Some(Usage::Dialling), node].into_iter().flatten() {
            if !usage.is_of(leaf).unwrap_or(false) {
                return Err(CertificateError::InvalidPurpose.into());
            }
        }
        if self.identity.is_node() {
            let name = ServerName::try_from(SERVER_NAME)
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            self.server_verifier()?.verify_server_cert(leaf, intermediates, &name, &[], now)?;
        }
        Ok(())
    }

    /// The verdict of a handshake on somebody who dials.
    #[cfg(test)]
    pub(crate) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        self.client_verifier()?.verify_client_cert(&chain[0], &chain[1..], now).map(drop)
    }

    /// The verdict of a handshake on somebody who is dialled.
    #[cfg(test)]
    pub(crate) fn judge_dialled(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let (leaf, others) = (&chain[0], &chain[1..]);
        self.server_verifier()?.verify_server_cert(leaf, others, &name, &[], now).map(drop)
    }

    fn presented(&self) -> SingleCertAndKey {
        Arc::clone(&self.certified).into()
    }

    fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let (roots, provider) = (Arc::clone(&self.roots), Arc::clone(&self.provider));
        let usual = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(Arc::new(Revoking::new(usual, self.revoked.clone())))
    }

    fn server_verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
        let (roots, provider) = (Arc::clone(&self.roots), Arc::clone(&self.provider));
        let usual = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(Arc::new(Revoking::new(usual, self.revoked.clone())))
    }
}

/// On which side of a connection a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Dialling,
    Listening,
}

impl Usage {
    /// Whether the extended key usage of a certificate names it. The TLS library takes a certificate
    /// that names none for any use; ours all name theirs.
    fn is_of(self, leaf: &CertificateDer<'_>) -> Result<bool, IdentityError> {
        let leaf = parse_der(leaf)?;
        let usages = leaf.extended_key_usage().map_err(|_| IdentityError::NotACertificate)?;
        Ok(usages.is_some_and(|usages| match self {
            Self::Dialling => usages.value.client_auth,
            Self::Listening => usages.value.server_auth,
        }))
    }
}

fn made_for(
    chain: &[CertificateDer<'_>],
    peer: Identity,
    usage: Usage,
) -> Result<Identity, PeerError> {
    let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
    if usage.is_of(leaf)? {
        return Ok(peer);
    }
    let lacks = match usage {
        Usage::Dialling => "client",
        Usage::Listening => "server",
    };
    Err(PeerError::Usage { peer, lacks })
}

impl fmt::Debug for Credentials {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A warning, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiresSoon {
    /// Whose certificate.
    pub identity: Identity,
    /// When it ends.
    pub not_after: Moment,
}

impl fmt::Display for ExpiresSoon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, not_after } = self;
        write!(
            f,
            "the certificate of {identity} expires on {not_after}: renew it with 'quorate certs renew'"
        )
    }
}

/// Why a peer that TLS accepted is refused all the same.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Its certificate says nothing usable.
    #[error("the peer's certificate is not of a Quorate cluster: {0}")]
    Identity(#[from] IdentityError),
    /// It was thrown out.
    #[error("the certificate of {peer} was revoked (serial number {serial})")]
    Revoked {
        /// Who it is.
        peer: Identity,
        /// Which certificate of its chain.
        serial: Serial,
    },
    /// Its CA, which was trusted when it came, is so no more.
    #[error("the CA that signed the certificate of {peer} is not trusted any more")]
    Distrusted {
        /// Who it is.
        peer: Identity,
    },
    /// It belongs to another cluster.
    #[error("the peer is {peer}, but this is cluster '{ours}': check address and certificates")]
    OtherCluster {
        /// Who it is.
        peer: Identity,
        /// The name of our cluster.
        ours: String,
    },
    /// Its extended key usage does not name the side on which it stands.
    #[error(
        "the certificate of {peer} lacks {lacks} authentication among its extended key usages: make \
         one with 'quorate certs'"
    )]
    Usage {
        /// Who it is.
        peer: Identity,
        /// `client` or `server`.
        lacks: &'static str,
    },
    /// A client listens where a node should.
    #[error("the peer is {peer}, which is not a node: check the address")]
    NotANode {
        /// Who it is.
        peer: Identity,
    },
    /// Another node listens at this address.
    #[error("the peer is {peer}, not node '{expected}': check the address")]
    OtherNode {
        /// The name of the node that was dialled.
        expected: String,
        /// Who it is.
        peer: Identity,
    },
}

#[cfg(test)]
mod tests;
