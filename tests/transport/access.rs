//! Every op and every change against every kind of certificate: what the specification's tables say is
//! what a listening node does, and what they refuse reaches no handler.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use quorate_certs::{Credentials, Role, Roles, UnixTime};
use quorate_client::{config::TransportConfig, env::BoxFuture, lane::framed::FrameWriter};
use quorate_node::{
    endpoint,
    server::{Greeting, Server, Service},
    session::{Peer, ReplySink, failure},
};
use quorate_protocol::{
    code::Code,
    frame::{Frame, FrameCodec, Message},
    hello::ALPN,
    id::{MetaIndex, NodeId, Version},
    message::{Failure, Ping, Pong, Propose},
};
use quorate_tests::harness::net::SimNet;
use tokio_util::codec::Decoder;

use super::{
    document::{document, vectors},
    hostile::Raw,
    world::{CLUSTER, authorities, host, node_credentials, on, simulate},
};

/// Answers everything that reaches it alike, and counts.
struct Tally {
    node: NodeId,
    calls: Arc<AtomicUsize>,
}

/// A listening node with a map, whose handlers only count.
pub struct Counting {
    pub server: Server,
    pub calls: Arc<AtomicUsize>,
}

impl Counting {
    /// On host `n`, and by its own word this node, whatever its certificate says.
    pub fn start(net: &SimNet, n: u8, node: NodeId, credentials: Credentials) -> Self {
        let (config, calls) = (TransportConfig::default(), Arc::default());
        let (endpoint, _) =
            endpoint::bind(&net.env(host(n)), on(n), &credentials, &config).unwrap();
        let tally = Tally { node, calls: Arc::clone(&calls) };
        let server = Server::start(endpoint, credentials, config, Arc::new(tally));
        Self { server, calls }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Service for Tally {
    fn greeting(&self) -> Greeting {
        let (meta_index, highest_version) = (MetaIndex(5), Version(0));
        Greeting {
            cluster: CLUSTER,
            node: self.node,
            meta_index,
            highest_version,
            ..Greeting::default()
        }
    }

    fn name_of(&self, node: NodeId) -> Option<String> {
        (1..=3).contains(&node.0).then(|| format!("n{node}"))
    }

    fn call(&self, _: Arc<Peer>, _: Frame, reply: ReplySink) -> BoxFuture<'static, ()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(reply.fail(failure(Code::NotReady, "counted")))
    }
}

/// Somebody, and what a table's cell must name for them to be allowed.
struct Somebody {
    credentials: Credentials,
    words: &'static [&'static str],
}

fn everybody() -> Vec<Somebody> {
    let client = |name: &str, roles: &[Role], words| {
        let roles: Roles = roles.iter().copied().collect();
        let made = authorities().0.issue_client_in_memory(name, roles, UnixTime::now());
        Somebody { credentials: made.unwrap(), words }
    };
    vec![
        client("reader", &[Role::Read], &["read"]),
        client("writer", &[Role::Write], &["write"]),
        client("both", &[Role::Write, Role::Read], &["read", "write"]),
        // Admin implies the two others.
        client("admin", &[Role::Admin], &["admin", "read", "write"]),
        Somebody { credentials: node_credentials("n7"), words: &["node"] },
    ]
}

/// Of each table row: its first two cells, and whose certificate will do.
fn rows(section: &str, who: usize) -> Vec<(String, String, String)> {
    let document = document();
    let text = &document[document.find(section).unwrap() + section.len()..];
    let level = &section[..section.find(' ').unwrap() + 1];
    let text = &text[..text.find(level).unwrap()];
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let rows = rows.map(|line| line.trim_matches('|').split('|').map(|it| it.trim().to_owned()));
    let rows = rows.map(Iterator::collect::<Vec<String>>).filter(|row| row.len() > who);
    rows.map(|row| (row[0].replace('`', ""), row[1].clone(), row[who].clone())).collect()
}

