//! What reads bytes of strangers.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use quorate_node::{
    config::NodeConfig,
    disk::{Disk, DiskFile, MemoryDisk, Open},
    segment::{
        Found, Reader,
        header::{Header, Parsed},
    },
};
use quorate_protocol::{
    aggregate::FieldWindows,
    batch::{Batch, EncodedBatch},
    change::Change,
    frame::{Frame, FrameCodec, MAX_FRAME, Message},
    hello::{Hello, Welcome},
    line::{Options, parse_into},
    message::{self, *},
    rows::Rows,
};
use tokio_util::codec::{Decoder, Encoder};

use super::{
    Target, seal,
    seeds::{self, vectors},
};

const MIB: usize = 1 << 20;

pub fn frame() -> Target {
    // A frame that says how long it is has room for that, and no more.
    Target {
        name: "frame",
        bound: MAX_FRAME as usize + MIB,
        seeds: || vectors(&["frame", "frame-invalid", "frame-later-minor"]),
        read: |input| {
            for chunk in [1, 7, input.len().max(1)] {
                let (mut codec, mut buffer) = (FrameCodec::default(), BytesMut::new());
                'stream: for piece in input.chunks(chunk) {
                    buffer.extend_from_slice(piece);
                    loop {
                        match codec.decode(&mut buffer) {
                            Ok(Some(frame)) => again(&frame),
                            Ok(None) => break,
                            Err(_) => break 'stream,
                        }
                    }
                }
                let _ = codec.decode_eof(&mut buffer);
            }
        },
    }
}

/// What was read is what is read again when it is written.
fn again(frame: &Frame) {
    let mut bytes = BytesMut::new();
    if FrameCodec::default().encode(frame.clone(), &mut bytes).is_ok() {
        let read = FrameCodec::default().decode(&mut bytes).unwrap().unwrap();
        assert_eq!(&read, frame);
    }
}

fn body<M: Message + Debug>(frame: &Frame) {
    if let Ok(message) = frame.message::<M>() {
        let written = Frame::new(frame.id, &message, Bytes::new()).unwrap();
        let read = written.message::<M>().unwrap();
        assert_eq!(format!("{read:?}"), format!("{message:?}"));
    }
}

fn as_frame(input: &[u8]) -> Option<Frame> {
    let (op, body) = input.split_first_chunk()?;
    let body = Bytes::copy_from_slice(body);
    Some(Frame { op: u16::from_le_bytes(*op), id: 1, flags: 0, body, payload: Bytes::new() })
}

pub fn hello() -> Target {
    Target {
        name: "hello",
        bound: MIB,
        seeds: seeds::bodies,
        read: |input| {
            let Some(mut frame) = as_frame(input) else { return };
            frame.op = Hello::OP;
            body::<Hello>(&frame);
            frame.op = Welcome::OP;
            body::<Welcome>(&frame);
        },
    }
}

macro_rules! messages {
    ($($message:ty)*) => {
        fn any(frame: &Frame) {
            $(body::<$message>(frame);)*
        }

        /// The ops of all messages that are read.
        pub fn ops() -> impl Iterator<Item = u16> {
            [Hello::OP, Welcome::OP, $(<$message>::OP),*].into_iter()
        }
    };
}

messages! {
    Ping Pong Write Written Deliver Delivered Mark Marked HintFate HintFated HandOn HandedOn
    MetaGet MetaState Propose Proposed Join Joined MetaWatch MetaChanged Grants GrantList Scan
    message::Rows Aggregate Aggregated Digest Digested Verify Verified Shards ShardList Follow Followed
    RaftAppend RaftAppended RaftVote RaftVoted RaftSnapshot RaftInstalled Status NodeStatus
    Hints HintList HintsDo HintsDone Marks MarkList HintsVerify HintsVerified Survey Surveyed
    Cancel Failure
}

