//! Who a certificate says its holder is: one URI among the subject alternative names.
//!
//! Invariant: there is exactly one spelling of an identity. `parse` accepts only what `Display`
//! prints, so URIs can be compared as bytes and nothing is decoded, trimmed or case-folded. Called
//! by everything that issues, loads or accepts a certificate.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

const SCHEME: &str = "spiffe://";

/// The longest cluster, node or client name, in bytes: what a common name may hold (RFC 5280).
pub const MAX_NAME: usize = 64;

/// What somebody may ask a node to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Speak as a member: Raft, hints, repair, copies. Never granted by a client certificate.
    Node,
    /// Create and drop databases and policies, change membership; implies write and read.
    Admin,
    /// Write points.
    Write,
    /// Query, export, subscribe.
    Read,
}

impl Role {
    /// The roles a client certificate can carry, in the order the URI lists them.
    pub const GRANTABLE: [Self; 3] = [Self::Admin, Self::Write, Self::Read];

    /// The role's name in a URI and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Admin => "admin",
            Self::Write => "write",
            Self::Read => "read",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Node => 0,
            Self::Admin => 1,
            Self::Write => 2,
            Self::Read => 4,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    /// Accepts the roles a client can be granted: `admin`, `write`, `read`.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::GRANTABLE
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| IdentityError::UnknownRole(shorten(text)))
    }
}

/// The roles written into a client certificate. The default is write and read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// No role at all; a certificate cannot be issued for it.
    pub const NONE: Self = Self(0);

    /// The roles as granted, in URI order; what they imply is not listed.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::GRANTABLE.into_iter().filter(move |role| self.0 & role.bit() != 0)
    }

    /// Whether no role is granted.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether these roles allow what `role` allows: admin implies write and read.
    #[must_use]
    pub fn permits(self, role: Role) -> bool {
        let granted = |role: Role| self.0 & role.bit() != 0;
        granted(role) || (matches!(role, Role::Write | Role::Read) && granted(Role::Admin))
    }
}

impl Default for Roles {
    fn default() -> Self {
        Self(Role::Write.bit() | Role::Read.bit())
    }
}

impl FromIterator<Role> for Roles {
    /// [`Role::Node`] cannot be granted to a client and is left out.
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What the holder of a certificate is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A member of the cluster. Its numeric id is not in here: metadata binds one to the name.
    Node {
        /// Unique within the cluster.
        name: String,
    },
    /// An application or an operator.
    Client {
        /// For logs and for `certs show`; carries no rights.
        name: String,
        /// What it may do.
        roles: Roles,
    },
}

/// Cluster, kind and name, as vouched for by the cluster's CA.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The name of the cluster whose CA signed it.
    pub cluster: String,
    /// Node or client, and its name.
    pub kind: Kind,
}

impl Identity {
    /// The identity of a node.
    ///
    /// # Errors
    /// A name that cannot stand in a URI or a path.
    pub fn node(cluster: &str, name: &str) -> Result<Self, NameError> {
        let kind = Kind::Node { name: valid_name(name)?.to_owned() };
        Ok(Self { cluster: valid_name(cluster)?.to_owned(), kind })
    }

    /// The identity of a client with these roles.
    ///
    /// # Errors
    /// A name that cannot stand in a URI or a path, or no role.
    pub fn client(cluster: &str, name: &str, roles: Roles) -> Result<Self, IdentityError> {
        if roles.is_empty() {
            return Err(IdentityError::NoRole);
        }
        let kind = Kind::Client { name: valid_name(name)?.to_owned(), roles };
        Ok(Self { cluster: valid_name(cluster)?.to_owned(), kind })
    }

