//! Holds a node against the dialogues in the specification of the transport.

use super::{
    document::{Vector, unhex, vectors},
    hostile::Raw,
    world::{sim_node, simulate},
};
use quorate_protocol::hello::ALPN;

struct Dialogue {
    name: String,
    send: Vec<u8>,
    reply: Vec<u8>,
    close: Option<u64>,
}

/// The dialogues of the specification.
fn dialogues() -> Vec<Dialogue> {
    let read = |vector: Vector| {
        for (key, _) in &vector.entries {
            assert!(["reply", "close"].contains(&&key[..]), "{}: unknown key {key}", vector.name);
        }
        let closes = !vector.all("close").is_empty();
        Dialogue {
            reply: unhex(&vector.all("reply").concat()),
            close: closes.then(|| vector.number("close")),
            name: vector.name,
            send: vector.bytes,
        }
    };
    vectors("dialogue").into_iter().map(read).collect()
}

#[test]
fn the_node_answers_as_specified() {
    let dialogues = dialogues();
    assert!(dialogues.len() >= 14, "{}", dialogues.len());
    for dialogue in dialogues {
        simulate(80, async |net| {
            let name = &dialogue.name;
            let node = sim_node(&net, 1);
            let raw = Raw::connect(&net, &node, ALPN).await.unwrap();
            let (mut send, mut recv) = raw.quic.open_bi().await.unwrap();
            send.write_all(&dialogue.send).await.unwrap();
            let mut reply = vec![0; dialogue.reply.len()];
            recv.read_exact(&mut reply).await.unwrap();
            assert_eq!(reply, dialogue.reply, "{name}");
            match dialogue.close {
                Some(code) => assert_eq!(raw.closed().await.0 as u64, code, "{name}"),
                None => {
                    // Nothing more comes, and the end of the stream is answered with its end.
                    send.finish().unwrap();
                    assert!(recv.read_to_end(10).await.unwrap().is_empty(), "{name}");
                    assert!(raw.quic.close_reason().is_none(), "{name}");
                }
            }
        });
    }
}
