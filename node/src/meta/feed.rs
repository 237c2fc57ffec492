//! The newest map of this node and the last steps to it: what watchers are told.
//!
//! Invariants: the steps lie one behind the other and end at the map; each is encoded once, however
//! many watchers there are; they take a bounded number of bytes, and who is behind the first of them
//! gets the whole map, encoded once for each index. Nothing waits for a watcher, and grants are told
//! to none. Filled by [`super::machine`], read through [`super::Meta`]; what a client with grants may
//! see of it is cut out in [`crate::grants`].

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use quorate_protocol::{
    id::MetaIndex,
    map::{ClusterMap, MapDelta, MapUpdate},
};
use serde::Serialize;
use tokio::sync::watch;

/// What leads a watcher to a newer map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The index of that map.
    pub index: MetaIndex,
    /// Encoded [`MapUpdate`]s, each with the index that it leads to; empty if nothing is newer.
    pub updates: Vec<(MetaIndex, Bytes)>,
    /// That map itself.
    pub map: Arc<ClusterMap>,
    /// Clients whose grants are others than before; the updates do not say so. Not known, and empty, if
    /// the update is the whole map.
    pub regranted: Vec<String>,
}

impl News {
    /// All updates, one behind the other.
    #[must_use]
    pub fn joined(mut self) -> Bytes {
        match &mut self.updates[..] {
            [(_, one)] => std::mem::take(one),
            all => all.iter().flat_map(|(_, update)| update.iter().copied()).collect(),
        }
    }
}

/// The newest map and the steps to it.
pub(super) struct Feed {
    map: watch::Sender<Arc<ClusterMap>>,
    recent: Mutex<Recent>,
    /// Bytes of encoded steps that are kept.
    limit: usize,
}

#[derive(Default)]
struct Recent {
    map: Arc<ClusterMap>,
    steps: VecDeque<Step>,
    bytes: usize,
    /// The map, once somebody has needed it.
    whole: Option<Bytes>,
}

struct Step {
    from: MetaIndex,
    index: MetaIndex,
    encoded: Bytes,
    regranted: Vec<String>,
}

impl Feed {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            map: watch::Sender::new(Arc::default()),
            recent: Mutex::new(Recent::default()),
            limit,
        }
    }

    pub(super) fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.map.borrow())
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    /// Shows a map to which no known steps lead: from the disk, or from another node.
    pub(super) fn replace(&self, map: &Arc<ClusterMap>) {
        *self.lock() = Recent { map: Arc::clone(map), ..Recent::default() };
        self.map.send_replace(Arc::clone(map));
    }

    /// Shows the map that these steps have led to, from the one that was shown last.
    pub(super) fn publish(&self, map: &Arc<ClusterMap>, steps: Vec<MapDelta>) {
        // The steps first: who sees the map may ask for them at once.
        self.lock().extend(map, steps, self.limit);
        self.map.send_replace(Arc::clone(map));
    }

    /// What leads from the map at `after` to the newest one.
    pub(super) fn since(&self, after: MetaIndex) -> News {
        let mut recent = self.lock();
        let map = Arc::clone(&recent.map);
        let mut news = News { index: map.index, map, ..News::default() };
        if after >= news.index {
            return news;
        }
        let first = recent.steps.partition_point(|step| step.from < after);
        let steps = recent.steps.range(first..);
        match steps.clone().next() {
            // A watcher without a map gets the whole one: it is never larger than all its steps.
            Some(step) if step.from == after && after.0 > 0 => {
                news.regranted.extend(steps.clone().flat_map(|step| step.regranted.clone()));
                news.updates.extend(steps.map(|step| (step.index, step.encoded.clone())));
            }
            _ => news.updates.push((news.index, recent.whole())),
        }
        news
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn extend(&mut self, map: &Arc<ClusterMap>, steps: Vec<MapDelta>, limit: usize) {
        self.map = Arc::clone(map);
        self.whole = None;
        for mut delta in steps {
            let (from, index) = (delta.from, delta.index);
            let regranted = delta.changes.iter().filter_map(|it| it.client().map(str::to_owned));
            let regranted: Vec<String> = regranted.collect();
            delta.changes.retain(|change| change.client().is_none());
            let encoded = encode(&MapUpdate::Delta(delta));
            self.bytes += encoded.len();
            self.steps.push_back(Step { from, index, encoded, regranted });
        }
        while self.bytes > limit {
            let Some(step) = self.steps.pop_front() else { return };
            self.bytes -= step.encoded.len();
        }
    }

    fn whole(&mut self) -> Bytes {
        self.whole.get_or_insert_with(|| encode(&WholeRef::Whole(&self.map))).clone()
    }
}

