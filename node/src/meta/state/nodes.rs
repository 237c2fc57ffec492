//! Members come, move and leave.
//!
//! Invariant: a node's id, name and instance belong together for ever; an id or name is never given
//! to another disk. A wiped disk therefore needs a new name, which gets a new id.

use quorate_protocol::{
    change::Outcome,
    code::Code,
    id::NodeId,
    map::{ClusterMap, Node, NodeState},
};

use super::{Refusal, check_name, refuse, take_id, truncate};

pub(super) fn add(
    map: &mut ClusterMap,
    name: &str,
    addr: &str,
    zone: Option<&str>,
    instance: u128,
) -> Result<Outcome, Refusal> {
    check_name("node", name)?;
    check_place(addr, zone)?;
    if let Some(known) = map.nodes.iter_mut().find(|node| node.name == name) {
        if !known.is_member() {
            return Err(refuse(
                Code::AlreadyExists,
                format!("node {name} has left: join with a new name and an empty directory"),
            ));
        }
        if known.instance != instance {
            return Err(refuse(
                Code::AlreadyExists,
                format!(
                    "node {name} has another data directory: a wiped disk is a new node, join \
                     with a new name and certificate"
                ),
            ));
        }
        place(known, addr, zone);
        return Ok(Outcome::Node(known.id));
    }
    let id = NodeId(take_id!(map.next.node)?);
    map.nodes.push(Node {
        id,
        name: name.to_owned(),
        addr: addr.to_owned(),
        zone: zone.map(str::to_owned),
        state: NodeState::Active,
        instance,
    });
    Ok(Outcome::Node(id))
}

pub(super) fn update(
    map: &mut ClusterMap,
    id: NodeId,
    addr: &str,
    zone: Option<&str>,
) -> Result<Outcome, Refusal> {
    check_place(addr, zone)?;
    place(active(map, id)?, addr, zone);
    Ok(Outcome::Done)
}

/// A node that owns a live shard may not leave: its copies would be lost without anybody saying so.
pub(super) fn remove(map: &mut ClusterMap, id: NodeId) -> Result<Outcome, Refusal> {
    match map.node(id) {
        None => return Err(not_found(id)),
        Some(node) if node.state == NodeState::Removed => return Ok(Outcome::Done),
        Some(_) => {}
    }
    if map.shards().any(|place| place.shard.owners.contains(&id)) {
        return Err(refuse(
            Code::Invalid,
            format!("node {id} owns shards: move or drop them first"),
        ));
    }
    if map.active_nodes().count() == 1 {
        return Err(refuse(Code::Invalid, "the last node cannot leave"));
    }
    active(map, id)?.state = NodeState::Removed;
    truncate::gone(map, id);
    Ok(Outcome::Done)
}

/// Whether a member may vote. One at least must: without a voter nothing could ever change again.
pub(super) fn set_voting(
    map: &mut ClusterMap,
    id: NodeId,
    votes: bool,
) -> Result<Outcome, Refusal> {
    if !votes {
        keep_a_voter(map, id)?;
    }
    active(map, id)?.state = if votes { NodeState::Active } else { NodeState::NonVoter };
    Ok(Outcome::Done)
}

/// Refuses what would take the vote from the last node that may have one.
pub(super) fn keep_a_voter(map: &ClusterMap, without: NodeId) -> Result<(), Refusal> {
    let mut others = map.nodes.iter().filter(|node| node.id != without);
    if others.any(|node| node.state == NodeState::Active) {
        return Ok(());
    }
    Err(refuse(Code::Invalid, "no other node may vote on metadata: promote one first"))
}

pub(super) fn set_zone(
    map: &mut ClusterMap,
    id: NodeId,
    zone: Option<&str>,
) -> Result<Outcome, Refusal> {
    if let Some(zone) = zone {
        check_name("zone", zone)?;
    }
    active(map, id)?.zone = zone.map(str::to_owned);
    Ok(Outcome::Done)
}

pub(super) fn active(map: &mut ClusterMap, id: NodeId) -> Result<&mut Node, Refusal> {
    map.nodes.iter_mut().find(|node| node.id == id && node.is_member()).ok_or_else(|| not_found(id))
}

pub(super) fn not_found(id: NodeId) -> Refusal {
    refuse(Code::NodeNotFound, format!("no member has id {id}"))
}

fn place(node: &mut Node, addr: &str, zone: Option<&str>) {
    addr.clone_into(&mut node.addr);
    node.zone = zone.map(str::to_owned);
}

fn check_place(addr: &str, zone: Option<&str>) -> Result<(), Refusal> {
    let valid = addr.len() <= 255
        && addr.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
    if !valid {
        return Err(refuse(Code::Invalid, "node address must be HOST:PORT, at most 255 bytes"));
    }
    match zone {
        Some(zone) => check_name("zone", zone),
        None => Ok(()),
    }
}
