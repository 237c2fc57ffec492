//! Length-framed messages: `u32 length | u16 header length | postcard header | raw payload`.
//!
//! Invariants: a claimed length is checked against the limit before anything is allocated; bytes
//! of a header behind the fields this version knows are skipped; a stream that ends inside a frame
//! is an error, never an end. Used by every lane and stream of clients and nodes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::codec::{Decoder, Encoder};

/// Largest frame, without its length field, in bytes.
pub const MAX_FRAME: u32 = 4 << 20;
/// Bytes of a frame's payload that are always possible: [`MAX_FRAME`] less room for any header.
pub const MAX_PAYLOAD: usize = MAX_FRAME as usize - (64 << 10);

/// Flag bits of a header. The low four are critical: a receiver that does not know one refuses
/// the request. The high four may be ignored.
pub mod flags {
    /// More frames follow for this request id.
    pub const MORE: u8 = 0x01;
    /// Critical bits that this version understands.
    pub const KNOWN_CRITICAL: u8 = MORE;
    /// All critical bits.
    pub const CRITICAL: u8 = 0x0f;
}

/// Why bytes are not a frame or a frame not a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field is over the limit.
    #[error("frame of {length} bytes is larger than the limit of {limit}; split the request")]
    TooLarge {
        /// Claimed length in bytes.
        length: u32,
        /// The limit in bytes.
        limit: u32,
    },
    /// Header length and frame length contradict each other.
    #[error("frame of {length} bytes cannot hold a header of {header} bytes")]
    HeaderLength {
        /// Frame length in bytes.
        length: u32,
        /// Claimed header length in bytes.
        header: u16,
    },
    /// The header or body is not what its op says.
    #[error("header or body cannot be read: {0}")]
    Postcard(#[from] postcard::Error),
    /// A critical flag this version does not know.
    #[error("unknown critical flags {0:#04x}; the peer speaks a later version")]
    CriticalFlags(u8),
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame")]
    Truncated,
    /// Another op than the one expected.
    #[error("expected op {expected:#06x}, got {found:#06x}")]
    Op {
        /// The op this side waited for.
        expected: u16,
        /// The op that came.
        found: u16,
    },
    /// The transport failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A message body with a number of its own.
pub trait Message: Serialize + DeserializeOwned {
    /// The op in the header; see `SPEC.md`, section "Ops".
    const OP: u16;
}

#[derive(Serialize, Deserialize)]
struct Head {
    op: u16,
    id: u64,
    flags: u8,
}

/// One message: a decoded head, an undecoded body, and a payload that is never copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What is asked or answered.
    pub op: u16,
    /// Pairs a reply with its request; chosen by the requester, unique among its open requests.
    pub id: u64,
    /// See [`flags`].
    pub flags: u8,
    /// The postcard body of the op.
    pub body: Bytes,
    /// Raw bytes: a batch, a command, rows.
    pub payload: Bytes,
}

impl Frame {
    /// A frame of this message.
    ///
    /// # Errors
    /// If the body cannot be encoded, which only a defect can cause.
    pub fn new<M: Message>(id: u64, message: &M, payload: Bytes) -> Result<Self, FrameError> {
        let body = postcard::to_allocvec(message)?.into();
        Ok(Self { op: M::OP, id, flags: 0, body, payload })
    }

    /// The same frame with these flags.
    #[must_use]
    pub fn with_flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// The body as the message `M`.
    ///
    /// # Errors
    /// If the op is another one or the body cannot be read.
    pub fn message<M: Message>(&self) -> Result<M, FrameError> {
        if self.op != M::OP {
            return Err(FrameError::Op { expected: M::OP, found: self.op });
        }
        let (message, _surplus) = postcard::take_from_bytes(&self.body)?;
        Ok(message)
    }

    /// Whether more frames follow for the same id.
    #[must_use]
    pub const fn more(&self) -> bool {
        self.flags & flags::MORE != 0
    }

    /// Everything of the encoded frame that stands before the payload.
    ///
    /// # Errors
    /// If the frame is over [`MAX_FRAME`] or its header over 64 KiB.
    pub fn head(&self) -> Result<Bytes, FrameError> {
        let head = Head { op: self.op, id: self.id, flags: self.flags };
        let head = postcard::to_allocvec(&head)?;
        let header = head.len() + self.body.len();
        let length = 2 + header + self.payload.len();
        let too_large = || FrameError::TooLarge {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            limit: MAX_FRAME,
        };
        let header = u16::try_from(header).map_err(|_| too_large())?;
        let length = u32::try_from(length).map_err(|_| too_large())?;
        if length > MAX_FRAME {
            return Err(too_large());
        }
        let mut out = BytesMut::with_capacity(6 + usize::from(header));
        out.put_u32_le(length);
        out.put_u16_le(header);
        out.put_slice(&head);
        out.put_slice(&self.body);
        Ok(out.freeze())
    }
}

