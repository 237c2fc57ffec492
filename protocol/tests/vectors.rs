//! Reads the frame vectors out of `SPEC.md` and checks them in both directions.
//!
//! A `frame` vector is a whole frame and the message it carries; a `frame-invalid` vector is bytes
//! that must be refused, with the reason. Every op has at least one vector.

// Everything here is a test; clippy only knows the functions that are marked.
#![allow(clippy::unwrap_used)]

mod spec;

use std::{collections::BTreeSet, fmt::Debug};

use bytes::{Bytes, BytesMut};
use quorate_protocol::{
    change::Outcome,
    code::Code,
    frame::{Frame, FrameCodec, FrameError, Message},
    grant::{Access, ClientGrants},
    hello::{Hello, Welcome},
    id::*,
    message::*,
};
use tokio_util::codec::{Decoder, Encoder};

use crate::spec::{all_vectors, document, unhex, vectors};

/// Every kind, and which test reads it.
const KINDS: [(&str, &str); 39] = [
    ("accounts-entries", "node/src/handoff/accounts.rs"),
    ("accounts-snapshot", "node/src/handoff/accounts.rs"),
    ("batch-part", "protocol/tests/data_vectors.rs"),
    ("batch-part-bad", "protocol/tests/data_vectors.rs"),
    ("certificate", "certs/src/vectors.rs"),
    ("change", "node/src/meta/vectors.rs"),
    ("command", "node/src/meta/vectors.rs"),
    ("dialogue", "tests/transport/spec.rs"),
    ("digest-cell", "node/src/shard/digest/tests.rs"),
    ("field-windows", "protocol/tests/aggregate_vectors.rs"),
    ("field-windows-bad", "protocol/tests/aggregate_vectors.rs"),
    ("frame", "protocol/tests/vectors.rs"),
    ("frame-invalid", "protocol/tests/vectors.rs"),
    ("frame-later-minor", "protocol/tests/vectors.rs"),
    ("identity", "certs/src/vectors.rs"),
    ("identity-invalid", "certs/src/vectors.rs"),
    ("line", "protocol/tests/data_vectors.rs"),
    ("line-bad", "protocol/tests/data_vectors.rs"),
    ("map-update", "protocol/tests/map_vectors.rs"),
    ("mark", "node/src/handoff/marks.rs"),
    ("quarantined", "node/src/handoff/quarantine.rs"),
    ("row-block", "protocol/tests/data_vectors.rs"),
    ("row-block-bad", "protocol/tests/data_vectors.rs"),
    ("segment", "node/src/segment/vectors.rs"),
    ("segment-header", "node/src/segment/vectors.rs"),
    ("segment-header-invalid", "node/src/segment/vectors.rs"),
    ("segment-read", "node/src/handoff/open.rs"),
    ("segment-trailer", "node/src/segment/vectors.rs"),
    ("shard-block", "node/src/shard/block/tests/vectors.rs"),
    ("shard-block-bad", "node/src/shard/block/tests/vectors.rs"),
    ("shard-block-key", "node/src/shard/tests/vectors.rs"),
    ("shard-index-chunk", "node/src/shard/index/tests.rs"),
    ("shard-index-chunk-bad", "node/src/shard/index/tests.rs"),
    ("shard-index-key", "node/src/shard/index/tests.rs"),
    ("shard-marker", "node/src/shard/tests/vectors.rs"),
    ("shard-ordered-key", "node/src/shard/tests/vectors.rs"),
    ("shard-state", "node/src/shard/tests/vectors.rs"),
    ("shard-versions", "node/src/shard/block/tests/vectors.rs"),
    ("snapshot", "node/src/meta/vectors.rs"),
];

/// What a vector of this name must be: the frame, and its message as people read it.
struct Case {
    name: &'static str,
    frame: Frame,
    text: String,
    /// Decodes the body of a frame and prints it.
    read: fn(&Frame) -> Result<String, FrameError>,
}

