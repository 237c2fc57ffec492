//! Holds a node against the dialogues in the specification of the transport.

use std::path::PathBuf;

use super::{
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
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let text = std::fs::read_to_string(root.join("SPEC.md")).unwrap();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("```vector name=") else {
            continue;
        };
        let Some((name, "kind=dialogue")) = rest.split_once(' ') else {
            continue;
        };
        let mut dialogue = Dialogue {
            name: name.to_owned(),
            send: vec![],
            reply: vec![],
            close: None,
        };
        for line in lines.by_ref().take_while(|line| *line != "```") {
            match line.split_once(": ").unwrap() {
                ("hex", hex) => dialogue.send.extend(bytes(hex)),
                ("reply", hex) => dialogue.reply.extend(bytes(hex)),
                ("close", code) => dialogue.close = Some(code.parse().unwrap()),
                (key, _) => panic!("{name}: unknown key {key}"),
            }
        }
        found.push(dialogue);
    }
    found
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

#[test]
fn the_node_answers_as_specified() {
    let dialogues = dialogues();
    assert!(dialogues.len() >= 13, "{}", dialogues.len());
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