/// Splits a byte stream into frames and joins frames into one.
#[derive(Debug)]
pub struct FrameCodec {
    limit: u32,
}

impl FrameCodec {
    /// A codec that refuses frames longer than `limit` bytes.
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self { limit }
    }
}

impl Default for FrameCodec {
    fn default() -> Self {
        Self::new(MAX_FRAME)
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(mut prefix) = source.get(..4) else {
            source.reserve(4096);
            return Ok(None);
        };
        let length = prefix.get_u32_le();
        if length > self.limit {
            return Err(FrameError::TooLarge { length, limit: self.limit });
        }
        if length < 2 {
            return Err(FrameError::HeaderLength { length, header: 0 });
        }
        let total = 4 + length as usize;
        if source.len() < total {
            source.reserve(total - source.len());
            return Ok(None);
        }
        let mut frame = source.split_to(total).freeze();
        frame.advance(4);
        let header = frame.get_u16_le();
        if usize::from(header) > frame.len() {
            return Err(FrameError::HeaderLength { length, header });
        }
        let header = frame.split_to(usize::from(header));
        let (head, body): (Head, &[u8]) = postcard::take_from_bytes(&header)?;
        let unknown = head.flags & flags::CRITICAL & !flags::KNOWN_CRITICAL;
        if unknown != 0 {
            return Err(FrameError::CriticalFlags(unknown));
        }
        let body = header.slice_ref(body);
        Ok(Some(Frame { op: head.op, id: head.id, flags: head.flags, body, payload: frame }))
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.decode(source)? {
            Some(frame) => Ok(Some(frame)),
            None if source.is_empty() => Ok(None),
            None => Err(FrameError::Truncated),
        }
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        let head = frame.head()?;
        out.reserve(head.len() + frame.payload.len());
        out.put_slice(&head);
        out.put_slice(&frame.payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(frame: &Frame) -> BytesMut {
        let mut out = BytesMut::new();
        FrameCodec::default().encode(frame.clone(), &mut out).unwrap();
        out
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        (any::<u16>(), any::<u64>(), 0u8..2, bytes(), bytes())
            .prop_map(|(op, id, flags, body, payload)| Frame { op, id, flags, body, payload })
    }

    proptest! {
        #[test]
        fn frames_survive_any_chunking(list in prop::collection::vec(frames(), 0..5), cut in 1usize..50) {
            let mut bytes = BytesMut::new();
            for frame in &list {
                bytes.extend_from_slice(&encode(frame));
            }
            let mut codec = FrameCodec::default();
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for chunk in bytes.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert!(codec.decode_eof(&mut buffer).unwrap().is_none());
            prop_assert_eq!(seen, list);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut codec = FrameCodec::default();
            while let Ok(Some(_)) = codec.decode_eof(&mut buffer) {}
        }
    }

    #[test]
    fn absurd_length_is_refused_before_it_is_allocated() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 0, 0][..]);
        let error = FrameCodec::default().decode(&mut buffer).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { length: u32::MAX, .. }));
        assert!(buffer.capacity() < 1 << 16);
    }

    #[test]
    fn truncation_at_every_byte_is_an_error_at_the_end() {
        let frame = Frame {
            op: 7,
            id: 300,
            flags: 0,
            body: Bytes::from_static(b"body"),
            payload: Bytes::from_static(b"payload"),
        };
        let whole = encode(&frame);
        for cut in 1..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            let error = FrameCodec::default().decode_eof(&mut buffer).unwrap_err();
            assert!(matches!(error, FrameError::Truncated), "{cut}: {error}");
        }
    }

    #[test]
    fn unknown_critical_flags_are_refused_others_ignored() {
        let frame = Frame { op: 1, id: 1, flags: 0x80, body: Bytes::new(), payload: Bytes::new() };
        assert!(FrameCodec::default().decode(&mut encode(&frame)).unwrap().is_some());
        let frame = frame.with_flags(0x04);
        let error = FrameCodec::default().decode(&mut encode(&frame)).unwrap_err();
        assert!(matches!(error, FrameError::CriticalFlags(0x04)));
    }
}
