//! That nothing with a grant in its row gets past it.

use bytes::BytesMut;
use quorate_protocol::frame::FrameCodec;
use tokio_util::codec::Decoder;

use super::*;
use crate::{
    session::{CHANGES, OPS},
    spec::vectors,
};

/// A request of each op and each change that has a vector.
fn requests() -> Vec<Frame> {
    let frames = vectors("frame").into_iter().map(|vector| {
        let mut bytes = BytesMut::from(&vector.bytes[..]);
        FrameCodec::default().decode(&mut bytes).unwrap().unwrap()
    });
    let frames: Vec<Frame> = frames.collect();
    let propose = frames.iter().find(|frame| frame.op == Propose::OP).unwrap().clone();
    let changes = vectors("change").into_iter();
    let changes = changes.map(|it| Frame { payload: it.bytes.into(), ..propose.clone() });
    frames.iter().cloned().chain(changes).collect()
}

#[test]
fn what_a_row_says_of_grants_is_found_in_its_request() {
    let mut seen = Vec::new();
    for request in requests() {
        let Ok(rule) = rule(&request) else { continue };
        let touched = touches(rule, &request).unwrap().map(|touches| touches.what);
        match rule.grant {
            Grant::None => assert!(touched.is_none(), "{}", rule.name),
            Grant::All => assert!(matches!(touched, Some(What::Everything)), "{}", rule.name),
            Grant::Shard => {
                let Some(What::Shards(shards)) = touched else { panic!("{}", rule.name) };
                assert!(shards.contains(&ShardId(7)), "{}: {shards:?}", rule.name);
            }
            Grant::Database => match touched {
                Some(What::Policy(id)) => assert_eq!(id, PolicyId(1)),
                Some(What::Database(id)) => assert_eq!(id, DatabaseId(1)),
                _ => panic!("{}", rule.name),
            },
        }
        if rule.grant != Grant::None {
            assert_ne!(access(rule), Some(Access::ALL), "{}", rule.name);
            seen.push(rule);
        }
    }
    for rule in OPS.iter().chain(CHANGES).filter(|rule| rule.grant != Grant::None) {
        assert!(seen.contains(&rule), "no vector of {}", rule.name);
    }
}
