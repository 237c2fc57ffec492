//! Retention policies of a database.
//!
//! Invariant: a change of a policy never touches a group that exists: bounds, shards and owners stay,
//! and only groups made afterwards follow the policy as it is then. So points that are on their way
//! while a policy changes are filed where they belong. A database always has its default policy.

use std::sync::Arc;

use quorate_protocol::{
    change::{Outcome, PolicyChange, PolicySpec},
    code::Code,
    id::PolicyId,
    map::{ClusterMap, Database, Policy},
    placement,
};

use super::{Refusal, check_name, refuse, take_id};

/// Name of a policy whose spec has none.
const DEFAULT_POLICY: &str = "default";

/// Copies of a policy whose spec names no number.
const DEFAULT_REPLICATION: u32 = 3;

/// Policies that one database may have.
const MAX_POLICIES: usize = 100;

/// Shortest duration of a policy and of a group, in ns: one minute. Shorter groups would be more
/// metadata than data.
const MIN_DURATION: u64 = 60_000_000_000;

/// Longest duration of a policy and of a group, in ns, so that times minus durations fit.
const MAX_DURATION: u64 = i64::MAX as u64;

pub(super) fn create(
    map: &mut ClusterMap,
    database: &str,
    spec: &PolicySpec,
    default: bool,
) -> Result<Outcome, Refusal> {
    let spec = normal(spec)?;
    let mut ids = map.next;
    let database = find(map, database)?;
    let known = database.policies.iter().find(|policy| policy.name == spec.name);
    let id = match known {
        Some(known) if is_as_specified(known, &spec) => known.id,
        Some(known) => {
            return Err(refuse(
                Code::AlreadyExists,
                format!("policy {} exists with other settings: alter it", known.name),
            ));
        }
        None if database.policies.len() >= MAX_POLICIES => {
            let detail = format!("a database may have {MAX_POLICIES} policies");
            return Err(refuse(Code::LimitExceeded, detail));
        }
        None => {
            let id = PolicyId(take_id!(ids.policy)?);
            database.policies.push(Arc::new(new(id, spec)));
            id
        }
    };
    if default {
        database.default_policy = id;
    }
    map.next = ids;
    Ok(Outcome::Done)
}

/// Changes what is given; the rest stays. Groups get the length that goes with a new duration where
/// the one they had would be longer than that.
pub(super) fn alter(
    map: &mut ClusterMap,
    database: &str,
    name: &str,
    change: &PolicyChange,
) -> Result<Outcome, Refusal> {
    let database = find(map, database)?;
    let id = policy(database, name)?.id;
    let policy = database.policy_mut(id).ok_or_else(no_policy)?;
    let duration = change.duration.unwrap_or(policy.duration);
    let fits = duration == 0 || policy.group_duration <= duration;
    let kept = if fits { policy.group_duration } else { 0 };
    let spec = normal(&PolicySpec {
        name: policy.name.clone(),
        duration,
        group_duration: change.group_duration.unwrap_or(kept),
        replication: change.replication.unwrap_or(policy.replication),
    })?;
    policy.duration = spec.duration;
    policy.group_duration = spec.group_duration;
    policy.replication = spec.replication;
    Ok(Outcome::Done)
}

pub(super) fn drop(map: &mut ClusterMap, database: &str, name: &str) -> Result<Outcome, Refusal> {
    let database = find(map, database)?;
    let id = policy(database, name)?.id;
    if id == database.default_policy {
        let detail = format!("{name} is the default policy: make another the default first");
        return Err(refuse(Code::Invalid, detail));
    }
    database.policies.retain(|policy| policy.id != id);
    Ok(Outcome::Done)
}

pub(super) fn set_default(
    map: &mut ClusterMap,
    database: &str,
    name: &str,
) -> Result<Outcome, Refusal> {
    let database = find(map, database)?;
    database.default_policy = policy(database, name)?.id;
    Ok(Outcome::Done)
}

/// A policy without groups.
pub(super) fn new(id: PolicyId, spec: PolicySpec) -> Policy {
    Policy {
        id,
        name: spec.name,
        duration: spec.duration,
        group_duration: spec.group_duration,
        replication: spec.replication,
        groups: Vec::new(),
        deleted: Vec::new(),
    }
}

/// The spec with defaults filled in, if it is valid.
pub(super) fn normal(spec: &PolicySpec) -> Result<PolicySpec, Refusal> {
    let name = if spec.name.is_empty() { DEFAULT_POLICY } else { &spec.name };
    check_name("policy", name)?;
    let valid = MIN_DURATION..=MAX_DURATION;
    if spec.duration != 0 && !valid.contains(&spec.duration) {
        return Err(refuse(
            Code::Invalid,
            "retention must be at least a minute and at most 292 years, or 0 for ever",
        ));
    }
    let group_duration = match spec.group_duration {
        0 => placement::default_group_duration(spec.duration),
        given if !valid.contains(&given) => {
            return Err(refuse(
                Code::Invalid,
                "shard group duration must be at least a minute and at most 292 years",
            ));
        }
        given if spec.duration != 0 && given > spec.duration => {
            return Err(refuse(
                Code::Invalid,
                "shard group duration must not be longer than the retention",
            ));
        }
        given => given,
    };
    Ok(PolicySpec {
        name: name.to_owned(),
        duration: spec.duration,
        group_duration,
        replication: match spec.replication {
            0 => DEFAULT_REPLICATION,
            given => given,
        },
    })
}

pub(super) fn is_as_specified(policy: &Policy, spec: &PolicySpec) -> bool {
    policy.name == spec.name
        && policy.duration == spec.duration
        && policy.group_duration == spec.group_duration
        && policy.replication == spec.replication
}

pub(super) fn find<'a>(map: &'a mut ClusterMap, name: &str) -> Result<&'a mut Database, Refusal> {
    let id = map.database_named(name).map(|database| database.id);
    id.and_then(|id| map.database_mut(id))
        .ok_or_else(|| refuse(Code::DatabaseNotFound, "no database has this name"))
}

pub(super) fn policy<'a>(database: &'a Database, name: &str) -> Result<&'a Policy, Refusal> {
    database.policy_named(Some(name)).ok_or_else(no_policy)
}

pub(super) fn no_policy() -> Refusal {
    refuse(Code::PolicyNotFound, "no policy of this database has this name")
}
