//! `quorate node-ctl leave`: a node that runs leaves for good.
//!
//! Order: its hints go to others first, while it still is a member; then one command takes it out of
//! the owners and the members; what hints came in between it hands on by itself before it stops.

use std::time::Duration;

use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{change::Change, id::NodeId, map::ClusterMap, message::MarkInfo};
use serde_json::json;

use crate::cli::{
    connect::Connect, export::node_id, fail::Fail, output::Output, survey::PATIENCE, table::grouped,
};

const ABOUT: &str = "\
The node gives the hints it keeps to other nodes, then every shard goes on with its other owners, and
the node stops by itself and stays down:
  quorate node-ctl leave n3

Refused if a shard has no other owner; and, without --yes, if the node notes that another owner lacks
something that it may be the only one to have. Owners that are missing are not made up for: replication is
lower by one for what was written so far. For a node that is dead: 'quorate node-ctl remove'.
Needs a certificate with role admin.";

/// Let a running node leave the cluster for good
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Leave {
    /// Who leaves: the name or id of a node
    #[arg(value_name = "NODE")]
    node: String,
    /// Leave also if other owners may lack something that only this node has
    #[arg(long)]
    yes: bool,
    /// How long handing the hints on may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u32,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Leave, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let left = leave(&client, &args).await;
    client.close().await;
    let (node, moved) = left?;
    let mut out = Output::new();
    if args.connect.json {
        out.json(&json!({ "left": node, "moved": moved }))?;
    } else {
        let moved = grouped(moved);
        out.line(&format!("node {} has left; {moved} hints handed on; it stops now", args.node))?;
    }
    out.flush()
}

async fn leave(client: &Client, args: &Leave) -> Result<(NodeId, u64), Fail> {
    let map = client.map();
    let node = node_id(&map, &args.node)?;
    // Told before any hint is moved; decided when it is applied.
    let only = map.sole_shards(node).count();
    if only > 0 {
        return Err(Fail::failed(format!(
            "node {} is the only owner of {only} shards; move or drop them first, 'quorate shard ls' \
             lists them",
            args.node
        )));
    }
    let down = |error: quorate_client::Error| {
        Fail::failed(format!(
            "{error}; a node must be up to leave, one that is dead is removed with 'quorate node-ctl \
             remove'"
        ))
    };
    let marks = client.marks(node, PATIENCE).await.map_err(down)?;
    let lacking = lacking(&map, node, &marks);
    if lacking > 0 && !args.yes {
        return Err(Fail::failed(format!(
            "{} may be the only one to have {lacking} ranges that other owners lack, 'quorate hints ls \
             --marks' lists them; say --yes to let it leave all the same",
            args.node
        )));
    }
    let timeout = Duration::from_secs(args.timeout.into());
    let handed = client.hand_on(node, timeout).await.map_err(down)?;
    if handed.pending > 0 {
        return Err(Fail::failed(format!(
            "{} hints are still on {}; bring more nodes up and run this again",
            grouped(handed.pending),
            args.node
        )));
    }
    client.change(Change::LeaveNode { node }).await?;
    Ok((node, handed.moved))
}

/// How many of a node's marks are about what another owner lacks of a shard that both have.
fn lacking(map: &ClusterMap, node: NodeId, marks: &[MarkInfo]) -> usize {
    let counts = |mark: &&MarkInfo| {
        map.shard(mark.shard).is_some_and(|place| {
            let owners = &place.shard.owners;
            mark.owner != node && owners.contains(&node) && owners.contains(&mark.owner)
        })
    };
    marks.iter().filter(counts).count()
}

#[cfg(test)]
mod tests {
    use quorate_protocol::{
        id::{DatabaseId, Epoch, GroupId, PolicyId, ShardId},
        map::{Database, Group, Policy, Shard},
    };

    use super::*;

    #[test]
    fn only_marks_of_shards_that_both_own_hold_a_node_back() {
        let owners = vec![NodeId(1), NodeId(2)];
        let shard = Shard { id: ShardId(4), epoch: Epoch(1), owners };
        let (id, shards) = (GroupId(1), vec![shard]);
        let group = Group { id, start: 0, end: 1, shards, truncation: None };
        let policy = Policy {
            id: PolicyId(1),
            name: "p".to_owned(),
            duration: 0,
            group_duration: 1,
            replication: 2,
            groups: vec![group.into()],
            deleted: Vec::new(),
        };
        let database = Database {
            id: DatabaseId(1),
            name: "d".to_owned(),
            default_policy: policy.id,
            policies: vec![policy.into()],
            measurements: Vec::new(),
        };
        let map = ClusterMap { databases: vec![database.into()], ..ClusterMap::default() };
        let mark = |shard, owner| MarkInfo {
            shard: ShardId(shard),
            owner: NodeId(owner),
            reason: 0,
            from: 0,
            to: 1,
        };
        let count = |node, marks: &[MarkInfo]| lacking(&map, NodeId(node), marks);
        assert_eq!(count(1, &[mark(4, 2)]), 1);
        assert_eq!(count(1, &[mark(4, 1)]), 0, "about itself");
        assert_eq!(count(1, &[mark(9, 2)]), 0, "of a shard that is gone");
        assert_eq!(count(1, &[mark(4, 3)]), 0, "about a node that has left");
        assert_eq!(count(3, &[mark(4, 2)]), 0, "of a shard that it does not own");
    }
}
