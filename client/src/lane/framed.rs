//! Frames over the two halves of a QUIC stream.
//!
//! Invariants: a stream that ends inside a frame is an error; a writer that is dropped inside a
//! frame resets its stream, because a dropped `SendStream` otherwise looks like a clean end; large
//! payloads are handed to QUIC without copying. Used by lanes, by streams of their own, and by the
//! node's sessions.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use quorate_protocol::{
    code::Code,
    frame::{Frame, FrameCodec, FrameError, MAX_FRAME},
};
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::Decoder;

/// Packets taken from a stream at once.
const CHUNKS: usize = 32;
/// Payloads up to this size are copied next to their header; larger ones are sent in place.
const INLINE: usize = 4096;

/// The application error code of streams that are given up.
#[must_use]
pub fn cancelled() -> VarInt {
    VarInt::from_u32(u32::from(Code::Cancelled.number()))
}

/// Why a stream of frames failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer's bytes are no frames, or not the ones it may send.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An answer to something that was not asked, or was answered before.
    #[error("answer to request {0}, which is not open")]
    UnexpectedId(u64),
    /// The peer ended a stream that this side still needs.
    #[error("the peer ended the stream")]
    Ended,
    /// The peer reset the stream or stopped reading it.
    #[error("the peer gave the stream up with code {0}")]
    GivenUp(VarInt),
    /// The peer went on too slowly with what it had begun.
    #[error("less than {bytes} bytes in {within:?}")]
    Stalled {
        /// See [`Pace`].
        bytes: usize,
        /// See [`Pace`].
        within: Duration,
    },
    /// The connection is gone.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl StreamError {
    /// Whether the peer broke the protocol, so that its connection must be closed.
    #[must_use]
    pub const fn is_violation(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::UnexpectedId(_))
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::GivenUp(code),
            ReadError::ConnectionLost(error) => Self::Connection(error),
            // Stopped by this side; ordered reads and no 0-RTT leave nothing else.
            _ => Self::Ended,
        }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::GivenUp(code),
            WriteError::ConnectionLost(error) => Self::Connection(error),
            _ => Self::Ended,
        }
    }
}

/// The least speed of a peer: so many bytes, or all that there are, within any such time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes.
    pub bytes: usize,
    /// Time for them.
    pub within: Duration,
}

/// What is being moved, against a pace.
#[derive(Debug)]
pub struct Progress {
    pace: Pace,
    moved: usize,
    until: Instant,
}

impl Pace {
    /// Something begins to move.
    #[must_use]
    pub fn begin(self) -> Progress {
        Progress { pace: self, moved: 0, until: Instant::now() + self.within }
    }
}

impl Progress {
    /// Until when the next bytes must come.
    #[must_use]
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// So many bytes have moved.
    pub fn moved(&mut self, bytes: usize) {
        self.moved += bytes;
        if self.moved >= self.pace.bytes {
            *self = self.pace.begin();
        }
    }

    /// What is to be said when they have not.
    #[must_use]
    pub const fn stalled(&self) -> StreamError {
        StreamError::Stalled { bytes: self.pace.bytes, within: self.pace.within }
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    codec: FrameCodec,
    buffer: BytesMut,
    ended: bool,
}

impl FrameReader {
    /// Reads frames of up to the protocol's limit.
    #[must_use]
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, codec: FrameCodec::default(), buffer: BytesMut::new(), ended: false }
    }

    /// The next frame; None at a clean end. May be dropped and called again.
    ///
    /// # Errors
    /// If bytes are no frame, the stream ends inside one, or it fails.
    pub async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = self.decode()? {
                return Ok(Some(frame));
            }
            if self.ended {
                return Ok(None);
            }
            self.fill().await?;
        }
    }

    /// The next frame, if all of it is here.
    ///
    /// # Errors
    /// If bytes are no frame, or the stream has ended inside one.
    pub fn decode(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.ended {
            self.codec.decode_eof(&mut self.buffer)
        } else {
            self.codec.decode(&mut self.buffer)
        }
    }

    /// Waits for more bytes, or for the end of the stream; returns how many came. May be dropped.
    ///
    /// # Errors
    /// If the stream fails.
    pub async fn fill(&mut self) -> Result<usize, StreamError> {
        let mut chunks: [Bytes; CHUNKS] = Default::default();
        let Some(count) = self.stream.read_chunks(&mut chunks).await? else {
            self.ended = true;
            return Ok(0);
        };
        let before = self.buffer.len();
        for chunk in chunks.iter().take(count) {
            self.buffer.extend_from_slice(chunk);
        }
        Ok(self.buffer.len() - before)
    }

    /// Whether the peer has ended the stream.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.ended
    }

    /// Whether bytes are here that are no whole frame; ask after [`Self::decode`].
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The whole length of a frame that has begun and is not all here, if it says one that may be.
    #[must_use]
    pub fn begun(&self) -> Option<usize> {
        let mut length = self.buffer.get(..4)?;
        let total = length.get_u32_le() as usize + 4;
        (total > self.buffer.len() && total <= MAX_FRAME as usize + 4).then_some(total)
    }

    /// Tells the peer that nothing more will be read.
    pub fn stop(&mut self) {
        // Fails only if the stream has ended, which is what is wanted.
        let _ = self.stream.stop(cancelled());
    }
}

