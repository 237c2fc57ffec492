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
    framed::{FrameReader, FrameWriter, Pace, StreamError},
};
use quorate_protocol::{
    code::{Close, Code},
    frame::{Frame, FrameError, Message},
    message::{Cancel, Ping, Pong, Propose, RaftAppend, RaftSnapshot, RaftVote},
};
use tokio::{sync::mpsc, time::timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    ReplySink, Session, access, count_denied,
    open::{Answer, NoRoom, Open},
    reply::failure,
};
use crate::limits::{self, Held, Room};

/// Answers that may wait for a stream's writer.
const ANSWERS: usize = 64;
/// Requests of a stream that are remembered before it is looked which of them have ended.
const SWEEP: usize = 64;
/// When a peer that has too many open requests may come back, in milliseconds.
const BUSY_MS: u32 = 20;

/// Serves a stream.
pub(super) fn spawn(session: &Arc<Session>, writer: FrameWriter, reader: FrameReader) {
    let (answers, queued) = mpsc::channel(ANSWERS);
    let gone = session.end.child_token();
    let (class, chosen) = tokio::sync::oneshot::channel();
    session.streams.spawn(write(Arc::clone(session), writer, queued, gone.clone(), chosen));
    let mut stream = Stream {
        session: Arc::clone(session),
        answers,
        gone,
        running: BTreeMap::new(),
        sweep_at: SWEEP,
        partial: None,
        class: Some(class),
    };
    session.streams.spawn(async move {
        if let Err(error) = stream.read(reader).await {
            stream.gone.cancel();
            if let Some((code, why)) = blame(&error) {
                stream.session.violated(code, why, &error.to_string());
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
    #[error("a frame was begun and not ended: {0} (stall_ms)")]
    Stalled(StreamError),
    #[error("no room for more requests in {0:?} (request_bytes, peer_request_bytes)")]
    NoRoom(std::time::Duration),
}

/// What the peer is told, if it is to blame.
const fn blame(error: &Broken) -> Option<(Close, &'static str)> {
    match error {
        Broken::Stream(stream) if !stream.is_violation() => None,
        Broken::Credit(_) => Some((Close::Overloaded, "credit")),
        Broken::Stalled(_) => Some((Close::Overloaded, "stalled")),
        Broken::NoRoom(_) => Some((Close::Overloaded, "request_bytes")),
        _ => Some((Close::Protocol, "protocol")),
    }
}

struct Stream {
    session: Arc<Session>,
    answers: mpsc::Sender<Answer>,
    /// Set when nobody wants the answers any more.
    gone: CancellationToken,
    /// Open requests of this stream, to cancel them by id.
    running: BTreeMap<u64, (CancellationToken, std::sync::Weak<Open>)>,
    /// How many of them make it worth to look for those that have ended.
    sweep_at: usize,
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
                frame = self.next(&mut reader) => frame?,
            };
            let Some((frame, held)) = frame else {
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
                self.admit(request, held).await?;
            }
        }
    }

    /// The next frame, with the room that was taken for it when it began to arrive. May be dropped: then
    /// the session is over.
    async fn next(
        &self,
        reader: &mut FrameReader,
    ) -> Result<Option<(Frame, Option<Held>)>, Broken> {
        let mut held = None;
        let pace = pace(&self.session);
        let mut progress = pace.begin();
        loop {
            if let Some(total) =
                reader.begun().filter(|_| held.is_none() && self.session.is_counted())
            {
                held = Some(self.room(total, pace.within).await?);
                progress = pace.begin();
            }
            if let Some(frame) = reader.decode().map_err(StreamError::from)? {
                // Many small frames come at once, and others want to be read too.
                tokio::task::coop::consume_budget().await;
                return Ok(Some((frame, held)));
            }
            if reader.ended() {
                return Ok(None);
            }
            if !reader.is_partial() {
                // Nothing has begun, and may not for as long as the connection lives.
                reader.fill().await?;
                progress = pace.begin();
                continue;
            }
            match timeout_at(progress.until(), reader.fill()).await {
                Ok(came) => progress.moved(came?),
                Err(_) => return Err(Broken::Stalled(progress.stalled())),
            }
        }
    }

    /// Waits for room for a frame, which others give back as they are answered.
    async fn room(&self, bytes: usize, limit: std::time::Duration) -> Result<Held, Broken> {
        let room = &self.session.share.requests;
        if let Some(held) = room.try_take(bytes) {
            return Ok(held);
        }
        limits::busy("request_bytes");
        let taken = tokio::time::timeout(limit, room.take(bytes)).await;
        taken.ok().flatten().ok_or(Broken::NoRoom(limit))
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
    async fn admit(&mut self, mut request: Frame, held: Option<Held>) -> Result<(), Broken> {
        self.session.asked();
        if self.session.is_counted() && self.session.share.asked.turn().await {
            limits::busy("peer_requests_per_s");
        }
        if !keeps_payload(request.op) {
            request.payload = Bytes::new();
        }
        let bytes = request.payload.len();
        let held = if bytes == 0 || !self.session.is_counted() {
            None
        } else if held.is_none() {
            // It came all at once, so nothing was taken for it yet.
            let taken = self.session.share.requests.try_take(bytes);
            if taken.is_none() {
                limits::busy("request_bytes");
                self.busy(request.id, "no room for more requests").await;
                return Ok(());
            }
            taken
        } else {
            held
        };
        // Answered requests are forgotten here and not when they end: no lock, and bounded by the
        // requests that may be open.
        if self.running.len() > self.sweep_at {
            self.running.retain(|_, (_, open)| open.strong_count() > 0);
            // Half of them will have ended by then, or looking at all of them costs little for each.
            self.sweep_at = SWEEP.max(2 * self.running.len());
        }
        let reused = self.running.get(&request.id);
        if reused.is_some_and(|(_, open)| open.upgrade().is_some_and(|open| !open.is_answered())) {
            return Err(Broken::Reused(request.id));
        }
        let open = match Open::admit(&self.session, &request, held, self.answers.clone()) {
            Ok(open) => open,
            Err(NoRoom::Credit) => {
                let granted = self.session.shared.config.granted_credit();
                return Err(Broken::Credit(granted));
            }
            Err(NoRoom::Requests) => {
                limits::busy("requests");
                self.busy(request.id, "too much is open on this connection").await;
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
                    count_denied("role");
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

    async fn busy(&self, id: u64, detail: &str) {
        let mut busy = failure(Code::Busy, detail);
        busy.retry_after_ms = BUSY_MS;
        if let Ok(frame) = Frame::new(id, &busy, Bytes::new()) {
            // The peer reads its answers, or it only holds up itself.
            let _ = self.answers.send(frame.into()).await;
        }
    }

    fn start(&mut self, request: Frame, open: Arc<Open>) {
        let cancel = CancellationToken::new();
        let gone = self.gone.clone();
        self.running.insert(request.id, (cancel.clone(), Arc::downgrade(&open)));
        let session = &self.session;
        let sink = ReplySink::new(Arc::clone(&open));
        let turn = (limits::is_query(request.op) && self.session.is_counted())
            .then(|| session.share.queries.clone());
        let work = session.shared.service.call(Arc::clone(&session.peer), request, sink);
        let work = async move {
            let _turn = match turn {
                Some(queries) => turn_of(&queries).await,
                None => None,
            };
            work.await;
        };
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

/// Waits until a query may be worked on.
async fn turn_of(queries: &Room) -> Option<Held> {
    if let Some(turn) = queries.try_take(1) {
        return Some(turn);
    }
    limits::busy("queries");
    queries.take(1).await
}

fn pace(session: &Session) -> Pace {
    let limits = &session.shared.limits.config;
    Pace { bytes: limits.stall_bytes.max(1) as usize, within: limits.stall() }
}

/// Writes answers until there can be no more, or nobody wants them.
async fn write(
    session: Arc<Session>,
    mut writer: FrameWriter,
    mut queued: mpsc::Receiver<Answer>,
    gone: CancellationToken,
    class: tokio::sync::oneshot::Receiver<Class>,
) {
    let unwanted = writer.unwanted();
    let work = async {
        let mut class = Some(class);
        let pace = pace(&session);
        let (mut answers, mut frames) = (Vec::new(), Vec::new());
        while queued.recv_many(&mut answers, ANSWERS).await > 0 {
            if let Some(Ok(class)) = class.take().map(|mut class| class.try_recv()) {
                writer.set_priority(class.priority());
            }
            frames.extend(answers.iter().map(|answer: &Answer| answer.frame.clone()));
            if let Err(error) = writer.write_at(&frames, pace).await {
                if matches!(error, StreamError::Stalled { .. }) {
                    let reason = format!("answers are not taken: {error} (stall_ms)");
                    session.violated(Close::Overloaded, "stalled", &reason);
                }
                return;
            }
            // Gives their room back.
            answers.clear();
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
