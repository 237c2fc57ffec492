//! Databases and their first policies.
//!
//! Invariant: a name stands for one database at a time; ids are never given twice, so a database
//! made again under its old name shares nothing with the dropped one.

use quorate_protocol::{
    change::{Outcome, PolicySpec},
    code::Code,
    id::{DatabaseId, PolicyId},
    map::{ClusterMap, Database, Policy},
    placement,
};

use super::{Refusal, check_name, refuse, take_id};

/// Name of a policy whose spec has none.
const DEFAULT_POLICY: &str = "default";

/// Copies of a policy whose spec names no number.
const DEFAULT_REPLICATION: u32 = 3;

/// Shortest duration of a policy and of a group, in ns: one minute. Shorter groups would be more
/// metadata than data.
const MIN_DURATION: u64 = 60_000_000_000;

/// Longest duration of a policy and of a group, in ns, so that times minus durations fit.
const MAX_DURATION: u64 = i64::MAX as u64;

pub(super) fn create(
    map: &mut ClusterMap,
    name: &str,
    spec: &PolicySpec,
) -> Result<Outcome, Refusal> {
    check_name("database", name)?;
    let spec = normal(spec)?;
    if let Some(database) = map.database_named(name) {
        let same = database
            .policy(database.default_policy)
            .is_some_and(|policy| is_as_specified(policy, &spec));
        if same {
            return Ok(Outcome::Database(database.id));
        }
        return Err(refuse(
            Code::AlreadyExists,
            format!("database {name} exists with another policy"),
        ));
    }
    let mut ids = map.next;
    let policy = PolicyId(take_id!(ids.policy)?);
    let id = DatabaseId(take_id!(ids.database)?);
    map.next = ids;
    map.databases.push(Database {
        id,
        name: name.to_owned(),
        default_policy: policy,
        policies: vec![Policy {
            id: policy,
            name: spec.name,
            duration: spec.duration,
            group_duration: spec.group_duration,
            replication: spec.replication,
            groups: Vec::new(),
        }],
        measurements: Vec::new(),
    });
    Ok(Outcome::Database(id))
}

pub(super) fn drop(map: &mut ClusterMap, name: &str) -> Result<Outcome, Refusal> {
    let before = map.databases.len();
    map.databases.retain(|database| database.name != name);
    if map.databases.len() == before {
        return Err(refuse(Code::DatabaseNotFound, "no database has this name"));
    }
    Ok(Outcome::Done)
}

/// The spec with defaults filled in, if it is valid.
fn normal(spec: &PolicySpec) -> Result<PolicySpec, Refusal> {
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

fn is_as_specified(policy: &Policy, spec: &PolicySpec) -> bool {
    policy.name == spec.name
        && policy.duration == spec.duration
        && policy.group_duration == spec.group_duration
        && policy.replication == spec.replication
}