/// The sending half.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
    scratch: BytesMut,
    /// False while a frame may be half-written.
    whole: bool,
}

impl FrameWriter {
    /// Writes frames to this stream.
    #[must_use]
    pub fn new(stream: SendStream) -> Self {
        Self { stream, scratch: BytesMut::new(), whole: true }
    }

    /// Sets the priority of what is sent from now on; see [`super::Class::priority`].
    pub fn set_priority(&self, priority: i32) {
        let _ = self.stream.set_priority(priority);
    }

    /// Writes these frames. Must not be dropped half-way unless the stream is given up.
    ///
    /// # Errors
    /// If a frame is too large or the stream fails.
    pub async fn write(&mut self, frames: &[Frame]) -> Result<(), StreamError> {
        let mut chunks = self.chunks(frames)?;
        self.whole = false;
        self.stream.write_all_chunks(&mut chunks).await?;
        self.whole = true;
        Ok(())
    }

    /// As [`Self::write`], to a peer that must take them at this pace.
    ///
    /// # Errors
    /// The same, and [`StreamError::Stalled`].
    pub async fn write_at(&mut self, frames: &[Frame], pace: Pace) -> Result<(), StreamError> {
        let mut chunks = self.chunks(frames)?;
        let mut left = &mut chunks[..];
        let mut progress = pace.begin();
        self.whole = false;
        while !left.is_empty() {
            let written = timeout_at(progress.until(), self.stream.write_chunks(left)).await;
            let written = written.map_err(|_| progress.stalled())??;
            progress.moved(written.bytes);
            left = &mut left[written.chunks..];
        }
        self.whole = true;
        Ok(())
    }

    fn chunks(&mut self, frames: &[Frame]) -> Result<Vec<Bytes>, FrameError> {
        let mut chunks = Vec::with_capacity(1 + frames.len() * 2);
        for frame in frames {
            self.scratch.put(frame.head()?);
            if frame.payload.len() <= INLINE {
                self.scratch.put_slice(&frame.payload);
            } else {
                chunks.push(self.scratch.split().freeze());
                chunks.push(frame.payload.clone());
            }
        }
        if self.scratch.has_remaining() {
            chunks.push(self.scratch.split().freeze());
        }
        Ok(chunks)
    }

    /// Ends the stream; what was written is still delivered.
    pub fn finish(&mut self) {
        let _ = self.stream.finish();
    }

    /// Gives the stream up; what was written may be lost.
    pub fn reset(&mut self) {
        let _ = self.stream.reset(cancelled());
    }

    /// Waits until the peer has acknowledged everything, or given up on it. Call `finish` first.
    pub async fn delivered(&mut self) {
        let _ = self.stream.stopped().await;
    }

    /// Waits until the peer wants nothing more from this stream, or the connection is gone.
    pub fn unwanted(&self) -> impl Future<Output = ()> + Send + Sync + 'static + use<> {
        let stopped = self.stream.stopped();
        async move {
            let _ = stopped.await;
        }
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if !self.whole {
            self.reset();
        }
    }
}