/// Every message, by the op that the input begins with.
pub fn message() -> Target {
    Target {
        name: "message",
        bound: MIB,
        seeds: seeds::bodies,
        read: |input| {
            if let Some(frame) = as_frame(input) {
                any(&frame);
            }
        },
    }
}

pub fn batch() -> Target {
    // A part may have 8,388,608 cells of 8 bytes and 67,108,864 bytes of keys, however few bytes say so.
    Target {
        name: "batch",
        bound: 400 * MIB,
        seeds: || vectors(&["batch-part", "batch-part-bad"]),
        read: |input| {
            let sealed = Bytes::from(seal::sealed(input, 4));
            let input = Bytes::copy_from_slice(input);
            let parts = [
                EncodedBatch::parse(input.clone()),
                EncodedBatch::parse_verified(input),
                EncodedBatch::parse(sealed),
            ];
            for part in parts {
                if let Ok(batch) = part.and_then(|part| part.decode()) {
                    batch.into_rows().for_each(drop);
                }
            }
        },
    }
}

pub fn rows() -> Target {
    Target {
        name: "rows",
        bound: 400 * MIB,
        seeds: || vectors(&["row-block", "row-block-bad", "field-windows", "field-windows-bad"]),
        read: |input| {
            for input in [input, &seal::sealed(input, 0)] {
                if let Ok(rows) = Rows::decode(input) {
                    let mut block = Vec::new();
                    rows.encode(&mut block);
                    assert_eq!(Rows::decode(&block).unwrap(), rows);
                }
                if let Ok(windows) = FieldWindows::decode(input) {
                    let mut bytes = Vec::new();
                    windows.encode(&mut bytes);
                    assert_eq!(FieldWindows::decode(&bytes).unwrap(), windows);
                }
            }
        },
    }
}

pub fn change() -> Target {
    Target {
        name: "change",
        bound: MIB,
        seeds: || vectors(&["change"]),
        read: |input| {
            let _ = Change::decode(input);
        },
    }
}

pub fn line() -> Target {
    Target {
        name: "line",
        bound: 4 * MIB,
        seeds: seeds::lines,
        read: |input| {
            let mut batch = Batch::new();
            let outcome = parse_into(&mut batch, input, Options::default());
            assert!(
                outcome.lines >= outcome.points
                    && outcome.lines - outcome.points == outcome.errors.len()
            );
        },
    }
}

pub fn config() -> Target {
    Target {
        name: "config",
        bound: 8 * MIB,
        seeds: seeds::settings,
        read: |input| {
            if let Ok(text) = std::str::from_utf8(input)
                && let Ok(config) = toml::from_str::<NodeConfig>(text)
            {
                // Whatever is accepted can be used, and printed.
                drop((config.transport.quic(), config.transport.quic_for_strangers()));
                drop((config.transport.endpoint(), config.transport.granted_credit()));
                let printed = toml::Table::try_from(&config).unwrap();
                let read: NodeConfig = printed.try_into().unwrap();
                assert_eq!(format!("{read:?}"), format!("{config:?}"));
            }
        },
    }
}

pub fn segment() -> Target {
    Target {
        name: "segment",
        bound: 16 * MIB,
        seeds: || vectors(&["segment", "segment-header", "segment-header-invalid"]),
        read: |input| {
            for input in [input, &seal::segment(input)] {
                let disk = MemoryDisk::new();
                disk.create_directory("/d".as_ref()).unwrap();
                let file = disk.open("/d/segment".as_ref(), Open::CreateNew).unwrap();
                file.write_at(0, input).unwrap();
                let Parsed::Header(header) = Header::read(&*file).unwrap() else { continue };
                records(&*file, &header);
            }
        },
    }
}

fn records(file: &dyn DiskFile, header: &Header) {
    let mut reader = Reader::new(file, header).unwrap();
    let mut last = reader.position();
    // Every step goes on, so there is an end.
    while !matches!(reader.next_found().unwrap(), Found::End { .. }) {
        assert!(reader.position() >= last);
        last = reader.position();
    }
}
