//! All lanes of a writer, and the order between them.
//!
//! Invariant: of two points of one series and time, the one that is added later gets the higher version, in
//! whatever lanes they travel. A batch has its version from its beginning on. Points of one place share a
//! lane as long as the policy stays as it is and both need metadata or neither does; where that changes,
//! batches that have begun take no more points. Behind the writer's lock.

use std::{collections::HashMap, sync::Arc};

use quorate_protocol::{
    map::{ClusterMap, Policy},
    point::Point,
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    key::Key,
    lane::Lane,
    send::{Place, Points},
};

/// A batch that may go.
pub(super) type Job = (Place, Points);

#[derive(Default)]
pub(super) struct State {
    lanes: HashMap<Key, Lane<Points>>,
    /// Tells when each batch has ended.
    ends: HashMap<(Key, u64), CancellationToken>,
    /// What points are grouped by at present.
    policy: Option<Arc<Policy>>,
    pub(super) closed: bool,
}

impl State {
    /// The key of a point by this map.
    pub(super) fn key(
        &mut self,
        map: &ClusterMap,
        database: &str,
        policy: Option<&str>,
        point: &Point,
        hash: u64,
    ) -> Key {
        let database = map.database_named(database);
        let policy = database.and_then(|known| known.shared_policy(policy));
        let same = match (&self.policy, policy) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.lanes.values_mut().for_each(Lane::freeze);
            self.policy = policy.cloned();
        }
        let both = database.zip(policy);
        both.map_or(Key::Unknown, |(database, policy)| Key::of(database, policy, point, hash))
    }

    /// The batch that takes a point with this key, and its number if it has just begun; `new` makes one.
    pub(super) fn fill(
        &mut self,
        key: Key,
        new: impl FnOnce() -> Points,
    ) -> (&mut Points, Option<u64>) {
        let begins = self.lanes.get(&key).is_none_or(|lane| !lane.is_filling(None));
        if begins {
            let others = self.lanes.iter_mut().filter(|(of, _)| of.is_known() != key.is_known());
            others.for_each(|(_, lane)| lane.freeze());
        }
        let (points, begun) = self.lanes.entry(key).or_default().fill(new);
        if let Some(number) = begun {
            self.ends.insert((key, number), CancellationToken::new());
        }
        (points, begun)
    }

    /// A point was added: the batch is full at `max_rows`.
    pub(super) fn filled(&mut self, key: Key, max_rows: usize) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.filled(max_rows);
        }
    }

    /// Whether this batch waits for others.
    pub(super) fn is_filling(&self, key: Key, number: u64) -> bool {
        self.lanes.get(&key).is_some_and(|lane| lane.is_filling(Some(number)))
    }

    /// A batch has waited long enough.
    pub(super) fn due(&mut self, key: Key, number: u64) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.due(Some(number));
        }
    }

    /// What of a lane may go now.
    #[must_use]
    pub(super) fn send(&mut self, shared: &Arc<Shared>, key: Key) -> Vec<Job> {
        let Some(lane) = self.lanes.get_mut(&key) else { return Vec::new() };
        let next = || lane.send(shared.config.in_flight);
        let place = |number| Place::new(Arc::clone(shared), key, number);
        std::iter::from_fn(next).map(|(number, points)| (place(number), points)).collect()
    }

    /// Everything that is waiting is due; what of it may go now.
    #[must_use]
    pub(super) fn send_all(&mut self, shared: &Arc<Shared>) -> Vec<Job> {
        self.lanes.values_mut().for_each(|lane| lane.due(None));
        let keys: Vec<Key> = self.lanes.keys().copied().collect();
        keys.into_iter().flat_map(|key| self.send(shared, key)).collect()
    }

    /// A batch has come to its end; what may go now in its place.
    #[must_use]
    pub(super) fn sent(&mut self, shared: &Arc<Shared>, key: Key, number: u64) -> Vec<Job> {
        if let Some(end) = self.ends.remove(&(key, number)) {
            end.cancel();
        }
        let Some(lane) = self.lanes.get_mut(&key) else { return Vec::new() };
        lane.sent();
        if lane.is_empty() {
            self.lanes.remove(&key);
            return Vec::new();
        }
        self.send(shared, key)
    }

    /// What tells when this batch has ended.
    pub(super) fn end(&self, key: Key, number: u64) -> Option<CancellationToken> {
        self.ends.get(&(key, number)).cloned()
    }

    /// What tells when all that has been added has ended.
    pub(super) fn ends(&self) -> Vec<CancellationToken> {
        self.ends.values().cloned().collect()
    }

    /// Gives everything up that is waiting. The lanes must be dropped without the lock.
    #[must_use]
    pub(super) fn give_up(&mut self) -> HashMap<Key, Lane<Points>> {
        self.closed = true;
        std::mem::take(&mut self.ends).into_values().for_each(|end| end.cancel());
        std::mem::take(&mut self.lanes)
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::{
        batch::Batch,
        id::{DatabaseId, Epoch, FieldId, GroupId, NodeId, PolicyId, ShardId, Version},
        map::{Database, Field, Group, Measurement, Shard},
        schema::FieldType,
    };
    use tokio::time::Instant;

    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    fn map(groups: &[(u64, i64)], fields: &[&'static str]) -> ClusterMap {
        let group = |&(id, start): &(u64, i64)| {
            let shard = Shard { id: ShardId(id), epoch: Epoch(1), owners: vec![NodeId(1)] };
            let (id, end) = (GroupId(id), start + HOUR);
            Arc::new(Group { id, start, end, shards: vec![shard], truncation: None })
        };
        let policy = Policy {
            id: PolicyId(1),
            name: "p".to_owned(),
            duration: 0,
            group_duration: HOUR as u64,
            replication: 1,
            groups: groups.iter().map(group).collect(),
            deleted: Vec::new(),
        };
        let field = |(id, name): (u32, &&'static str)| Field {
            id: FieldId(id),
            name: (*name).into(),
            kind: FieldType::Float,
        };
        let fields = (1..).zip(fields).map(field).collect();
        let database = Database {
            id: DatabaseId(1),
            name: "db".to_owned(),
            default_policy: policy.id,
            policies: vec![policy.into()],
            measurements: vec![Measurement { name: "m".into(), fields }.into()],
        };
        ClusterMap { databases: vec![database.into()], ..ClusterMap::default() }
    }

    fn point(field: &str, time: i64) -> Point {
        Point::builder("m").field(field, 1.0).at(time).unwrap()
    }

    /// Adds a point as the writer does; its key and the version it got.
    fn add(state: &mut State, map: &ClusterMap, point: &Point, clock: &mut u64) -> (Key, u64) {
        let key = state.key(map, "db", None, point, 0);
        let version = Version(*clock);
        *clock += 1;
        let new = || Points::new(Batch::new(), version, Instant::now());
        let (points, _) = state.fill(key, new);
        (key, points.version.0)
    }

    #[test]
    fn what_needs_metadata_travels_alone() {
        let map = map(&[(7, 0)], &["a"]);
        let key = |point: &Point| State::default().key(&map, "db", None, point, 0);
        assert_eq!(key(&point("a", 5)), Key::Shard(ShardId(7)));
        assert_eq!(key(&point("b", 5)), Key::Fields(ShardId(7)));
        assert_eq!(key(&point("a", HOUR + 5)), Key::Group(HOUR));
        assert_eq!(key(&point("b", 3 * HOUR)), Key::Group(3 * HOUR));
        let elsewhere = State::default().key(&map, "other", None, &point("a", 5), 0);
        assert_eq!(elsewhere, Key::Unknown);
    }

    #[tokio::test]
    async fn later_points_of_a_place_have_later_versions_in_whatever_lane() {
        let (mut state, mut clock) = (State::default(), 1);
        let known = map(&[(7, 0)], &["a"]);
        let more = map(&[(7, 0)], &["a", "b"]);
        let both = Point::builder("m").field("a", 1.0).field("b", 1.0).at(5).unwrap();
        // A batch that has begun takes more, but not across what stands for the same place elsewhere.
        let steps = [(&known, point("a", 5)), (&known, both.clone()), (&known, point("a", 5))];
        let steps = steps.into_iter().chain([(&more, both.clone()), (&more, point("a", 5))]);
        let mut last = 0;
        for (at, (map, point)) in steps.enumerate() {
            let (key, version) = add(&mut state, map, &point, &mut clock);
            let same_batch = at == 4;
            assert!(version > last || same_batch && version == last, "{at}: {key:?} {version}");
            last = version;
        }
        // The same where the policy groups the place otherwise.
        let moved = map(&[(8, 0)], &["a"]);
        let before = add(&mut state, &more, &point("a", 5), &mut clock).1;
        let after = add(&mut state, &moved, &point("a", 5), &mut clock).1;
        let back = add(&mut state, &more, &point("a", 5), &mut clock).1;
        assert!(before < after && after < back, "{before} {after} {back}");
    }
}
