//! Why there is no connection, why one was lost, and what became of a request.
//!
//! Invariant: whether a request can have had an effect is decided by the variant alone:
//! [`RequestError::NotSent`] and definite failures have none. Texts are one line and say what to
//! do; nothing reads them. Used by everything that talks to a node.

use std::{io, time::Duration};

use quinn::ConnectionError;
use quorate_protocol::{
    code::{Class, Close, Code},
    frame::FrameError,
    id::NodeId,
    message::Failure,
};

/// Why no connection came up. Nothing was sent but the attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is no `HOST:PORT` or its name is not known.
    #[error("cannot resolve '{addr}': {source}; give HOST:PORT of a node")]
    Resolve {
        /// What was to be dialled.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing answered.
    #[error("no answer from {addr} within {after:?}; is the node running and UDP let through?")]
    Unreachable {
        /// What was dialled.
        addr: String,
        /// How long was waited.
        after: Duration,
    },
    /// The node's certificate is not valid for us.
    #[error(
        "we do not accept the certificate of {addr}: {}; check that ca.crt here is the one of the \
         node's cluster", alert_text(*.alert)
    )]
    Untrusted {
        /// What was dialled.
        addr: String,
        /// TLS alert: 48 another CA, 45 expired, 42 and 46 otherwise bad.
        alert: u8,
    },
    /// The node does not accept our certificate.
    #[error(
        "{addr} does not accept our certificate: {}; issue one with `quorate certs` from the CA of \
         the node's cluster", alert_text(*.alert)
    )]
    CertificateRefused {
        /// What was dialled.
        addr: String,
        /// TLS alert: 48 another CA, 45 expired, 116 none, 42, 46 and 51 otherwise bad.
        alert: u8,
    },
    /// No common major version.
    #[error("{addr} does not speak this protocol's major version; upgrade the older side")]
    Protocol {
        /// What was dialled.
        addr: String,
    },
    /// No common minor version.
    #[error("{addr} refused this protocol's minor version; upgrade the older side")]
    Version {
        /// What was dialled.
        addr: String,
    },
    /// The peer belongs to another cluster.
    #[error("{addr} belongs to another cluster: {detail}")]
    WrongCluster {
        /// What was dialled.
        addr: String,
        /// Which.
        detail: String,
    },
    /// The address leads to another node.
    #[error("{addr} is not node {expected}: {detail}; is its address in the metadata out of date?")]
    WrongNode {
        /// What was dialled.
        addr: String,
        /// Who was expected.
        expected: NodeId,
        /// Who it is.
        detail: String,
    },
    /// The certificate is valid but does not allow this.
    #[error("{addr} cannot be used: {detail}")]
    Unauthorised {
        /// What was dialled.
        addr: String,
        /// Why.
        detail: String,
    },
    /// The node takes no connection now.
    #[error("{addr} takes no connection now ({code:?}): {reason}; retry later")]
    Refused {
        /// What was dialled.
        addr: String,
        /// Its close code.
        code: Close,
        /// Its words.
        reason: String,
    },
    /// The peer's first bytes were not what they must be.
    #[error("{addr} broke the protocol: {detail}")]
    Garbled {
        /// What was dialled.
        addr: String,
        /// How.
        detail: String,
    },
    /// The connection broke before it was up.
    #[error("connection to {addr} broke during the handshake: {detail}")]
    Broken {
        /// What was dialled.
        addr: String,
        /// How.
        detail: String,
    },
    /// This side cannot dial: it is shutting down, or its own certificate cannot be used.
    #[error("cannot dial {addr}: {detail}")]
    Local {
        /// What was to be dialled.
        addr: String,
        /// Why.
        detail: String,
    },
}

impl ConnectError {
    /// Whether dialling again can help without anybody changing a configuration.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. }
                | Self::Unreachable { .. }
                | Self::Refused { .. }
                | Self::Broken { .. }
        )
    }

    /// What a connection error means while a dial is in progress.
    pub(super) fn from_quic(addr: &str, expected: NodeId, error: &ConnectionError) -> Self {
        let addr = addr.to_owned();
        match error {
            ConnectionError::TransportError(error) => match alert(error.code.into()) {
                Some(NO_APPLICATION_PROTOCOL) => Self::Protocol { addr },
                Some(alert) => Self::Untrusted { addr, alert },
                None => Self::Broken { addr, detail: error.to_string() },
            },
            ConnectionError::ConnectionClosed(close) => match alert(close.error_code.into()) {
                Some(NO_APPLICATION_PROTOCOL) => Self::Protocol { addr },
                Some(alert) => Self::CertificateRefused { addr, alert },
                None if u64::from(close.error_code) == CONNECTION_REFUSED => Self::Refused {
                    addr,
                    code: Close::Overloaded,
                    reason: "it is at its limit of connections or stopping".into(),
                },
                None => Self::Broken { addr, detail: close.to_string() },
            },
            ConnectionError::ApplicationClosed(close) => {
                let reason = printable(&close.reason);
                match Close::from_number(close.error_code.into_inner()) {
                    Close::Version => Self::Version { addr },
                    Close::WrongCluster => Self::WrongCluster { addr, detail: reason },
                    Close::WrongNode => Self::WrongNode { addr, expected, detail: reason },
                    Close::Unauthorised => Self::Unauthorised { addr, detail: reason },
                    Close::Protocol => Self::Garbled { addr, detail: reason },
                    code => Self::Refused { addr, code, reason },
                }
            }
            ConnectionError::VersionMismatch => Self::Protocol { addr },
            other => Self::Broken { addr, detail: other.to_string() },
        }
    }
}

