//! Requests on streams of their own: answers of many frames, and requests of many frames.
//!
//! Invariants: frames until one without MORE make one message, whose body is the first frame's; the
//! stream's window is the back-pressure; a stream that is dropped early is reset and stopped, so
//! the peer stops working for it. Used for scans, watches of the map and snapshots.

use std::sync::{Arc, atomic::Ordering};

use bytes::{Bytes, BytesMut};
use quorate_protocol::{
    frame::{Frame, MAX_PAYLOAD, Message, flags},
    message::{Failure, Request},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{Connection, Lost, NotSent, Reply, RequestError, State, reply};
use crate::lane::{
    Class, credited,
    framed::{FrameReader, FrameWriter, StreamError},
    never_ends,
};

/// Answers to one request, as they come.
#[derive(Debug)]
pub struct ReplyStream<R> {
    connection: Arc<Connection>,
    writer: FrameWriter,
    reader: FrameReader,
    done: bool,
    _place: OwnedSemaphorePermit,
    _request: std::marker::PhantomData<fn() -> R>,
}

impl Connection {
    /// Sends a request on a stream of its own. Its payload may be larger than a frame.
    ///
    /// # Errors
    /// See [`RequestError`]; `deadline` is for sending only.
    pub async fn open_stream<R: Request>(
        self: &Arc<Self>,
        request: &R,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<ReplyStream<R>, RequestError> {
        if credited(R::OP) {
            return Err(RequestError::NotSent(NotSent::Invalid(
                "credit is for lanes: use `request`".into(),
            )));
        }
        let frames = split(request, payload)?;
        let late = |_| RequestError::NotSent(NotSent::Deadline);
        let opened = timeout_at(deadline, async {
            // Never closed; and a connection that is gone fails in `open_bi`.
            let place = Arc::clone(&self.streams).acquire_owned().await.ok();
            (place, self.quic.open_bi().await)
        });
        let (place, (send, recv)) = match opened.await.map_err(late)? {
            (Some(place), Ok(halves)) => (place, halves),
            (_, Err(error)) => {
                let lost = self.state.lost(&error);
                return Err(RequestError::NotSent(NotSent::Disconnected(lost)));
            }
            (None, Ok(_)) => {
                return Err(RequestError::NotSent(NotSent::Disconnected(Lost::Local)));
            }
        };
        let mut stream = ReplyStream {
            connection: Arc::clone(self),
            writer: FrameWriter::new(send),
            reader: FrameReader::new(recv),
            done: false,
            _place: place,
            _request: std::marker::PhantomData,
        };
        stream.writer.set_priority(Class::of(R::OP).priority());
        let owed = Owed::new(&self.state);
        let written = timeout_at(deadline, stream.writer.write(&frames)).await;
        drop(owed);
        match written {
            Ok(Ok(())) => {
                stream.writer.finish();
                Ok(stream)
            }
            Ok(Err(error)) => Err(stream.failed(error)),
            Err(_) => Err(RequestError::Deadline),
        }
    }

    /// One request and one answer on a stream of their own, both of any number of frames. For
    /// requests that wait for long, or are large, and must not hold up a lane.
    ///
    /// # Errors
    /// See [`RequestError`]; an answer of more than `limit` payload bytes is
    /// [`NotSent::TooLarge`]'s counterpart [`RequestError::Protocol`].
    pub async fn exchange<R: Request>(
        self: &Arc<Self>,
        request: &R,
        payload: Bytes,
        deadline: Instant,
        limit: usize,
    ) -> Result<Reply<R>, RequestError> {
        let mut stream = self.open_stream(request, payload, deadline).await?;
        match timeout_at(deadline, stream.join(limit)).await {
            Ok(joined) => joined,
            Err(_) => Err(RequestError::Deadline),
        }
    }
}

impl<R: Request> ReplyStream<R> {
    /// The next frame of the answer; None after the last. May be dropped and called again.
    ///
    /// # Errors
    /// See [`RequestError`]. After an error there is nothing more.
    pub async fn next(&mut self) -> Result<Option<Reply<R>>, RequestError> {
        match self.frame().await? {
            Some(frame) => reply::<R>(&frame).map(Some),
            None => Ok(None),
        }
    }

    async fn frame(&mut self) -> Result<Option<Frame>, RequestError> {
        if self.done {
            return Ok(None);
        }
        let state = Arc::clone(&self.connection.state);
        // A watch is silent by design; everything else is owed.
        let owed = (!never_ends(R::OP)).then(|| Owed::new(&state));
        let frame = self.reader.next().await;
        drop(owed);
        match frame {
            Ok(Some(frame)) => {
                self.done = !frame.more();
                Ok(Some(frame))
            }
            Ok(None) => Err(self.failed(StreamError::Ended)),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn join(&mut self, limit: usize) -> Result<Reply<R>, RequestError> {
        let Some(first) = self.frame().await? else {
            return Err(RequestError::Lost(Lost::Local));
        };
        let (body, payload) = reply::<R>(&first)?;
        if self.done {
            return Ok((body, payload));
        }
        let mut whole = BytesMut::from(payload);
        while let Some(frame) = self.frame().await? {
            if frame.op == Failure::OP {
                return Err(RequestError::Failure(frame.message()?));
            }
            if whole.len() + frame.payload.len() > limit {
                return Err(RequestError::Protocol(
                    quorate_protocol::frame::FrameError::TooLarge {
                        length: u32::try_from(whole.len() + frame.payload.len())
                            .unwrap_or(u32::MAX),
                        limit: u32::try_from(limit).unwrap_or(u32::MAX),
                    },
                ));
            }
            whole.extend_from_slice(&frame.payload);
        }
        Ok((body, whole.freeze()))
    }

    fn failed(&mut self, error: StreamError) -> RequestError {
        self.done = true;
        match error {
            StreamError::Frame(error) => RequestError::Protocol(error),
            StreamError::Connection(error) => {
                RequestError::Lost(self.connection.state.lost(&error))
            }
            other => RequestError::Lost(Lost::Transport(other.to_string())),
        }
    }
}

impl<R> Drop for ReplyStream<R> {
    fn drop(&mut self) {
        if !self.done {
            self.reader.stop();
            self.writer.reset();
        }
    }
}

/// Cuts a request into frames; all but the last carry MORE.
fn split<R: Request>(request: &R, mut payload: Bytes) -> Result<Vec<Frame>, RequestError> {
    let invalid = |error: quorate_protocol::frame::FrameError| {
        RequestError::NotSent(NotSent::Invalid(error.to_string()))
    };
    let mut frames = Vec::new();
    while payload.len() > MAX_PAYLOAD {
        let part = payload.split_to(MAX_PAYLOAD);
        let frame = Frame::new(1, request, part).map_err(invalid)?;
        frames.push(frame.with_flags(flags::MORE));
    }
    frames.push(Frame::new(1, request, payload).map_err(invalid)?);
    Ok(frames)
}

/// While it lives, the peer owes something.
struct Owed<'a>(&'a State);

impl<'a> Owed<'a> {
    fn new(state: &'a State) -> Self {
        state.owed.fetch_add(1, Ordering::Relaxed);
        state.asked.notify_one();
        Self(state)
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        self.0.owed.fetch_sub(1, Ordering::Relaxed);
    }
}
