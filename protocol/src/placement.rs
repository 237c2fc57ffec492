//! Where points go: bounds of shard groups, number of shards, owners.
//!
//! Pure functions of the map's state at one log index, so that every node computes the same. The
//! arithmetic of group starts is Go's `time.Truncate`, counted from 0001-01-01 00:00 UTC.

use crate::id::NodeId;

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// Seconds from 0001-01-01 00:00 UTC to the Unix epoch.
const YEAR_ONE_TO_UNIX: i128 = 62_135_596_800;

/// Bounds `[start, end)` of the group that a policy with this group duration (ns, not 0) gives to
/// `time`, clamped to the range of times.
#[must_use]
pub fn group_bounds(time: i64, group_duration: u64) -> (i64, i64) {
    let duration = i128::from(group_duration.max(1));
    let time = i128::from(time);
    let since_year_one = time + YEAR_ONE_TO_UNIX * i128::from(SECOND);
    let start = time - since_year_one.rem_euclid(duration);
    (clamp(start), clamp(start + duration))
}

fn clamp(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}

/// The default group duration of a policy that keeps points for `duration` ns (0 = for ever).
#[must_use]
pub const fn default_group_duration(duration: u64) -> u64 {
    if duration == 0 || duration >= 180 * DAY {
        7 * DAY
    } else if duration >= 2 * DAY {
        DAY
    } else {
        HOUR
    }
}

/// Copies of a shard that `nodes` nodes can keep.
#[must_use]
pub fn replicas(replication: u32, nodes: usize) -> usize {
    (replication.max(1) as usize).min(nodes)
}

/// The smallest number of shards that leaves no node idle and gives each the same number.
#[must_use]
pub fn shard_count(replicas: usize, nodes: usize) -> usize {
    if replicas == 0 {
        return 0;
    }
    (1..=nodes)
        .find(|n| n * replicas >= nodes && (n * replicas).is_multiple_of(nodes))
        .unwrap_or(nodes)
}

/// Owners of each shard of a new group. `nodes` are the active members in order of id with their
/// zones; `offset` is the log index, so that groups start their round at different nodes. Where
/// any node names a zone, spreading a shard over zones comes before balance.
#[must_use]
pub fn owners(nodes: &[(NodeId, Option<&str>)], replication: u32, offset: u64) -> Vec<Vec<NodeId>> {
    let count = nodes.len();
    if count == 0 {
        return Vec::new();
    }
    let replicas = replicas(replication, count);
    let first = usize::try_from(offset % count as u64).unwrap_or(0);
    let mut load = vec![0usize; count];
    (0..shard_count(replicas, count))
        .map(|shard| {
            let start = first + shard * replicas;
            let mut chosen: Vec<usize> = Vec::with_capacity(replicas);
            while chosen.len() < replicas {
                let in_zone = |node: usize| {
                    chosen.iter().filter(|c| same_zone(nodes[**c].1, nodes[node].1)).count()
                };
                let best = (0..count)
                    .map(|step| (start + chosen.len() + step) % count)
                    .filter(|node| !chosen.contains(node))
                    .min_by_key(|node| (in_zone(*node), load[*node]));
                // `replicas <= count`, so there is always a node that was not chosen.
                let Some(node) = best else { break };
                load[node] += 1;
                chosen.push(node);
            }
            chosen.into_iter().map(|node| nodes[node].0).collect()
        })
        .collect()
}

/// A node without a zone is a failure domain of its own.
fn same_zone(a: Option<&str>, b: Option<&str>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_node_is_idle_and_all_carry_the_same(count in 1usize..12, replication in 0u32..6, offset: u64) {
            let nodes: Vec<_> = (1..=count as u64).map(|id| (NodeId(id), None)).collect();
            let shards = owners(&nodes, replication, offset);
            let mut load = vec![0; count + 1];
            for owners in &shards {
                let mut unique = owners.clone();
                unique.sort();
                unique.dedup();
                prop_assert_eq!(unique.len(), replicas(replication, count));
                owners.iter().for_each(|owner| load[owner.0 as usize] += 1);
            }
            prop_assert!(load[1..].iter().all(|l| *l == load[1] && *l > 0));
        }

        #[test]
        fn replicas_are_spread_over_zones(zones in prop::collection::vec(0u8..4, 1..9), replication in 1u32..4, offset: u64) {
            let names: Vec<String> = zones.iter().map(|zone| format!("z{zone}")).collect();
            let nodes: Vec<_> =
                names.iter().enumerate().map(|(i, zone)| (NodeId(i as u64 + 1), Some(zone.as_str()))).collect();
            let mut all = zones.clone();
            all.sort_unstable();
            all.dedup();
            for owners in owners(&nodes, replication, offset) {
                let mut used: Vec<u8> = owners.iter().map(|owner| zones[owner.0 as usize - 1]).collect();
                used.sort_unstable();
                used.dedup();
                prop_assert_eq!(used.len(), owners.len().min(all.len()));
            }
        }

        #[test]
        fn bounds_contain_their_time(time in i64::MIN + 1..i64::MAX, duration in 1u64..u64::MAX) {
            let (start, end) = group_bounds(time, duration);
            prop_assert!(start <= time && time < end);
            prop_assert_eq!(group_bounds(start.max(i64::MIN + 1), duration).1, end);
        }
    }
}