    /// The name of the node or client.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.kind {
            Kind::Node { name } | Kind::Client { name, .. } => name,
        }
    }

    /// Whether this is a member of the cluster.
    #[must_use]
    pub fn is_node(&self) -> bool {
        matches!(self.kind, Kind::Node { .. })
    }

    /// Whether its holder may do what `role` allows. A node may do everything: it passes on what
    /// clients ask of it, and could propose anything to Raft itself.
    #[must_use]
    pub fn permits(&self, role: Role) -> bool {
        match self.kind {
            Kind::Node { .. } => true,
            Kind::Client { roles, .. } => roles.permits(role),
        }
    }

    /// The identity in a leaf certificate: its only URI name.
    ///
    /// # Errors
    /// Not a certificate, not exactly one URI, or a URI that is no identity.
    pub fn from_certificate(leaf: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        only_uri(&parse_der(leaf)?)?.parse()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = &self.cluster;
        match &self.kind {
            Kind::Node { name } => write!(f, "{SCHEME}{cluster}/node/{name}"),
            Kind::Client { name, roles } => {
                write!(f, "{SCHEME}{cluster}/client/{name}")?;
                for (i, role) in roles.iter().enumerate() {
                    write!(f, "{}role={role}", if i == 0 { '?' } else { '&' })?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::Malformed(shorten(uri));
        let rest = uri.strip_prefix(SCHEME).ok_or_else(malformed)?;
        let (cluster, rest) = rest.split_once('/').ok_or_else(malformed)?;
        match rest.split_once('/').ok_or_else(malformed)? {
            ("node", name) => Ok(Self::node(cluster, name)?),
            ("client", rest) => {
                let (name, query) = rest.split_once('?').ok_or(IdentityError::NoRole)?;
                let mut roles = Roles::NONE;
                for pair in query.split('&') {
                    let role: Role = pair.strip_prefix("role=").ok_or_else(malformed)?.parse()?;
                    // Ascending bits are URI order, without repeats: one spelling per identity.
                    if roles.0 >= role.bit() {
                        return Err(malformed());
                    }
                    roles.0 |= role.bit();
                }
                Self::client(cluster, name, roles)
            }
            _ => Err(malformed()),
        }
    }
}

/// The identity of the other side of a connection, from the chain it presented, leaf first. The
/// caller must have verified the chain (TLS has); the cluster is not compared here, see
/// [`crate::Credentials::verify_peer`].
///
/// # Errors
/// An empty chain, or a leaf without a valid identity.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<Identity, IdentityError> {
    Identity::from_certificate(chain.first().ok_or(IdentityError::NoCertificate)?)
}

/// The URI in a CA's certificate.
pub(crate) fn cluster_uri(cluster: &str) -> String {
    format!("{SCHEME}{cluster}")
}

/// The cluster that a CA's certificate names; `None` if it names none.
pub(crate) fn cluster_of(ca: &X509Certificate<'_>) -> Result<Option<String>, IdentityError> {
    let uri = match only_uri(ca) {
        Err(IdentityError::UriCount(0)) => return Ok(None),
        other => other?,
    };
    let name = uri.strip_prefix(SCHEME).ok_or_else(|| IdentityError::Malformed(shorten(uri)))?;
    Ok(Some(valid_name(name)?.to_owned()))
}

/// Parses one certificate and nothing behind it.
pub(crate) fn parse_der<'a>(der: &'a [u8]) -> Result<X509Certificate<'a>, IdentityError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(IdentityError::NotACertificate),
    }
}

fn only_uri<'a>(certificate: &X509Certificate<'a>) -> Result<&'a str, IdentityError> {
    let names =
        certificate.subject_alternative_name().map_err(|_| IdentityError::NotACertificate)?;
    let mut uris =
        names.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| {
            match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            }
        });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri),
        (None, _) => Err(IdentityError::UriCount(0)),
        (Some(_), more) => Err(IdentityError::UriCount(1 + more)),
    }
}

/// Checks that a name can stand in a path and in a URI as it is.
pub(crate) fn valid_name(name: &str) -> Result<&str, NameError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_NAME {
        Err(NameError::Length(name.len()))
    } else if matches!(name, "." | "..") || !name.bytes().all(allowed) {
        Err(NameError::Characters(shorten(name)))
    } else {
        Ok(name)
    }
}

/// Foreign text for an error message: escaped, so that it stays on its line, and bounded.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(160).flat_map(char::escape_debug).collect()
}

/// Why a name was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Empty or too long; the length in bytes.
    #[error("a name has 1 to {MAX_NAME} bytes, this one has {0}")]
    Length(usize),
    /// Something else than `[A-Za-z0-9._-]`, or `.` or `..`.
    #[error("name '{0}': use letters, digits, '.', '_' and '-', and not '.' or '..' alone")]
    Characters(String),
}

