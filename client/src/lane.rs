//! A lane: many requests at once on one long-lived bidirectional stream.
//!
//! Invariants: every request that was sent gets exactly one answer, or the lane fails as a whole;
//! what a caller gave up stays on the books until it is answered, so that credit is never returned
//! early; a request that never left is told apart from one that did. `table` is the state without
//! sockets, [`framed`] moves frames over a stream; the tasks here join the two. Opened by
//! [`crate::connection`], one per traffic class, because one pipelined stream carries small requests
//! two to four times as fast as a stream each, and classes must not wait for each other.

pub mod framed;
mod table;

use std::sync::{Arc, Mutex, PoisonError};

use quorate_protocol::{
    frame::{Frame, Message},
    message::{
        Aggregate, Cancel, Deliver, Digest, Follow, Hints, HintsVerify, MetaWatch, Ping,
        RaftSnapshot, Scan, Verify, Write,
    },
};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use crate::connection::{Lost, RequestError};
use framed::{FrameReader, FrameWriter, StreamError};
pub(crate) use table::Abandoned;
use table::Table;

/// What a request is for: decides its lane and its priority on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Raft, metadata, signs of life: before everything else.
    Control,
    /// Live writes.
    Write,
    /// Scans and what else reads shards.
    Read,
    /// Hints on their way home.
    Drain,
    /// Snapshots, copies, repair: behind everything else.
    Repair,
}

impl Class {
    /// The class of an op.
    #[must_use]
    pub const fn of(op: u16) -> Self {
        match op {
            Write::OP => Self::Write,
            Scan::OP | Aggregate::OP | Follow::OP => Self::Read,
            Digest::OP | Verify::OP | Hints::OP | HintsVerify::OP => Self::Repair,
            Deliver::OP => Self::Drain,
            RaftSnapshot::OP => Self::Repair,
            _ => Self::Control,
        }
    }

    /// The stream priority; higher goes first.
    #[must_use]
    pub const fn priority(self) -> i32 {
        match self {
            Self::Control => 40,
            Self::Write => 30,
            Self::Read => 20,
            Self::Drain => 10,
            Self::Repair => 0,
        }
    }

    /// The lane that carries this class, an index below [`LANES`].
    pub(crate) const fn lane(self) -> usize {
        match self {
            Self::Control | Self::Read => 0,
            Self::Write => 1,
            Self::Drain | Self::Repair => 2,
        }
    }
}

/// Lanes of a connection, by the class that names them: control, write, drain.
pub(crate) const LANES: [Class; 3] = [Class::Control, Class::Write, Class::Drain];

/// Whether an op's payload counts against the credit of the connection. Raft does not, since its
/// heartbeats must not wait for hints; nothing else has a payload worth counting.
#[must_use]
pub const fn credited(op: u16) -> bool {
    matches!(op, Write::OP | Deliver::OP)
}

/// Whether an op's answer goes on without an end, so that its silence says nothing.
pub(crate) const fn never_ends(op: u16) -> bool {
    matches!(op, MetaWatch::OP | Follow::OP)
}

/// Bytes that the writer hands to QUIC at once. Enough to fill packets, little enough that a
/// request given up late still counts as never sent.
const BATCH: usize = 128 << 10;

/// What a request holds until it is answered.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Its share of the connection's credit, if it has a payload.
    pub(crate) _bytes: Option<OwnedSemaphorePermit>,
    /// Its place among the open requests.
    pub(crate) _request: Option<OwnedSemaphorePermit>,
}

/// One lane; shared by its callers and its two tasks.
#[derive(Debug)]
pub(crate) struct Lane {
    table: Mutex<Table>,
    wake: Notify,
}

impl Lane {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { table: Mutex::new(Table::default()), wake: Notify::new() })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        // A panic while the table was locked can only have been a failed allocation.
        act(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queues a request and says where its answer will come. Requests leave in the order of these
    /// calls. The frame's id is set here.
    pub(crate) fn submit(self: &Arc<Self>, frame: Frame, held: Held) -> Result<Call, RequestError> {
        let (to, answer) = oneshot::channel();
        let id = self.with(|table| table.submit(frame, held, to))?;
        self.wake.notify_one();
        Ok(Call { lane: Arc::clone(self), id, answer, open: true })
    }

    /// Asks for a sign of life outside of all limits; at most a few at a time.
    pub(crate) fn probe(self: &Arc<Self>) -> Option<Call> {
        let frame = Frame::new(0, &Ping {}, bytes::Bytes::new()).ok()?;
        self.submit(frame, Held::default()).ok()
    }

    /// Requests without an answer.
    pub(crate) fn open(&self) -> usize {
        self.with(|table| table.open())
    }

    /// Fails everything on the lane, now and from now on.
    pub(crate) fn fail(&self, lost: &Lost) {
        // Callers are told outside the lock.
        drop(self.with(|table| table.fail(lost)));
        self.wake.notify_one();
    }

    /// Writes what is queued until the lane fails.
    pub(crate) async fn write(self: Arc<Self>, mut writer: FrameWriter) -> Result<(), StreamError> {
        loop {
            let out = self.with(|table| table.take(BATCH));
            let Some(mut frames) = out.frames else {
                return Ok(());
            };
            for id in out.cancels {
                frames.push(Frame::new(0, &Cancel { id }, bytes::Bytes::new())?);
            }
            if frames.is_empty() {
                self.wake.notified().await;
            } else {
                writer.write(&frames).await?;
            }
        }
    }

    /// Hands answers to their callers until the stream ends, which is always a failure.
    pub(crate) async fn read(self: Arc<Self>, mut reader: FrameReader) -> Result<(), StreamError> {
        while let Some(frame) = reader.next().await? {
            // The answer's receiver wakes outside the lock.
            let (to, frame) = self.with(|table| table.answered(frame))?;
            let _ = to.send(Ok(frame));
        }
        Err(StreamError::Ended)
    }
}

/// An open request. Dropping it gives it up: what was sent is cancelled, what was not never is.
#[derive(Debug)]
pub(crate) struct Call {
    lane: Arc<Lane>,
    id: u64,
    /// Where the answer comes.
    pub(crate) answer: oneshot::Receiver<Result<Frame, RequestError>>,
    open: bool,
}

impl Call {
    /// Whether the answer is there, or will never be.
    pub(crate) fn is_over(&mut self) -> bool {
        !matches!(self.answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    /// Gives the request up and says whether it had left.
    pub(crate) fn abandon(&mut self) -> Abandoned {
        if !self.open {
            return Abandoned::Answered;
        }
        self.open = false;
        let abandoned = self.lane.with(|table| table.abandon(self.id));
        if matches!(abandoned, Abandoned::Sent) {
            self.lane.wake.notify_one();
        }
        abandoned
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.abandon();
    }
}
