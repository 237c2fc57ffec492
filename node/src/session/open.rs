//! One open request of a session: what it holds, and whether it was answered.
//!
//! Invariants: its place and its bytes are given back before its final frame is queued, so that a
//! requester that reacts to the answer finds room; they are given back exactly once. Made by
//! [`super::stream`], shared with the request's [`super::ReplySink`].

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use quorate_client::lane::credited;
use quorate_protocol::{
    code::Code,
    frame::{Frame, FrameError, Message},
    message::{Failure, Follow, MetaWatch, Propose},
};
use tokio::sync::mpsc;

use super::{Session, reply::Gone, reply::failure};
use crate::limits::{self, Held};

/// Why a request finds no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// Too many requests, or too many bytes of those that no credit is granted for: the peer may come
    /// back.
    Requests,
    /// More bytes than it was granted: the peer breaks the rules.
    Credit,
}

/// A frame on its way to a stream's writer, and the room that it takes.
pub(super) struct Answer {
    pub(super) frame: Frame,
    pub(super) _held: Option<Held>,
}

impl From<Frame> for Answer {
    fn from(frame: Frame) -> Self {
        Self { frame, _held: None }
    }
}

pub(super) struct Open {
    session: Arc<Session>,
    id: u64,
    /// Bytes that count against the credit, and others.
    bytes: u64,
    others: u64,
    answers: mpsc::Sender<Answer>,
    /// Whether its answers count against what a peer may have waiting: those without an end are shared with
    /// others, and bounded where they come from.
    counted: bool,
    /// Room of the request.
    held: Mutex<(Option<Held>, Option<Held>)>,
    closed: AtomicBool,
    answered: AtomicBool,
}

impl Open {
    /// Takes room for a request.
    pub(super) fn admit(
        session: &Arc<Session>,
        request: &Frame,
        held: Option<Held>,
        answers: mpsc::Sender<Answer>,
    ) -> Result<Arc<Self>, NoRoom> {
        let config = &session.shared.config;
        let length = request.payload.len() as u64;
        // Raft may not be held up by anything.
        let (bytes, others) = match request.op {
            Propose::OP => (0, length),
            op if credited(op) => (length, 0),
            _ => (0, 0),
        };
        let counted = !session.peer.identity.is_node();
        let place = if counted { session.share.open.try_take(1) } else { None };
        let crowded = counted && place.is_none();
        let count = session.open.fetch_add(1, Ordering::Relaxed) + 1;
        let total = session.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all_others = session.others.fetch_add(others, Ordering::Relaxed) + others;
        let open = Self {
            session: Arc::clone(session),
            id: request.id,
            bytes,
            others,
            counted: counted && !matches!(request.op, MetaWatch::OP | Follow::OP),
            held: Mutex::new((held, place)),
            answers,
            closed: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        };
        let most = u64::from(config.granted_credit());
        let refused = if total > most {
            NoRoom::Credit
        } else if crowded || all_others > most || count > config.max_requests.max(1) as usize {
            NoRoom::Requests
        } else {
            return Ok(Arc::new(open));
        };
        // Nobody knows of it yet, so nobody waits for its answer.
        open.answered.store(true, Ordering::Relaxed);
        Err(refused)
    }

    pub(super) fn frame<M: Message>(
        &self,
        message: &M,
        payload: Bytes,
    ) -> Result<Frame, FrameError> {
        let frame = Frame::new(self.id, message, payload)?;
        // Encoded here so that the writer cannot fail on one request's answer.
        frame.head()?;
        Ok(frame)
    }

    pub(super) async fn send(&self, frame: Frame) -> Result<(), Gone> {
        let held = self.room(&frame).await;
        self.answers.send(Answer { frame, _held: held }).await.map_err(|_| Gone)
    }

    /// Waits until there is room for an answer, which there is when those before it were taken or their peers
    /// are closed for not taking them.
    async fn room(&self, frame: &Frame) -> Option<Held> {
        let bytes = frame.payload.len();
        if !self.counted || bytes == 0 {
            return None;
        }
        let room = &self.session.share.answers;
        if let Some(held) = room.try_take(bytes) {
            return Some(held);
        }
        limits::busy("answer_bytes");
        room.take(bytes).await
    }

    /// Gives back what the request holds and sends its last frame.
    pub(super) async fn finish(&self, frame: Frame) {
        let held = self.room(&frame).await;
        // Until its answer has a place, so has the request: else any number of answers could wait for a peer that
        // takes none.
        let place = self.answers.reserve().await;
        self.close();
        // An error means that the stream is gone and nobody waits.
        if let Ok(place) = place {
            place.send(Answer { frame, _held: held });
        }
        self.answered.store(true, Ordering::Relaxed);
    }

    pub(super) async fn fail(&self, failure: &Failure) {
        if let Ok(frame) = self.frame(failure, Bytes::new()) {
            self.finish(frame).await;
        }
    }

    /// Gives back what the request holds without an answer: its stream is gone.
    pub(super) fn abandon(&self) {
        self.close();
        self.answered.store(true, Ordering::Relaxed);
    }

    pub(super) fn stopping(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.session.shared.stop.clone().cancelled_owned()
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            self.session.open.fetch_sub(1, Ordering::Relaxed);
            self.session.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            self.session.others.fetch_sub(self.others, Ordering::Relaxed);
            drop(std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner)));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
        if self.is_answered() {
            return;
        }
        // Only a panic in the service leads here.
        let last = failure(Code::Internal, "the node failed while it worked on this");
        let sent = self
            .frame(&last, Bytes::new())
            .is_ok_and(|frame| self.answers.try_send(frame.into()).is_ok());
        if !sent && self.session.quic.close_reason().is_none() && !self.answers.is_closed() {
            // An answer that is never sent would hold the requester's credit for ever.
            let code =
                quorate_client::connection::close_code(quorate_protocol::code::Close::Overloaded);
            self.session.quic.close(code, b"an answer was lost");
        }
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("id", &self.id).finish_non_exhaustive()
    }
}
