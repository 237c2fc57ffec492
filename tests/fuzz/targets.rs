//! What reads bytes of strangers, and what it is given to begin with.

use std::{fmt::Debug, sync::LazyLock};

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
};
use serde::Serialize;
use tokio_util::codec::{Decoder, Encoder};

use crate::transport::document as spec;

const MIB: usize = 1 << 20;

pub struct Target {
    pub name: &'static str,
    /// Bytes of memory that reading an input may take, beside 64 for each of its own.
    pub bound: usize,
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub read: fn(&[u8]),
}

/// The bytes of all vectors of these kinds.
fn vectors(kinds: &[&str]) -> Vec<Vec<u8>> {
    let mut all = spec::all_vectors();
    all.retain(|vector| kinds.contains(&&vector.kind[..]));
    all.into_iter().map(|vector| vector.bytes).collect()
}

fn frames() -> Vec<Vec<u8>> {
    vectors(&["frame", "frame-invalid", "frame-later-minor"])
}

pub fn frame() -> Target {
    // A frame that says how long it is has room for that, and no more.
    Target {
        name: "frame",
        bound: MAX_FRAME as usize + MIB,
        seeds: frames,
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

/// The op and the body of each whole frame.
fn bodies() -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for vector in vectors(&["frame"]) {
        let mut buffer = BytesMut::from(&vector[..]);
        while let Ok(Some(frame)) = FrameCodec::default().decode(&mut buffer) {
            bodies.push([&frame.op.to_le_bytes()[..], &frame.body].concat());
        }
    }
    bodies
}

fn body<M: Message + Debug + Serialize>(frame: &Frame) {
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
        seeds: bodies,
        read: |input| {
            let Some(mut frame) = as_frame(input) else { return };
            frame.op = Hello::OP;
            body::<Hello>(&frame);
            frame.op = Welcome::OP;
            body::<Welcome>(&frame);
        },
    }
}

/// Every message, by the op that the input begins with.
pub fn message() -> Target {
    Target {
        name: "message",
        bound: MIB,
        seeds: bodies,
        read: |input| {
            let Some(frame) = as_frame(input) else { return };
            macro_rules! all {
            ($($message:ident)*) => {{
                $(body::<$message>(&frame);)*
                [$($message::OP),*]
            }};
        }
            let ops = all! {
                Ping Pong Write Written Deliver Delivered Mark Marked HintFate HintFated HandOn HandedOn
                MetaGet MetaState Propose Proposed Join Joined MetaWatch MetaChanged Grants GrantList Scan
                Aggregate Aggregated Digest Digested Verify Verified Shards ShardList Follow Followed
                RaftAppend RaftAppended RaftVote RaftVoted RaftSnapshot RaftInstalled Status NodeStatus
                Hints HintList HintsDo HintsDone Marks MarkList HintsVerify HintsVerified Survey Surveyed
                Cancel Failure
            };
            body::<message::Rows>(&frame);
            let rows = <message::Rows as Message>::OP;
            let known =
                |op| ops.contains(&op) || op == rows || op == Hello::OP || op == Welcome::OP;
            // A new op must be added above. Its vectors come here as they are, and begin with it.
            static VECTORS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(bodies);
            assert!(known(frame.op) || !VECTORS.iter().any(|vector| vector == input));
        },
    }
}

pub fn batch() -> Target {
    let seeds = || vectors(&["batch-part", "batch-part-bad"]);
    // A part may have 8,388,608 cells of 8 bytes and 67,108,864 bytes of keys, however few bytes say so.
    Target {
        name: "batch",
        bound: 400 * MIB,
        seeds,
        read: |input| {
            let input = Bytes::copy_from_slice(input);
            for part in [EncodedBatch::parse(input.clone()), EncodedBatch::parse_verified(input)] {
                if let Ok(batch) = part.and_then(|part| part.decode()) {
                    drop(batch.into_rows());
                }
            }
        },
    }
}

pub fn rows() -> Target {
    let seeds = || vectors(&["row-block", "row-block-bad", "field-windows", "field-windows-bad"]);
    Target {
        name: "rows",
        bound: 400 * MIB,
        seeds,
        read: |input| {
            if let Ok(rows) = quorate_protocol::rows::Rows::decode(input) {
                let mut block = Vec::new();
                rows.encode(&mut block);
            }
            let _ = FieldWindows::decode(input);
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
    let seeds = || {
        let mut texts = vec![
            b"cpu,host=a,dc=x value=1,load=2i,up=t,name=\"a b\" 1700000000000000000\n".to_vec(),
            b"m\\ x,t\\,a=b\\=c f=\"q\\\"q\" 1\n# note\n\nm v=1u\n".to_vec(),
            b"m v=1e308,w=-0.,x=.5 -9223372036854775806\nm v=\"\xff\xfe\"\n".to_vec(),
        ];
        for vector in spec::all_vectors() {
            if vector.kind.starts_with("line") {
                texts.push(vector.bytes);
                texts.extend(vector.entries.into_iter().map(|(_, value)| value.into_bytes()));
            }
        }
        texts
    };
    Target {
        name: "line",
        bound: 4 * MIB,
        seeds,
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
    let seeds = || {
        let file = include_str!("../../node/node.toml");
        let spelt: String = file
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let small = "data = \"d\"\ndurability = \"interval(50ms)\"\n[drain]\nrate_limit = 5\n";
        vec![file.into(), spelt.into(), small.into()]
    };
    Target {
        name: "config",
        bound: 8 * MIB,
        seeds,
        read: |input| {
            if let Ok(text) = std::str::from_utf8(input)
                && let Ok(config) = toml::from_str::<NodeConfig>(text)
            {
                // Whatever is accepted can be used.
                drop((config.transport.quic(), config.transport.quic_for_strangers()));
                drop((config.transport.endpoint(), config.transport.granted_credit()));
            }
        },
    }
}

pub fn segment() -> Target {
    let seeds = || vectors(&["segment", "segment-header", "segment-header-invalid"]);
    Target {
        name: "segment",
        bound: 16 * MIB,
        seeds,
        read: |input| {
            let disk = MemoryDisk::new();
            disk.create_directory("/d".as_ref()).unwrap();
            let file = disk.open("/d/segment".as_ref(), Open::CreateNew).unwrap();
            file.write_at(0, input).unwrap();
            let Parsed::Header(header) = Header::read(&*file).unwrap() else { return };
            records(&*file, &header);
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
