//! One stream of a session: requests in, answers out.
//!
//! Invariants: the reader never waits for a service; an unknown or forbidden op costs the peer an
//! answer, a broken frame its connection; a stream whose peer stops reading has its requests
//! cancelled; one writer per stream, and it finishes the stream once the peer has and every answer
//! is out. Spawned by [`super::run`] for every stream alike.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use quorate_client::lane::{
    Class, credited,
    framed::{FrameReader, FrameWriter, StreamError},
};
use quorate_protocol::{
    code::{Close, Code},
    frame::{Frame, FrameError, Message},
    message::{Cancel, Ping, Pong, Propose, RaftAppend, RaftSnapshot, RaftVote},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    ReplySink, Session, access,
    open::{NoRoom, Open},
    reply::failure,
};

/// Answers that may wait for a stream's writer.
const ANSWERS: usize = 64;
const DENIED: &str = "quorate_session_denied_total";
/// When a peer that has too many open requests may come back, in milliseconds.
const BUSY_MS: u32 = 20;

/// Serves a stream.
pub(super) fn spawn(session: &Arc<Session>, writer: FrameWriter, reader: FrameReader) {
    let (answers, queued) = mpsc::channel(ANSWERS);
    let gone = session.end.child_token();
    let (class, chosen) = tokio::sync::oneshot::channel();
    session.streams.spawn(write(writer, queued, gone.clone(), chosen));
    let mut stream = Stream {
        session: Arc::clone(session),
        answers,
        gone,
        running: BTreeMap::new(),
        partial: None,
        class: Some(class),
    };
    session.streams.spawn(async move {
        if let Err(error) = stream.read(reader).await {
            stream.gone.cancel();
            if let Some((code, reason)) = blame(&error) {
                stream.session.violated(code, &reason);
            }
        }
        // After a clean end, dropping `answers` lets the writer finish after the last answer.
    });
}

/// Why a stream is given up.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("request id {0} is open already")]
    Reused(u64),
    #[error("op {0:#06x} must fit in one frame")]
    Split(u16),
    #[error("request of several frames is over {0} bytes (max_message)")]
    Large(u32),
    #[error("more unanswered bytes than the credit of {0}")]
    Credit(u32),
}

/// What the peer is told, if it is to blame.
fn blame(error: &Broken) -> Option<(Close, String)> {
    match error {
        Broken::Stream(stream) if !stream.is_violation() => None,
        Broken::Credit(_) => Some((Close::Overloaded, error.to_string())),
        _ => Some((Close::Protocol, error.to_string())),
    }
}

struct Stream {
    session: Arc<Session>,
    answers: mpsc::Sender<Frame>,
    /// Set when nobody wants the answers any more.
    gone: CancellationToken,
    /// Open requests of this stream, to cancel them by id.
    running: BTreeMap<u64, (CancellationToken, std::sync::Weak<Open>)>,
    /// A request of several frames that is not complete.
    partial: Option<(Frame, BytesMut)>,
    /// Tells the writer its priority, once known.
    class: Option<tokio::sync::oneshot::Sender<Class>>,
}

impl Stream {
    async fn read(&mut self, mut reader: FrameReader) -> Result<(), Broken> {
        loop {
            let end = self.session.end.clone();
            let frame = tokio::select! {
                biased;
                () = end.cancelled() => return Ok(()),
                frame = reader.next() => frame?,
            };
            let Some(frame) = frame else {
                return match self.partial {
                    Some(_) => Err(StreamError::from(FrameError::Truncated).into()),
                    None => Ok(()),
                };
            };
            if let Some(class) = self.class.take() {
                let _ = class.send(Class::of(frame.op));
            }
            if frame.op == Cancel::OP {
                let cancel: Cancel = frame.message().map_err(StreamError::from)?;
                if let Some((token, _)) = self.running.remove(&cancel.id) {
                    token.cancel();
                }
            } else if let Some(request) = self.join(frame)? {
                self.admit(request).await?;
            }
        }
    }

    /// Collects the frames of a request that may have several.
    fn join(&mut self, frame: Frame) -> Result<Option<Frame>, Broken> {
        let Some((first, whole)) = &mut self.partial else {
            if !frame.more() {
                return Ok(Some(frame));
            }
            if frame.op != RaftSnapshot::OP || !self.session.peer.identity.is_node() {
                return Err(Broken::Split(frame.op));
            }
            let whole = BytesMut::from(&frame.payload[..]);
            self.partial = Some((frame, whole));
            return Ok(None);
        };
        if frame.id != first.id || frame.op != first.op {
            return Err(Broken::Split(first.op));
        }
        let limit = self.session.shared.config.max_message;
        if whole.len() + frame.payload.len() > limit as usize {
            return Err(Broken::Large(limit));
        }
        whole.extend_from_slice(&frame.payload);
        if frame.more() {
            return Ok(None);
        }
        Ok(self.partial.take().map(|(first, whole)| Frame {
            flags: frame.flags,
            payload: whole.freeze(),
            ..first
        }))
    }

