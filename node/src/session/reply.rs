//! Where a service puts its answer.
//!
//! Invariants: exactly one final frame per request, whatever the service does: if it forgets,
//! panics or is cancelled, a failure is sent in its place; the request's credit is returned with the
//! final frame, not before. Answers wait in a bounded channel for the stream's one writer.

use bytes::Bytes;
use quorate_protocol::{
    code::Code,
    frame::{FrameError, MAX_PAYLOAD, Message, flags},
    id::MetaIndex,
    message::Failure,
};

use super::open::Open;

/// The requester is gone or has given the request up; nothing more need be done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the requester is gone")]
pub struct Gone;

/// The way back to the requester.
#[derive(Debug)]
pub struct ReplySink {
    open: std::sync::Arc<Open>,
}

/// A failure with this code and text, and nothing else.
#[must_use]
pub fn failure(code: Code, detail: impl Into<String>) -> Failure {
    Failure { code, retry_after_ms: 0, meta_index: MetaIndex(0), detail: detail.into() }
}

impl ReplySink {
    pub(super) const fn new(open: std::sync::Arc<Open>) -> Self {
        Self { open }
    }

    /// Sends one frame of an answer that goes on; waits while the requester does not read.
    ///
    /// # Errors
    /// [`Gone`] if nobody wants the rest.
    pub async fn more<M: Message>(&mut self, message: &M, payload: Bytes) -> Result<(), Gone> {
        match self.open.frame(message, payload) {
            Ok(frame) => self.open.send(frame.with_flags(flags::MORE)).await,
            Err(error) => {
                self.broken(&error).await;
                Err(Gone)
            }
        }
    }

    /// Sends the answer, or its last frame. A payload that is larger than a frame is cut, which
    /// only requests on streams of their own may be answered with.
    pub async fn send<M: Message>(self, message: &M, mut payload: Bytes) {
        while payload.len() > MAX_PAYLOAD {
            let part = payload.split_to(MAX_PAYLOAD);
            match self.open.frame(message, part) {
                Ok(frame) => {
                    if self.open.send(frame.with_flags(flags::MORE)).await.is_err() {
                        return;
                    }
                }
                Err(error) => return self.broken(&error).await,
            }
        }
        match self.open.frame(message, payload) {
            Ok(frame) => self.open.finish(frame).await,
            Err(error) => self.broken(&error).await,
        }
    }

    /// Waits until the node takes no more requests: an answer without an end should end then.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.open.stopping()
    }

    /// Sends a failure.
    pub async fn fail(self, failure: Failure) {
        self.open.fail(&failure).await;
    }

    async fn broken(&self, error: &FrameError) {
        let failure = failure(Code::Internal, format!("answer cannot be encoded: {error}"));
        self.open.fail(&failure).await;
    }
}
