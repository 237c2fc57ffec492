//! Why a command ended badly, and the exit code that says so to scripts.
//!
//! Invariant: an error is one line that says what to do next; a reader that closed our standard
//! output has what it wanted, so that is no error. Made by every subcommand, told by
//! [`super::main`].

use std::{fmt, io};

use quorate_client::Error;
use quorate_protocol::code::Code;

/// The end of a command that did not do all it was asked to.
#[derive(Debug)]
pub(crate) enum Fail {
    /// The command line makes no sense: exit code 2.
    Usage(String),
    /// Something was rejected or failed: exit code 1.
    Failed(String),
    /// As [`Fail::Failed`], but everything has been said already.
    Told,
    /// Nobody reads standard output any more: exit code 0.
    Closed,
}

impl Fail {
    /// A failure with this one line.
    pub(crate) fn failed(text: impl fmt::Display) -> Self {
        Self::Failed(text.to_string())
    }

    /// A mistake on the command line.
    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Self::Usage(text.to_string())
    }

    /// Standard output could not be written.
    pub(crate) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::Failed(format!("cannot write to standard output: {error}"))
        }
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        let advice = match &error {
            // The connection knows what it met, and says what to do.
            Error::Unreachable { .. } => None,
            Error::ReadLevel { code: Code::Busy, .. } => Some("try again in a moment"),
            Error::ReadLevel { .. } => Some("see 'quorate status'"),
            other => advice(other.code()),
        };
        Self::Failed(with_advice(&error.to_string(), advice))
    }
}

/// `text`, on one line, with the next step behind it if there is one.
pub(crate) fn with_advice(text: &str, advice: Option<&str>) -> String {
    let text = text.replace(['\n', '\r'], " ");
    match advice {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

/// What a person can do about a code.
pub(crate) fn advice(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::DatabaseNotFound => {
            "'quorate db ls' lists databases, 'quorate db create NAME' makes one"
        }
        Code::PolicyNotFound => "'quorate rp ls DB' lists the database's policies",
        Code::Unavailable => {
            "see 'quorate status'; a lower --consistency needs fewer owners to be up"
        }
        Code::NoLeader => {
            "more than half of the nodes must be up to change metadata; see 'quorate status'"
        }
        Code::DeadlineExceeded | Code::NotReady | Code::ShuttingDown => {
            "see 'quorate status' and try again"
        }
        Code::TypeConflict => "'quorate schema DB' shows the types",
        Code::SeriesLimit => {
            "use fewer tag values, or raise max_series_per_database in [shard] on the nodes"
        }
        Code::ClockSkew => "set this machine's clock",
        Code::Poisoned | Code::Io | Code::DiskFull => "look at that node's log and disk",
        _ => return None,
    })
}
