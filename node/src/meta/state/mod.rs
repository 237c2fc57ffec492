//! What a command does to the cluster map.
//!
//! Invariant: [`apply`] is a pure, total function of the map, the index and the command: the same on
//! every node, never a panic, and a refusal changes nothing but the index. The state machine calls
//! it; nothing else changes a map. The limits here are part of the state machine, not settings: all
//! nodes must agree on them.

mod databases;
mod fields;
mod grants;
mod groups;
mod leave;
mod nodes;
mod policies;
mod truncate;

#[cfg(test)]
mod tests;

use quorate_protocol::{
    change::{Change, Outcome},
    code::Code,
    id::{ClusterId, MetaIndex},
    map::ClusterMap,
};

use super::command::Command;

/// Applies the command at `index`. The map's index becomes `index` whatever the outcome, so that
/// whoever proposed it can wait for it.
pub(super) fn apply(map: &mut ClusterMap, index: u64, command: &Command) -> Outcome {
    let outcome = change(map, index, command).unwrap_or_else(Refusal::into_outcome);
    map.index = MetaIndex(index);
    outcome
}

fn change(map: &mut ClusterMap, index: u64, command: &Command) -> Result<Outcome, Refusal> {
    let Command { at_ns, change } = command;
    if let Change::Bootstrap { cluster, name } = change {
        return bootstrap(map, *cluster, name);
    }
    if map.cluster == ClusterId(0) {
        return Err(refuse(Code::NotReady, "the cluster is not bootstrapped"));
    }
    match change {
        Change::AddNode { name, addr, zone, instance } => {
            nodes::add(map, name, addr, zone.as_deref(), *instance)
        }
        Change::UpdateNode { node, addr, zone } => nodes::update(map, *node, addr, zone.as_deref()),
        Change::RemoveNode { node } => nodes::remove(map, *node),
        Change::LeaveNode { node } => leave::leave(map, *node),
        Change::SetVoting { node, votes } => nodes::set_voting(map, *node, *votes),
        Change::SetZone { node, zone } => nodes::set_zone(map, *node, zone.as_deref()),
        Change::CreateDatabase { name, policy } => databases::create(map, name, policy),
        Change::DropDatabase { name } => databases::drop(map, name),
        Change::CreateGroups { policy, times } => groups::create(map, index, *policy, times),
        Change::RegisterFields { database, fields } => fields::register(map, *database, fields),
        Change::CreatePolicy { database, policy, default } => {
            policies::create(map, database, policy, *default)
        }
        Change::AlterPolicy { database, name, change } => {
            policies::alter(map, database, name, change)
        }
        Change::DropPolicy { database, name } => policies::drop(map, database, name),
        Change::SetDefaultPolicy { database, name } => policies::set_default(map, database, name),
        Change::PrecreateGroups { wanted } => groups::precreate(map, index, wanted),
        Change::ExpireGroups { grace_ns } => groups::expire(map, *at_ns, *grace_ns),
        Change::TruncateGroups { database, name, at } => {
            truncate::begin(map, index, *at_ns, (database, name), *at)
        }
        Change::ConsentGroups { node, groups } => truncate::consent(map, *at_ns, *node, groups),
        Change::ReopenGroups { older_ns } => truncate::reopen(map, *at_ns, *older_ns),
        Change::DeleteGroup { group } => groups::delete(map, *group, *at_ns),
        Change::PruneTombstones { keep_ns } => groups::prune(map, *at_ns, *keep_ns),
        Change::Grant { client, database, access } => {
            grants::grant(map, client, database.as_deref(), *access)
        }
        Change::Revoke { client, scope, access } => grants::revoke(map, client, scope, *access),
        Change::ForgetGrants { client } => grants::forget(map, client),
        // The log's decoder stops at variants it does not know, so this is a variant that was
        // added to the protocol and forgotten here.
        _ => Err(refuse(Code::Unsupported, "change is not implemented")),
    }
}

fn bootstrap(map: &mut ClusterMap, cluster: ClusterId, name: &str) -> Result<Outcome, Refusal> {
    if map.cluster == cluster && map.name == name && cluster != ClusterId(0) {
        return Ok(Outcome::Done);
    }
    if map.cluster != ClusterId(0) {
        return Err(refuse(Code::AlreadyExists, "bootstrapped already"));
    }
    if cluster == ClusterId(0) {
        return Err(refuse(Code::Invalid, "cluster id 0"));
    }
    map.cluster = cluster;
    name.clone_into(&mut map.name);
    Ok(Outcome::Done)
}

/// Why a change was refused.
struct Refusal {
    code: Code,
    detail: String,
}

impl Refusal {
    fn into_outcome(self) -> Outcome {
        Outcome::Refused { code: self.code, detail: self.detail }
    }
}

fn refuse(code: Code, detail: impl Into<String>) -> Refusal {
    Refusal { code, detail: detail.into() }
}

/// Refuses names other than 1 to 64 of `A-Z a-z 0-9 . _ -`.
fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(refuse(Code::Invalid, format!("{what} name must be 1 to 64 of A-Z a-z 0-9 . _ -")))
}

/// Takes the next id of a kind, or refuses when there is none left.
macro_rules! take_id {
    ($next:expr) => {{
        let id = $next;
        match id.checked_add(1) {
            Some(after) => {
                $next = after;
                Ok(id)
            }
            None => Err($crate::meta::state::refuse(
                quorate_protocol::code::Code::LimitExceeded,
                "no ids left",
            )),
        }
    }};
}
use take_id;