fn case<M: Message + Debug>(
    name: &'static str,
    id: u64,
    message: M,
    payload: &'static [u8],
) -> Case {
    Case {
        name,
        frame: Frame::new(id, &message, Bytes::from_static(payload)).unwrap(),
        text: format!("{message:?}"),
        read: |frame| Ok(format!("{:?}", frame.message::<M>()?)),
    }
}

/// What hint-list carries: the length and postcard of a `HintInfo`, and no batch.
const HINT_ENTRY: &[u8] = b"\x17\0\0\0\
    \x0c\x01\x07\x64\x01\x9f\x80\x0c\x07\x01\x01\x02\xe8\x07\x02\x01\x02\x01\x01\x03cpu\
    \0\0\0\0";

/// What surveyed carries: two members, of which one is down.
const MEMBERS: &[u8] = b"\x02\
    \x01\0\
    \x17\x01\0\x01\x01\x05\0\0\0\0\x050.1.0\0\x09\x08\x80\xa4\xa7\xda\x06\
    \x09\x01\x07\x0a\x02\x80\x20\x64\0\x01\
    \x09\x02\0\x02\x05\0\x07\x02\x03\x01\
    \x02\x01\x04down\0\0\0";

fn cases() -> Vec<Case> {
    let ok = Answer { error: None, sequence: Sequence(9), retry_after_ms: 0 };
    let busy = Answer { error: Some(Code::Busy), sequence: Sequence(0), retry_after_ms: 20 };
    let status = NodeStatus {
        node: NodeId(1),
        role: RaftRole::Leader,
        leader: Some(NodeId(1)),
        meta_index: MetaIndex(5),
        poisoned: false,
        fresh_bytes: 0,
        journal_bytes: 4096,
        queues: vec![QueueStatus {
            target: NodeId(2),
            accepted: 3,
            pending: 3,
            ..Default::default()
        }],
        version: "0.1.0".to_owned(),
        sync_interval_ms: 50,
        log_index: 9,
        applied_index: 8,
        certificate_expires_s: 1_800_000_000,
    };
    vec![
        case(
            "hello",
            1,
            Hello {
                minor: 0,
                features: 0,
                cluster: ClusterId(0),
                node: NodeId(0),
                expect: NodeId(2),
            },
            b"",
        ),
        case(
            "welcome",
            1,
            Welcome {
                minor: 0,
                features: 0,
                cluster: ClusterId(0xfeed),
                node: NodeId(2),
                meta_index: MetaIndex(12),
                highest_version: Version(1_700_000_000_000_000_000),
                max_frame: 4 << 20,
                credit: 16 << 20,
            },
            b"",
        ),
        case("ping", 2, Ping {}, b""),
        case("pong", 2, Pong {}, b""),
        case("cancel", 3, Cancel { id: 300 }, b""),
        case(
            "write",
            4,
            Write {
                shard: ShardId(7),
                epoch: Epoch(1),
                meta_index: MetaIndex(12),
                deadline_ms: 5000,
                store: true,
                any: false,
                hint_for: vec![NodeId(3)],
            },
            b"<batch>",
        ),
        case(
            "written",
            4,
            Written {
                copy: Some(ok),
                hints: vec![HintAnswer { target: NodeId(3), answer: busy }],
                highest_version: Version(1000),
                meta_index: MetaIndex(12),
                buffered: false,
            },
            b"",
        ),
        case(
            "written-buffered",
            4,
            Written {
                copy: Some(ok),
                hints: vec![],
                highest_version: Version(1000),
                meta_index: MetaIndex(12),
                buffered: true,
            },
            b"",
        ),
        case(
            "deliver",
            5,
            Deliver {
                meta_index: MetaIndex(12),
                deadline_ms: 1000,
                items: vec![HintItem { shard: ShardId(7), length: 7 }],
            },
            b"<batch>",
        ),
        case("delivered", 5, Delivered { answers: vec![ok] }, b""),
        case("mark", 6, Mark { shard: ShardId(7), owner: NodeId(3), from: -1, to: 1 }, b""),
        case("marked", 6, Marked { answer: ok }, b""),
        case("hint-fate", 6, HintFate { target: NodeId(3), sequence: Sequence(9) }, b""),
        case("hint-fated", 6, HintFated { fate: Fate::Retargeted }, b""),
        case("hand-on", 6, HandOn { deadline_ms: 1000 }, b""),
        case("handed-on", 6, HandedOn { moved: 300, pending: 2 }, b""),
        case("meta-get", 7, MetaGet { after: MetaIndex(11) }, b""),
        case("meta-state", 7, MetaState { index: MetaIndex(12) }, b"<updates>"),
        case(
            "follow",
            21,
            Follow {
                meta_index: MetaIndex(12),
                shards: vec![
                    FollowShard { shard: ShardId(7), after: None, bodies: Bodies::All },
                    FollowShard {
                        shard: ShardId(8),
                        after: Some(Sequence(300)),
                        bodies: Bodies::None,
                    },
                    FollowShard {
                        shard: ShardId(9),
                        after: Some(Sequence(0)),
                        bodies: Bodies::New,
                    },
                ],
            },
            b"",
        ),
        case(
            "followed-beginning",
            21,
            Followed {
                shard: ShardId(8),
                sequence: Sequence(310),
                batch: BatchId(0),
                version: Version(0),
                checksum: 0,
                length: 0,
                missed: 0,
                gap: true,
                ended: None,
            },
            b"",
        ),
        case(
            "followed",
            21,
            Followed {
                shard: ShardId(7),
                sequence: Sequence(311),
                batch: BatchId(0x1011),
                version: Version(1_700_000_000_000_000_000),
                checksum: 0x0102_0304,
                length: 7,
                missed: 2,
                gap: false,
                ended: None,
            },
            b"<batch>",
        ),
        case(
            "followed-ended",
            21,
            Followed {
                shard: ShardId(9),
                sequence: Sequence(0),
                batch: BatchId(0),
                version: Version(0),
                checksum: 0,
                length: 0,
                missed: 0,
                gap: false,
                ended: Some(Code::ShardGone),
            },
            b"",
        ),
        case("meta-watch", 7, MetaWatch { after: MetaIndex(11) }, b""),
        case("meta-changed", 7, MetaChanged { index: MetaIndex(12), left: 300 }, b"<updates>"),
        case(
            "propose-create-database",
            8,
            Propose { deadline_ms: 10_000, forwarded: false, after: MetaIndex(11) },
            b"\x03\x07metrics\x07default\x00\x00\x03",
        ),
        case(
            "propose-register-fields",
            9,
            Propose { deadline_ms: 10_000, forwarded: true, after: MetaIndex(0) },
            b"\x06\x01\x01\x03cpu\x01v\x00",
        ),
        case(
            "proposed",
            8,
            Proposed { index: MetaIndex(13), outcome: Outcome::Database(DatabaseId(1)) },
            b"<map>",
        ),
        case(
            "proposed-refused",
            8,
            Proposed {
                index: MetaIndex(14),
                outcome: Outcome::Refused {
                    code: Code::AlreadyExists,
                    detail: "metrics".to_owned(),
                },
            },
            b"<map>",
        ),
        case(
            "join",
            10,
            Join {
                addr: "10.0.0.2:7100".to_owned(),
                zone: None,
                instance: 0xabcd,
                forwarded_for: None,
                deadline_ms: 10_000,
            },
            b"",
        ),
        case(
            "joined",
            10,
            Joined { cluster: ClusterId(0xfeed), node: NodeId(2), index: MetaIndex(4) },
            b"",
        ),
        case("grants", 22, Grants { meta_index: MetaIndex(12) }, b""),
        case(
            "grant-list",
            22,
            GrantList { index: MetaIndex(12) },
            b"\x01\x03app\0\0\x01\x03\x01\0",
        ),
        case(
            "scan",
            11,
            Scan {
                shard: ShardId(7),
                meta_index: MetaIndex(12),
                measurement: Some(Bytes::from_static(b"cpu")),
                tags: vec![TagMatch {
                    key: Bytes::from_static(b"host"),
                    values: vec![Bytes::from_static(b"a")],
                    pattern: None,
                }],
                fields: vec![],
                from: i64::MIN,
                to: i64::MAX,
                after: Some(Bytes::from_static(b"cpu,host=a")),
                limit: 4096,
                rows: 100,
            },
            b"",
        ),
        case("rows", 11, Rows { entries: 1, complete: true }, b"<rows>"),
        case(
            "aggregate",
            17,
            Aggregate {
                shard: ShardId(7),
                meta_index: MetaIndex(12),
                measurement: Some(Bytes::from_static(b"cpu")),
                tags: vec![TagMatch {
                    key: Bytes::from_static(b"host"),
                    values: vec![],
                    pattern: Some("^a".to_owned()),
                }],
                fields: vec![Bytes::from_static(b"v")],
                from: -1,
                to: i64::MAX,
                every: 3_600_000_000_000,
                after: None,
                limit: 4096,
            },
            b"",
        ),
        case("aggregated", 17, Aggregated { entries: 1, complete: false }, b"<windows>"),
        case(
            "digest",
            18,
            Digest {
                shard: ShardId(7),
                meta_index: MetaIndex(12),
                from: i64::MIN,
                to: 0,
                bucket: 60_000_000_000,
                up_to: Version(1_700_000_000_000_000_000),
            },
            b"",
        ),
        case(
            "digested",
            18,
            Digested { buckets: 1 },
            b"\x00\xbc\xa0\x65\x01\0\0\0\x02\0\0\0\0\0\0\0\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f",
        ),
        case("verify", 19, Verify { shard: ShardId(7), meta_index: MetaIndex(12) }, b""),
        case(
            "verified",
            19,
            Verified {
                runs: 2,
                blocks: 3,
                bytes: 4096,
                rows: 500,
                values: 1000,
                series: 10,
                garbage_blocks: 1,
                garbage_bytes: 100,
                found: 2,
                problems: vec![ShardProblem { kind: "block".to_owned(), detail: "bad".to_owned() }],
            },
            b"",
        ),
        case("shards", 20, Shards {}, b""),
        case("shard-list", 20, ShardList {}, b"\x01\x07\x0a\x02\x80\x20\x64\0\x01"),
        case(
            "hints",
            21,
            Hints { target: NodeId(3), quarantined: true, content: false, limit: 100 },
            b"",
        ),
        case("hint-list", 21, HintList {}, HINT_ENTRY),
        case(
            "hints-do",
            22,
            HintsDo {
                target: NodeId(3),
                action: HintAction::Drop,
                shard: Some(ShardId(7)),
                force_any: true,
            },
            b"",
        ),
        case("hints-done", 22, HintsDone { done: 300, any: 2, damaged: 1 }, b""),
        case("marks", 23, Marks {}, b""),
        case("mark-list", 23, MarkList {}, b"\x01\x07\x03\x01\x09\x0a"),
        case("hints-verify", 24, HintsVerify {}, b""),
        case("hints-verified", 24, HintsVerified {}, b"\x01\x03\x01\x05\x02\x01\0\x01\x01\x06\x01\x01\x01\x03bad"),
        case("survey", 25, Survey { deadline_ms: 2000, forwarded: true }, b""),
        case("surveyed", 25, Surveyed { node: NodeId(1), meta_index: MetaIndex(5) }, MEMBERS),
        case("raft-append", 12, RaftAppend {}, b"<raft>"),
        case("raft-appended", 12, RaftAppended {}, b"<raft>"),
        case("raft-vote", 13, RaftVote {}, b"<raft>"),
        case("raft-voted", 13, RaftVoted {}, b"<raft>"),
        case("raft-snapshot", 14, RaftSnapshot {}, b"<raft>"),
        case("raft-installed", 14, RaftInstalled {}, b"<raft>"),
        case("status", 15, Status {}, b""),
        case("node-status", 15, status, b""),
        case(
            "failure",
            16,
            Failure {
                code: Code::StaleMeta,
                retry_after_ms: 0,
                meta_index: MetaIndex(11),
                detail: "behind".to_owned(),
            },
            b"",
        ),
    ]
}