    /// Starts work on a request, or answers why not.
    async fn admit(&mut self, mut request: Frame) -> Result<(), Broken> {
        if !keeps_payload(request.op) {
            request.payload = Bytes::new();
        }
        // Answered requests are forgotten here and not when they end: no lock, and bounded by the
        // requests that may be open.
        if self.running.len() > 64 {
            self.running.retain(|_, (_, open)| open.strong_count() > 0);
        }
        let reused = self.running.get(&request.id);
        if reused.is_some_and(|(_, open)| open.upgrade().is_some_and(|open| !open.is_answered())) {
            return Err(Broken::Reused(request.id));
        }
        let open = match Open::admit(&self.session, &request, self.answers.clone()) {
            Ok(open) => open,
            Err(NoRoom::Credit) => {
                let granted = self.session.shared.config.granted_credit();
                return Err(Broken::Credit(granted));
            }
            Err(NoRoom::Requests) => {
                let mut busy = failure(Code::Busy, "too much is open on this connection");
                busy.retry_after_ms = BUSY_MS;
                if let Ok(frame) = Frame::new(request.id, &busy, Bytes::new()) {
                    // The peer reads its answers, or it only holds up itself.
                    let _ = self.answers.send(frame).await;
                }
                return Ok(());
            }
        };
        if request.op == Ping::OP {
            if let Ok(frame) = open.frame(&Pong {}, Bytes::new()) {
                open.finish(frame).await;
            }
            return Ok(());
        }
        let refused = if self.session.shared.stop.is_cancelled() {
            Some(failure(Code::ShuttingDown, ""))
        } else {
            access::allowed(&request, &self.session.peer.identity).err().map(|denied| {
                if denied.code() == Code::Unauthorised {
                    metrics::counter!(DENIED, "why" => "role").increment(1);
                }
                failure(denied.code(), denied.to_string())
            })
        };
        if let Some(mut refused) = refused {
            refused.meta_index = self.session.shared.service.greeting().meta_index;
            open.fail(&refused).await;
            return Ok(());
        }
        self.start(request, open);
        Ok(())
    }

    fn start(&mut self, request: Frame, open: Arc<Open>) {
        let cancel = CancellationToken::new();
        let gone = self.gone.clone();
        self.running.insert(request.id, (cancel.clone(), Arc::downgrade(&open)));
        let session = &self.session;
        let sink = ReplySink::new(Arc::clone(&open));
        let work = session.shared.service.call(Arc::clone(&session.peer), request, sink);
        session.requests.spawn(async move {
            let last = tokio::select! {
                biased;
                // Not answered: the work may have had its effect, and the requester must see its
                // connection lost rather than a refusal.
                () = gone.cancelled() => return open.abandon(),
                () = cancel.cancelled() => failure(Code::Cancelled, ""),
                () = work => failure(Code::Internal, "no answer was given"),
            };
            if !open.is_answered() {
                open.fail(&last).await;
            }
        });
    }
}

/// Whether a request's payload means anything; what does not is let go of at once, since only
/// credit and trust bound it.
const fn keeps_payload(op: u16) -> bool {
    credited(op) || matches!(op, Propose::OP | RaftAppend::OP | RaftVote::OP | RaftSnapshot::OP)
}

/// Writes answers until there can be no more, or nobody wants them.
async fn write(
    mut writer: FrameWriter,
    mut queued: mpsc::Receiver<Frame>,
    gone: CancellationToken,
    class: tokio::sync::oneshot::Receiver<Class>,
) {
    let unwanted = writer.unwanted();
    let work = async {
        let mut class = Some(class);
        let mut frames = Vec::new();
        while queued.recv_many(&mut frames, ANSWERS).await > 0 {
            if let Some(Ok(class)) = class.take().map(|mut class| class.try_recv()) {
                writer.set_priority(class.priority());
            }
            if writer.write(&frames).await.is_err() {
                return;
            }
            frames.clear();
        }
        writer.finish();
        writer.delivered().await;
    };
    tokio::select! {
        biased;
        () = work => {}
        () = unwanted => {}
    }
    // Whatever still runs for this stream runs for nobody.
    gone.cancel();
}