/// Why a certificate or URI is no identity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The peer presented nothing.
    #[error("no certificate was presented")]
    NoCertificate,
    /// Not DER, or not exactly one certificate.
    #[error("not an X.509 certificate")]
    NotACertificate,
    /// An identity is the only URI name of its certificate.
    #[error("the certificate has {0} URI names instead of one: it was not made by quorate certs")]
    UriCount(usize),
    /// A URI of another form, or not in its one spelling.
    #[error("'{0}' is neither spiffe://CLUSTER/node/NAME nor spiffe://CLUSTER/client/NAME?role=R")]
    Malformed(String),
    /// A cluster, node or client name with other characters or of another length.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A role that is not admin, write or read.
    #[error("unknown role '{0}': roles are admin, write and read")]
    UnknownRole(String),
    /// A client without a role could do nothing.
    #[error("a client needs at least one role: admin, write or read")]
    NoRole,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_and_reads_back() {
        let node = Identity::node("prod", "n1").unwrap();
        assert_eq!(node.to_string(), "spiffe://prod/node/n1");
        let client = Identity::client("prod", "app", Roles::default()).unwrap();
        assert_eq!(client.to_string(), "spiffe://prod/client/app?role=write&role=read");
        assert_eq!(node.to_string().parse(), Ok(node));
        assert_eq!(client.to_string().parse(), Ok(client));
    }

    #[test]
    fn admin_implies_write_and_read_and_only_nodes_are_nodes() {
        let permits = |roles: &[Role]| {
            let roles = roles.iter().copied().collect();
            let id = Identity::client("c", "n", roles).unwrap();
            [Role::Node, Role::Admin, Role::Write, Role::Read].map(|role| id.permits(role))
        };
        assert_eq!(permits(&[Role::Admin]), [false, true, true, true]);
        assert_eq!(permits(&[Role::Write]), [false, false, true, false]);
        assert_eq!(permits(&[Role::Read]), [false, false, false, true]);
        assert_eq!(permits(&[Role::Node, Role::Read]), [false, false, false, true]);
        let node = Identity::node("c", "n").unwrap();
        assert!(node.permits(Role::Node) && node.permits(Role::Admin));
        assert_eq!(
            Identity::client("c", "n", [Role::Node].into_iter().collect()),
            Err(IdentityError::NoRole)
        );
    }

    #[test]
    fn refuses_every_other_spelling() {
        for uri in [
            "",
            "spiffe://",
            "spiffe://c",
            "spiffe://c/",
            "spiffe://c/node",
            "spiffe://c/node/",
            "spiffe:///node/n",
            "SPIFFE://c/node/n",
            "https://c/node/n",
            "spiffe://c/Node/n",
            "spiffe://c/peer/n",
            "spiffe://c/node/n/",
            "spiffe://c/node/n/x",
            "spiffe://c/node/..",
            "spiffe://c/node/n?role=read",
            "spiffe://c/node/n#x",
            "spiffe://c/node/n%31",
            "spiffe://c/node/ n",
            "spiffe://c:1/node/n",
            "spiffe://u@c/node/n",
            "spiffe://c/node/n\n",
            "spiffe://c/node/n\u{e9}",
            "spiffe://c/client/n",
            "spiffe://c/client/n?",
            "spiffe://c/client/n?role=",
            "spiffe://c/client/n?role=root",
            "spiffe://c/client/n?role=node",
            "spiffe://c/client/n?role=read&",
            "spiffe://c/client/n?role=read&role=read",
            "spiffe://c/client/n?role=read&role=write",
            "spiffe://c/client/n?role=write,read",
            "spiffe://c/client/n?x=1&role=read",
        ] {
            let error = uri.parse::<Identity>().expect_err(uri);
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn names_are_bounded() {
        assert!(valid_name(&"a".repeat(MAX_NAME)).is_ok());
        assert_eq!(valid_name(&"a".repeat(MAX_NAME + 1)), Err(NameError::Length(65)));
        for name in ["", ".", "..", "a/b", "a b", "a\0", "a?", "\u{e4}"] {
            assert!(valid_name(name).is_err(), "{name:?}");
        }
        for name in ["...", "-", "A.b_c-9"] {
            assert!(valid_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn garbage_is_not_a_certificate() {
        assert_eq!(peer_identity(&[]), Err(IdentityError::NoCertificate));
        assert_eq!(
            peer_identity(&[CertificateDer::from(vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff])]),
            Err(IdentityError::NotACertificate)
        );
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(uri in "(spiffe://)?[a-z./?&=]{0,12}(node|client)?[a-z./?&=]{0,12}((role=)?(admin|write|read|node)&?){0,4}") {
            if let Ok(identity) = uri.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), uri);
            }
        }

        #[test]
        fn what_is_made_parses(cluster in "[A-Za-z0-9._-]{1,64}", name in "[A-Za-z0-9_-]{1,64}", bits in 1u8..8, node: bool) {
            prop_assume!(cluster != "." && cluster != "..");
            let identity = if node {
                Identity::node(&cluster, &name).unwrap()
            } else {
                Identity::client(&cluster, &name, Roles(bits)).unwrap()
            };
            prop_assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }
}