#[test]
fn the_lists_in_the_vectors_of_hints_say_what_is_written_beside_them() {
    let info = HintInfo {
        sequence: Sequence(12),
        count: 1,
        shard: ShardId(7),
        appended_at: 100,
        any: true,
        reason: 0x0003_0000 + 31,
        bytes: 7,
        batch: Some(HintBatch {
            database: DatabaseId(1),
            policy: PolicyId(2),
            version: Version(1000),
            rows: 2,
            from: -1,
            to: 1,
            measurements: 1,
            names: vec![Bytes::from_static(b"cpu")],
        }),
    };
    let head = postcard::to_stdvec(&info).unwrap();
    let length = (head.len() as u32).to_le_bytes();
    assert_eq!(hex(&[&length[..], &head, &[0; 4]].concat()), hex(HINT_ENTRY));
    let report = QueueVerified {
        target: NodeId(3),
        segments: 1,
        records: 5,
        pending: 2,
        aside: 1,
        damaged: 0,
        unknown: 1,
        torn: true,
        accepted: 6,
        balanced: true,
        found: 1,
        problems: vec!["bad".to_owned()],
    };
    let mark = MarkInfo { shard: ShardId(7), owner: NodeId(3), reason: 1, from: -5, to: 5 };
    let payload = |name: &str| {
        cases().into_iter().find(|case| case.name == name).unwrap().frame.payload.to_vec()
    };
    assert_eq!(postcard::to_stdvec(&[report].to_vec()).unwrap(), payload("hints-verified"));
    assert_eq!(postcard::to_stdvec(&[mark].to_vec()).unwrap(), payload("mark-list"));
}