/// [`MapUpdate::Whole`] of a borrowed map.
#[derive(Serialize)]
enum WholeRef<'a> {
    Whole(&'a ClusterMap),
}

fn encode(update: &impl Serialize) -> Bytes {
    // A map is plain data: encoding fails only where memory does.
    postcard::to_allocvec(update).map(Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use quorate_protocol::map::apply_updates;

    use super::*;

    fn map(index: u64) -> Arc<ClusterMap> {
        Arc::new(ClusterMap {
            index: MetaIndex(index),
            name: format!("{index}"),
            ..ClusterMap::default()
        })
    }

    fn feed(limit: usize, indexes: &[u64]) -> Feed {
        let feed = Feed::new(limit);
        for index in indexes {
            let next = map(*index);
            let step = MapDelta::between(&feed.map(), &next);
            feed.publish(&next, vec![step]);
        }
        feed
    }

    fn follow(feed: &Feed, after: u64) -> (usize, MetaIndex) {
        let news = feed.since(MetaIndex(after));
        let mut have = map(after);
        for (index, update) in &news.updates {
            have = apply_updates(&have, update).unwrap().unwrap();
            assert_eq!(have.index, *index);
        }
        if !news.updates.is_empty() {
            assert_eq!(have, feed.map());
        }
        (news.updates.len(), have.index)
    }

    #[test]
    fn a_watcher_gets_the_steps_it_lacks_and_a_stranger_the_whole_map() {
        let feed = feed(1 << 20, &[1, 2, 5, 9]);
        assert_eq!(follow(&feed, 9), (0, MetaIndex(9)));
        assert_eq!(follow(&feed, 5), (1, MetaIndex(9)));
        assert_eq!(follow(&feed, 1), (3, MetaIndex(9)));
        assert_eq!(follow(&feed, 0), (1, MetaIndex(9)));
        // No map ever had this index here.
        assert_eq!(follow(&feed, 4), (1, MetaIndex(9)));
        assert_eq!(follow(&feed, 30), (0, MetaIndex(30)), "the watcher is ahead");
    }

    #[test]
    fn steps_take_a_bounded_number_of_bytes() {
        let step = feed(1 << 20, &[1, 2]).lock().steps[1].encoded.len();
        let feed = feed(3 * step, &[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(follow(&feed, 4), (3, MetaIndex(7)));
        assert_eq!(follow(&feed, 3), (1, MetaIndex(7)), "the whole map");
        assert_eq!(feed.lock().bytes, 3 * step);
    }

    #[test]
    fn no_steps_lead_to_a_map_that_came_as_a_whole() {
        let feed = feed(1 << 20, &[1, 2, 3]);
        feed.replace(&map(8));
        assert_eq!(follow(&feed, 3), (1, MetaIndex(8)));
        let next = map(9);
        feed.publish(&next, vec![MapDelta::between(&map(8), &next)]);
        assert_eq!(follow(&feed, 8), (1, MetaIndex(9)));
        assert_eq!(follow(&feed, 3), (1, MetaIndex(9)));
        let whole = feed.since(MetaIndex(3)).updates.remove(0).1;
        assert!(matches!(postcard::from_bytes(&whole).unwrap(), MapUpdate::Whole(_)));
    }
}