/// All requests to be tried: a name, the frame, and the cell of who may ask.
fn requests() -> Vec<(String, Frame, String)> {
    let frames: Vec<Frame> = vectors("frame")
        .iter()
        .map(|vector| {
            let mut bytes = BytesMut::from(&vector.bytes[..]);
            FrameCodec::default().decode(&mut bytes).unwrap().unwrap()
        })
        .collect();
    let mut all = Vec::new();
    for (op, name, who) in rows("\n## 5. Ops", 3) {
        let Some(op) = op.strip_prefix("0x").map(|hex| u16::from_str_radix(hex, 16).unwrap())
        else {
            continue;
        };
        // The session's own, and the answer to all.
        if ["Hello", "Cancel", ""].contains(&&name[..]) || who == "as the change" {
            continue;
        }
        let frame = frames.iter().find(|frame| frame.op == op);
        all.push((name, frame.unwrap().clone(), who));
    }
    let changes: BTreeMap<u8, Bytes> =
        vectors("change").into_iter().map(|it| (it.bytes[0], it.bytes.into())).collect();
    let propose = Propose { deadline_ms: 1_000, forwarded: false, after: MetaIndex(0) };
    for (variant, _, who) in rows("\n### Commands", 2) {
        let number = variant.split(' ').next().and_then(|number| number.parse::<u8>().ok());
        let Some(number) = number else { continue };
        let frame = Frame::new(1, &propose, changes[&number].clone()).unwrap();
        all.push((variant, frame, who));
    }
    all
}

#[test]
fn every_op_and_change_is_for_whom_the_specification_says_and_refused_before_any_handler() {
    let requests = requests();
    assert!(requests.len() >= 24 + 22, "{}", requests.len());
    simulate(34, async |net| {
        let node = Counting::start(&net, 1, NodeId(1), node_credentials("n1"));
        for somebody in everybody() {
            let raw = Raw::connect_as(&net, on(1), ALPN, &somebody.credentials).await.unwrap();
            let (send, mut reader) = raw.greet().await;
            let mut writer = FrameWriter::new(send);
            let mut id = 100;
            let mut ask = async |frame: &Frame| {
                id += 1;
                writer.write(&[Frame { id, ..frame.clone() }]).await.unwrap();
                let answer = reader.next().await.unwrap().unwrap();
                assert_eq!(answer.id, id);
                answer
            };
            for (name, request, who) in &requests {
                let what = format!("{name} by {}", somebody.credentials.identity());
                let mut words = who.split(", ");
                let may = who == "everybody" || words.any(|word| somebody.words.contains(&word));
                let before = node.calls();
                let answer = ask(request).await;
                let called = node.calls() - before;
                if request.op == Ping::OP {
                    assert_eq!((answer.op, called), (Pong::OP, 0), "{what}");
                    continue;
                }
                let failure: Failure = answer.message().unwrap();
                let expected = if may { (Code::NotReady, 1) } else { (Code::Unauthorised, 0) };
                assert_eq!((failure.code, called), expected, "{what}: {}", failure.detail);
                // Whoever is refused learns what would do, on one line.
                if !may {
                    let words = ["role", "only nodes", "nobody"];
                    assert!(words.iter().any(|word| failure.detail.contains(word)), "{what}");
                    assert!(!failure.detail.contains('\n'), "{what}");
                }
            }
            // What nobody knows is refused from everybody.
            let before = node.calls();
            let garbage = Frame { payload: Bytes::from_static(&[0xff; 3]), ..propose() };
            for (frame, code) in
                [(Frame { op: 0x7777, ..propose() }, Code::Unsupported), (garbage, Code::Malformed)]
            {
                assert_eq!(ask(&frame).await.message::<Failure>().unwrap().code, code);
            }
            assert_eq!(node.calls(), before);
        }
    });
}

fn propose() -> Frame {
    let propose = Propose { deadline_ms: 1, forwarded: false, after: MetaIndex(0) };
    Frame::new(1, &propose, Bytes::new()).unwrap()
}