#[test]
fn the_members_in_the_vector_say_what_is_written_beside_it() {
    let members: Vec<Member> = postcard::from_bytes(MEMBERS).unwrap();
    let [first, second] = &members[..] else { panic!("{members:?}") };
    let report = first.report().unwrap();
    assert_eq!((report.status.node, report.status.role), (NodeId(1), RaftRole::Leader));
    assert_eq!(report.shards.len(), 1);
    let lacks = |shard, hints, marks| Lacking { shard, owner: NodeId(2), hints, marks };
    assert_eq!(report.lacking, [lacks(ShardId(0), 5, 0), lacks(ShardId(7), 3, 1)]);
    assert_eq!((second.node, second.report()), (NodeId(2), Err("down".to_owned())));
}

#[test]
fn the_grants_in_the_vector_say_what_is_written_beside_them() {
    let case = cases().into_iter().find(|case| case.name == "grant-list").unwrap();
    let mut app = ClientGrants::nothing("app");
    app.set(DatabaseId(3), Access::READ);
    assert_eq!(postcard::to_stdvec(&[app].to_vec()).unwrap(), case.frame.payload);
}

fn encode(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    FrameCodec::default().encode(frame.clone(), &mut out).unwrap();
    out.to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_frame_vector_reads_and_writes() {
    let vectors = vectors("frame");
    let mut missing = String::new();
    for case in cases() {
        let bytes = encode(&case.frame);
        let Some(vector) = vectors.iter().find(|vector| vector.name == case.name) else {
            missing += &format!(
                "```vector name={} kind=frame\nop: {:#06x}\nid: {}\nbody: {}\nhex: {}\n```\n\n",
                case.name,
                case.frame.op,
                case.frame.id,
                case.text,
                hex(&bytes)
            );
            continue;
        };
        assert_eq!(hex(&vector.bytes), hex(&bytes), "{}", case.name);
        assert_eq!(vector.one("op"), format!("{:#06x}", case.frame.op), "{}", case.name);
        assert_eq!(vector.one("id"), case.frame.id.to_string(), "{}", case.name);
        assert_eq!(vector.one("body"), case.text, "{}", case.name);
        let mut buffer = BytesMut::from(&vector.bytes[..]);
        let frame = FrameCodec::default().decode(&mut buffer).unwrap().unwrap();
        assert_eq!(frame, case.frame, "{}", case.name);
        assert_eq!((case.read)(&frame).unwrap(), vector.one("body"), "{}", case.name);
    }
    assert!(missing.is_empty(), "SPEC.md lacks:\n{missing}");
    let known: BTreeSet<&str> = cases().iter().map(|case| case.name).collect();
    for vector in vectors {
        assert!(known.contains(vector.name.as_str()), "no test for vector {}", vector.name);
    }
}

#[test]
fn every_invalid_frame_is_refused_for_its_reason() {
    let vectors = vectors("frame-invalid");
    assert!(vectors.len() >= 5, "SPEC.md lacks invalid frames");
    for vector in vectors {
        let mut buffer = BytesMut::from(&vector.bytes[..]);
        let error = FrameCodec::default().decode_eof(&mut buffer).unwrap_err();
        let reason = match error {
            FrameError::TooLarge { .. } => "too large",
            FrameError::HeaderLength { .. } => "header length",
            FrameError::Postcard(_) => "unreadable header",
            FrameError::CriticalFlags(_) => "critical flags",
            FrameError::Truncated => "truncated",
            other => panic!("{}: {other}", vector.name),
        };
        assert_eq!(reason, vector.one("refused"), "{}", vector.name);
    }
}

#[test]
fn surplus_header_bytes_and_unknown_flags_are_skipped() {
    let vectors = vectors("frame-later-minor");
    for vector in vectors {
        let mut buffer = BytesMut::from(&vector.bytes[..]);
        let frame = FrameCodec::default().decode(&mut buffer).unwrap().unwrap();
        let cancel: Cancel = frame.message().unwrap();
        assert_eq!(format!("{cancel:?}"), vector.one("body"), "{}", vector.name);
    }
}

#[test]
fn every_kind_of_vector_is_read_by_a_test() {
    let found: BTreeSet<String> = all_vectors().into_iter().map(|vector| vector.kind).collect();
    let known: BTreeSet<String> = KINDS.iter().map(|(kind, _)| (*kind).to_owned()).collect();
    assert_eq!(found, known);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (kind, test) in KINDS {
        let test = std::fs::read_to_string(root.join(test)).unwrap();
        assert!(test.contains(&format!("\"{kind}\"")), "{kind}");
    }
    let count = document().lines().filter(|line| line.contains("```vector")).count();
    assert_eq!(count, all_vectors().len(), "a vector whose fence is not at the start of its line");
}

#[test]
fn hexadecimal_digits_are_read_strictly() {
    assert_eq!(unhex(" 0a\n F f"), [10, 255]);
    for bad in ["0", "0g", "+1"] {
        assert!(std::panic::catch_unwind(|| unhex(bad)).is_err(), "{bad}");
    }
}

#[test]
fn the_table_of_codes_is_complete() {
    let spec = document();
    let mut missing = String::new();
    for code in Code::ALL {
        let row =
            format!("| {} | {:?} | {:?} | {} |", code.number(), code, code.class(), code.text());
        if !spec.contains(&row) {
            missing += &format!("{row}\n");
        }
    }
    assert!(missing.is_empty(), "SPEC.md lacks these rows:\n{missing}");
}
