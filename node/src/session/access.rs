//! Who may ask for what, in one table.
//!
//! Invariant: an op that is not in the table is unknown, and so is never served by accident; what
//! nodes say to each other is never accepted from a client's certificate. Called for every request
//! before the service sees it.

use quorate_certs::{Identity, Role};
use quorate_protocol::{
    change::Change,
    code::Code,
    frame::{Frame, FrameError, Message},
    message::{
        Aggregate, Deliver, Digest, Follow, HandOn, HintFate, Hints, HintsDo, HintsVerify, Join,
        Mark, Marks, MetaGet, MetaWatch, Ping, Propose, RaftAppend, RaftSnapshot, RaftVote, Scan,
        Shards, Status, Survey, Verify, Write,
    },
};

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The certificate lacks every role that would do.
    #[error("needs a certificate with role {0}; issue one with `quorate certs client --role {0}`")]
    Role(Role),
    /// Only nodes may ask.
    #[error("only nodes may ask for this")]
    NodesOnly,
    /// This version does not know the op.
    #[error("op {0:#06x} is not known to this version")]
    Unknown(u16),
    /// The body cannot be read.
    #[error(transparent)]
    Body(#[from] FrameError),
}

impl Denied {
    /// The registered code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Role(_) | Self::NodesOnly => Code::Unauthorised,
            Self::Unknown(_) => Code::Unsupported,
            Self::Body(_) => Code::Malformed,
        }
    }
}

/// Whether `identity` may make this request.
///
/// # Errors
/// See [`Denied`].
pub fn allowed(request: &Frame, identity: &Identity) -> Result<(), Denied> {
    match request.op {
        Ping::OP => Ok(()),
        Write::OP | Mark::OP | HintFate::OP => role(identity, Role::Write),
        Scan::OP | Aggregate::OP | Follow::OP | Digest::OP | Hints::OP => {
            role(identity, Role::Read)
        }
        Verify::OP | HandOn::OP | HintsVerify::OP | HintsDo::OP => role(identity, Role::Admin),
        MetaGet::OP | MetaWatch::OP | Status::OP | Survey::OP | Shards::OP | Marks::OP => {
            role(identity, Role::Read).or_else(|_| role(identity, Role::Write))
        }
        Propose::OP => {
            change(&Change::decode(&request.payload).map_err(FrameError::from)?, identity)
        }
        Deliver::OP | Join::OP | RaftAppend::OP | RaftVote::OP | RaftSnapshot::OP => {
            role(identity, Role::Node)
        }
        unknown => Err(Denied::Unknown(unknown)),
    }
}

fn change(change: &Change, identity: &Identity) -> Result<(), Denied> {
    match change {
        // A write into a new time range or with a new field brings these about.
        Change::CreateGroups { .. } | Change::RegisterFields { .. } => role(identity, Role::Write),
        Change::CreateDatabase { .. }
        | Change::DropDatabase { .. }
        | Change::LeaveNode { .. }
        | Change::SetVoting { .. }
        | Change::SetZone { .. }
        | Change::CreatePolicy { .. }
        | Change::AlterPolicy { .. }
        | Change::DropPolicy { .. }
        | Change::SetDefaultPolicy { .. }
        | Change::TruncateGroups { .. }
        | Change::DeleteGroup { .. } => role(identity, Role::Admin),
        // What nodes say of themselves and of time, and whatever later versions add.
        _ => role(identity, Role::Node),
    }
}

