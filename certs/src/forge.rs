//! Certificates that everybody must refuse: for tests, behind the feature `forge`.
//!
//! [`Authority`] cannot make any of these, and [`Credentials::load`] would refuse to start with them;
//! whoever wants to break in does not ask either. Used by the behaviour tests only.

use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType};
use rustls_pki_types::{PrivateKeyDer, UnixTime};

use crate::{
    authority::{Authority, IssueError, dns, params, uri},
    credentials::Credentials,
    identity::Identity,
    validity::{Moment, Validity},
};

/// A leaf with whatever in it.
#[derive(Clone, Debug)]
pub struct Forgery<'a> {
    /// Who signs it; nobody: it signs itself.
    pub signer: Option<&'a Authority>,
    /// The URIs among its alternative names; an honest one has one.
    pub uris: Vec<String>,
    /// Its DNS names.
    pub names: Vec<String>,
    /// Whether its extended key usage has server authentication, and client authentication.
    pub usages: (bool, bool),
    /// From when to when it is valid.
    pub dates: (UnixTime, UnixTime),
    /// Who its holder takes itself for, and so which cluster it expects others to be of.
    pub holder: Identity,
    /// Whom its holder trusts.
    pub trusts: &'a Authority,
}

impl Forgery<'_> {
    /// Makes it, with a key.
    ///
    /// # Errors
    /// Names or dates that X.509 cannot express.
    pub fn make(self) -> Result<Credentials, IssueError> {
        let (not_before, not_after) = self.dates;
        let validity =
            Validity { not_before: Moment::from(not_before), not_after: Moment::from(not_after) };
        let mut params = params(self.holder.name(), validity)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usages = [
            (self.usages.0, ExtendedKeyUsagePurpose::ServerAuth),
            (self.usages.1, ExtendedKeyUsagePurpose::ClientAuth),
        ];
        let usages = usages.into_iter().filter_map(|(has, usage)| has.then_some(usage));
        params.extended_key_usages = usages.collect();
        let uris = self.uris.into_iter().map(uri);
        let names = self.names.iter().map(|name| dns(name));
        params.subject_alt_names = uris.chain(names).collect::<Result<Vec<SanType>, _>>()?;
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = match self.signer {
            Some(ca) => params.signed_by(&key, ca.issuer())?,
            None => params.self_signed(&key)?,
        };
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let (chain, roots) = (vec![certificate.into()], self.trusts.roots());
        Ok(Credentials::new(self.holder, validity.not_after, chain, der, roots)?)
    }
}