const NO_APPLICATION_PROTOCOL: u8 = 120;
const CONNECTION_REFUSED: u64 = 2;

/// The TLS alert in a QUIC error code, if it is one (RFC 9001, section 4.8).
#[must_use]
pub fn alert(code: u64) -> Option<u8> {
    (0x100..0x200).contains(&code).then(|| u8::try_from(code & 0xff).unwrap_or(0))
}

/// What a TLS alert says about a certificate.
#[must_use]
pub const fn alert_text(alert: u8) -> &'static str {
    match alert {
        // A CA of the same name but with another key fails the signature instead of the lookup.
        48 | 51 => "it is of another CA, or of none",
        45 => "it has expired or is not valid yet",
        44 => "it was revoked",
        116 => "none was presented",
        // The extended key usage.
        43 => "it is not made for this side of a connection",
        42 | 46 => "it is not a valid certificate of a node or client",
        _ => "TLS failed",
    }
}

/// A peer's words, bounded and on one line.
fn printable(reason: &[u8]) -> String {
    String::from_utf8_lossy(reason)
        .chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Why a connection is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The peer owed answers and sent nothing for `mute_after`.
    #[error("the peer went silent")]
    Mute,
    /// Nothing arrived for `idle_timeout`.
    #[error("the connection timed out")]
    TimedOut,
    /// The peer closed it.
    #[error("closed by the peer ({code:?}): {reason}")]
    Closed {
        /// The peer's code.
        code: Close,
        /// The peer's words.
        reason: String,
    },
    /// The peer restarted and does not know the connection any more.
    #[error("the peer has forgotten the connection; it was restarted")]
    Reset,
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// QUIC itself failed.
    #[error("the transport failed: {0}")]
    Transport(String),
    /// This side closed it.
    #[error("closed by this side")]
    Local,
}

impl From<&ConnectionError> for Lost {
    fn from(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Reset,
            ConnectionError::LocallyClosed => Self::Local,
            ConnectionError::ApplicationClosed(close) => Self::Closed {
                code: Close::from_number(close.error_code.into_inner()),
                reason: printable(&close.reason),
            },
            other => Self::Transport(other.to_string()),
        }
    }
}

/// Why a request never left this side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// Its deadline passed while it waited for room.
    #[error("no room on the connection before the deadline")]
    Deadline,
    /// There is no room now.
    #[error("no room on the connection")]
    Full,
    /// No peer takes it in one piece.
    #[error("{bytes} bytes of payload are over the peer's limit of {limit}")]
    TooLarge {
        /// Its payload in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// It cannot be encoded.
    #[error("cannot be encoded: {0}")]
    Invalid(String),
    /// The connection is gone.
    #[error("not connected: {0}")]
    Disconnected(Lost),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It never left; it has had no effect.
    #[error("not sent: {0}")]
    NotSent(NotSent),
    /// It was sent, and then the connection was lost: it may have had its effect.
    #[error("connection lost: {0}")]
    Lost(Lost),
    /// It was sent, and no answer came in time: it may still have its effect.
    #[error("no answer before the deadline")]
    Deadline,
    /// The peer answered that it failed.
    #[error("{}{}{}", .0.code, if .0.detail.is_empty() { "" } else { ": " }, .0.detail)]
    Failure(Failure),
    /// The peer's answer cannot be read.
    #[error("unreadable answer: {0}")]
    Protocol(#[from] FrameError),
}

impl RequestError {
    /// The registered code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::NotSent(NotSent::TooLarge { .. }) => Code::TooLarge,
            Self::NotSent(NotSent::Invalid(_)) => Code::Invalid,
            Self::NotSent(NotSent::Full) => Code::Busy,
            Self::NotSent(NotSent::Disconnected(_)) | Self::Lost(_) => Code::Unavailable,
            Self::NotSent(NotSent::Deadline) | Self::Deadline => Code::DeadlineExceeded,
            Self::Failure(failure) => failure.code,
            Self::Protocol(_) => Code::Malformed,
        }
    }

    /// Whether it certainly never left this side.
    #[must_use]
    pub const fn not_sent(&self) -> bool {
        matches!(self, Self::NotSent(_))
    }

    /// Whether it may have had its effect, or may still have it: everything but what never left and
    /// what the peer refused before it did anything.
    #[must_use]
    pub const fn may_have_effect(&self) -> bool {
        match self {
            Self::NotSent(_) => false,
            Self::Lost(_) | Self::Deadline | Self::Protocol(_) => true,
            // Said when work was broken off, at whatever point.
            Self::Failure(failure) => matches!(
                failure.code,
                Code::Cancelled | Code::DeadlineExceeded | Code::Internal | Code::Unknown(_)
            ),
        }
    }

    /// Whether the same request may succeed later or elsewhere.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::NotSent(NotSent::TooLarge { .. } | NotSent::Invalid(_)) | Self::Protocol(_) => {
                false
            }
            Self::NotSent(_) | Self::Lost(_) | Self::Deadline => true,
            Self::Failure(failure) => failure.code.class() != Class::Never,
        }
    }
}
