//! With which others a point travels.
//!
//! Pure. Invariant: a key is only a grouping, since each batch is routed again when it is written; but
//! points that need nothing from metadata never share a batch with points that do, so that they do not
//! wait for it, and points of different missing groups share none, so that no batch needs too many.

use quorate_protocol::{
    id::ShardId,
    map::{Database, Policy},
    placement::group_bounds,
    point::{Point, key},
};

/// What the points of a batch have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// They go to this shard.
    Shard(ShardId),
    /// They go to this shard and have fields that metadata does not know.
    Fields(ShardId),
    /// They need a group that begins here, in ns.
    Group(i64),
    /// Their database or policy is not known.
    Unknown,
}

impl Key {
    /// Whether nothing is needed of metadata.
    pub(super) const fn is_known(self) -> bool {
        matches!(self, Self::Shard(_))
    }

    /// The key of a point whose series has this hash.
    pub(super) fn of(database: &Database, policy: &Policy, point: &Point, hash: u64) -> Self {
        let Some(group) = policy.group_at(point.time()) else {
            return Self::Group(group_bounds(point.time(), policy.group_duration).0);
        };
        let Some(shard) = group.shard_for(hash) else { return Self::Unknown };
        let name = key::unescape_measurement(key::measurement_of(point.key()));
        let known = database.measurement(&name);
        let is_known = |field: &[u8]| known.is_some_and(|known| known.field(field).is_some());
        if point.fields().iter().all(|(field, _)| is_known(field)) {
            Self::Shard(shard.id)
        } else {
            Self::Fields(shard.id)
        }
    }
}
