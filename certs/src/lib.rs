//! Certificates and identities of a Quorate cluster.
//!
//! A cluster is one certificate authority ([`authority`]); who somebody is, and what they may do, is
//! one URI in their certificate ([`identity`]); [`load`] reads and checks what a process is started
//! with, [`folder`] what it changes to while it runs, [`revocation`] who is thrown out,
//! [`credentials`] turns it into TLS configurations, [`mod@show`] describes certificates to
//! people. `SPEC.md`, section 2, is the normative text. Invariants: TLS 1.3 only, both sides
//! authenticated, no resumption, no early data; a private key is never readable by others and never
//! replaced unless that was asked for.
//!
//! The time is a parameter everywhere. Randomness is not: keys come from the operating system's
//! generator through aws-lc, so two runs with one seed differ in key bytes (but, with Ed25519, in no
//! length).

pub mod authority;
pub mod credentials;
pub mod folder;
#[cfg(feature = "forge")]
pub mod forge;
pub mod identity;
pub mod load;
mod publish;
pub mod request;
pub mod revocation;
pub mod show;
pub mod validity;
#[cfg(test)]
mod vectors;
mod verifier;

pub use authority::{Authority, Config, IssueError};
pub use credentials::{Credentials, ExpiresSoon, PeerError, SERVER_NAME};
pub use folder::Folder;
pub use identity::{Identity, IdentityError, Kind, NameError, Role, Roles, peer_identity};
pub use load::LoadError;
pub use publish::Existing;
pub use request::{Bearer, request};
pub use revocation::{Revocations, Serial};
pub use rustls_pki_types::UnixTime;
pub use show::{CertificateInfo, describe, show};