fn role(identity: &Identity, role: Role) -> Result<(), Denied> {
    if identity.permits(role) {
        Ok(())
    } else if role == Role::Node {
        Err(Denied::NodesOnly)
    } else {
        Err(Denied::Role(role))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_certs::Roles;
    use quorate_protocol::{
        id::{MetaIndex, NodeId, PolicyId, ShardId, Version},
        message::HintAction,
    };

    use super::*;

    fn frame(message: &impl Message) -> Frame {
        Frame::new(1, message, Bytes::new()).unwrap()
    }

    fn propose(change: Change) -> Frame {
        let propose = Propose { deadline_ms: 1, forwarded: false, after: MetaIndex(0) };
        Frame::new(1, &propose, change.encode().unwrap()).unwrap()
    }

    /// An op that somebody adds and forgets here would be refused from everybody.
    #[test]
    fn every_op_is_in_the_table() {
        let node = Identity::node("c", "n").unwrap();
        let empty = |op| Frame { op, ..frame(&Ping {}) };
        let known = (0..=u16::MAX)
            .filter(|op| !matches!(allowed(&empty(*op), &node), Err(Denied::Unknown(_))));
        let listed = [
            0x0002, 0x0010, 0x0011, 0x0012, 0x0013, 0x0014, 0x0020, 0x0021, 0x0022, 0x0023, 0x0030,
            0x0031, 0x0032, 0x0033, 0x0034, 0x0036, 0x0040, 0x0041, 0x0042, 0x0050, 0x0051, 0x0052,
            0x0053, 0x0054, 0x0055,
        ];
        assert!(known.eq(listed));
    }

    #[test]
    fn each_role_gets_its_ops_and_no_others() {
        let client = |role: Role| Identity::client("c", "n", Roles::from_iter([role])).unwrap();
        let who = [
            client(Role::Read),
            client(Role::Write),
            client(Role::Admin),
            Identity::node("c", "n").unwrap(),
        ];
        let (get, watch) =
            (frame(&MetaGet { after: MetaIndex(0) }), frame(&MetaWatch { after: MetaIndex(0) }));
        let status = frame(&Status {});
        let shard = (ShardId(1), MetaIndex(0));
        let digest = frame(&Digest {
            shard: shard.0,
            meta_index: shard.1,
            from: 0,
            to: 1,
            bucket: 0,
            up_to: Version(0),
        });
        let follow = frame(&Follow { meta_index: shard.1, shards: vec![] });
        let verify = frame(&Verify { shard: shard.0, meta_index: shard.1 });
        let target = NodeId(1);
        let hints = frame(&Hints { target, quarantined: false, content: true, limit: 0 });
        let retry =
            frame(&HintsDo { target, action: HintAction::Retry, shard: None, force_any: false });
        let groups = propose(Change::CreateGroups { policy: PolicyId(1), times: vec![] });
        let drop = propose(Change::DropDatabase { name: "d".into() });
        let leave = propose(Change::LeaveNode { node: target });
        let end = propose(Change::TruncateGroups { database: "d".into(), name: "p".into(), at: 0 });
        let consent = propose(Change::ConsentGroups { node: target, groups: vec![] });
        let update = propose(Change::UpdateNode { node: target, addr: String::new(), zone: None });
        let raft = frame(&RaftVote {});
        for (request, expected) in [
            (&frame(&Ping {}), [true, true, true, true]),
            (&get, [true, true, true, true]),
            (&watch, [true, true, true, true]),
            (&status, [true, true, true, true]),
            (&frame(&Survey { deadline_ms: 1, forwarded: true }), [true, true, true, true]),
            (&digest, [true, false, true, true]),
            (&follow, [true, false, true, true]),
            (&verify, [false, false, true, true]),
            (&frame(&Shards {}), [true, true, true, true]),
            (&hints, [true, false, true, true]),
            (&retry, [false, false, true, true]),
            (&frame(&Marks {}), [true, true, true, true]),
            (&frame(&HintsVerify {}), [false, false, true, true]),
            (&groups, [false, true, true, true]),
            (&drop, [false, false, true, true]),
            (&leave, [false, false, true, true]),
            (&end, [false, false, true, true]),
            (&consent, [false, false, false, true]),
            (&update, [false, false, false, true]),
            (&raft, [false, false, false, true]),
        ] {
            let found = who.each_ref().map(|who| allowed(request, who).is_ok());
            assert_eq!(found, expected, "{request:?}");
        }
        let garbage = Frame { payload: Bytes::from_static(&[0xff; 3]), ..drop.clone() };
        assert!(matches!(allowed(&garbage, &who[3]), Err(Denied::Body(_))));
        let unknown = Frame { op: 0x7777, ..drop };
        assert!(matches!(allowed(&unknown, &who[3]), Err(Denied::Unknown(0x7777))));
    }
}
