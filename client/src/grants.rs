//! What clients have been granted, as any node tells it.
//!
//! Invariant: the answer is of a map at least as new as this client's, so that whoever has just changed
//! grants sees the change.

use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::{code::Code, grant::ClientGrants, message::Grants};
use tokio::time::{Instant, timeout_at};

use crate::{Client, connection::RequestError, error::Error};

/// Bytes of an answer at most: of as many grants as there can be.
const MAX_ANSWER: usize = 4 << 20;

impl Client {
    /// What all clients have been granted if this one is an admin, else what holds for this one. A client
    /// that is in no entry is limited by its certificate alone, unless there is an entry
    /// [`OTHERS`](quorate_protocol::grant::OTHERS).
    ///
    /// # Errors
    /// [`Error::Refused`] with the code of the last node that was asked, [`Code::Unavailable`] if none
    /// is up within `timeout`.
    pub async fn grants(&self, timeout: Duration) -> Result<Vec<ClientGrants>, Error> {
        let core = &self.core;
        let deadline = Instant::now() + timeout;
        let mut changes = core.pool.changes();
        let up = async { while core.pool.up().is_empty() && changes.changed().await.is_ok() {} };
        // Without one, the loop below has nobody to ask.
        let _ = timeout_at(deadline, up).await;
        let mut failed = Error::refused(Code::Unavailable, "no node is up");
        for connection in core.pool.up() {
            let request = Grants { meta_index: core.topology.map().index };
            let answer = connection.exchange(&request, Bytes::new(), deadline, MAX_ANSWER).await;
            failed = match answer {
                Ok((_, list)) => match postcard::from_bytes(&list) {
                    Ok(list) => return Ok(list),
                    Err(why) => Error::refused(Code::Malformed, why.to_string()),
                },
                Err(RequestError::Failure(failure)) => Error::refused(failure.code, failure.detail),
                Err(other) => Error::refused(other.code(), other.to_string()),
            };
        }
        Err(failed)
    }
}
