//! Ids of series in memory, so that a fold need not look every series up on disk.
//!
//! Keys are not kept, only 96 bits of a keyed hash of each: whoever does not know the hash's key
//! cannot make two series share them, and by chance it does not happen (10 million series: 1 to
//! 10^15). Invariants: an entry is the id that the open environment has committed for a key; while
//! [`SeriesCache::is_complete`], a key that is not here has none. One per open environment, forgotten
//! with it, since ids mean nothing in another; all of a node together stay within one budget, for
//! which [`super::open`] lets those of idle shards go. Read and filled by [`super::fold`] alone,
//! which holds the shard's right to write.

use std::sync::{
    Arc, MutexGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use siphasher::sip128::SipHasher13;

use super::series::SeriesId;

/// Tables of a cache: each grows on its own, so that growth takes little memory at a time.
const TABLES: usize = 64;
/// Slots of a table that has any, at least.
const MIN_SLOTS: usize = 16;

/// What is compared instead of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// Says where in its table.
    low: u64,
    /// Says which table.
    high: u32,
}

/// A series, or nothing if the id is 0. Four of them are one line of memory.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    low: u64,
    high: u32,
    /// Ids that are larger are not kept.
    id: u32,
}

/// Open addressing with linear probing: a power of two of slots, at most three in four in use.
#[derive(Default)]
struct Table {
    slots: Box<[Slot]>,
    used: usize,
}

impl Table {
    /// Where a series is, or would be. It ends, since some slot is free. Not to be called without
    /// slots.
    fn place(slots: &[Slot], print: Fingerprint) -> usize {
        let mask = slots.len() - 1;
        let mut at = print.low as usize & mask;
        while slots[at].id != 0 && (slots[at].low, slots[at].high) != (print.low, print.high) {
            at = (at + 1) & mask;
        }
        at
    }

    /// How many slots it needs for one series more, if it has too few.
    fn growth(&self) -> Option<usize> {
        let now = self.slots.len();
        (4 * (self.used + 1) > 3 * now).then(|| (2 * now).max(MIN_SLOTS))
    }

    fn grow(&mut self, count: usize) {
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); count].into());
        for slot in old.iter().filter(|slot| slot.id != 0) {
            let print = Fingerprint { low: slot.low, high: slot.high };
            self.slots[Self::place(&self.slots, print)] = *slot;
        }
    }

    fn insert(&mut self, print: Fingerprint, id: u32) {
        let slot = &mut self.slots[Self::place(&self.slots, print)];
        self.used += usize::from(slot.id == 0);
        *slot = Slot { low: print.low, high: print.high, id };
    }
}

/// Memory that the caches of all open shards may take.
#[derive(Debug)]
pub(super) struct CacheBudget {
    used: AtomicUsize,
    limit: usize,
}

impl CacheBudget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|then| *then <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The ids of series of one open environment.
pub(super) struct SeriesCache {
    tables: [Table; TABLES],
    hasher: SipHasher13,
    budget: Arc<CacheBudget>,
    bytes: usize,
    complete: bool,
}

impl SeriesCache {
    /// A cache that knows nothing; it is complete if the environment has no series.
    pub(super) fn new(key: u64, budget: Arc<CacheBudget>, complete: bool) -> Self {
        Self {
            tables: std::array::from_fn(|_| Table::default()),
            hasher: SipHasher13::new_with_keys(key, !key),
            budget,
            bytes: 0,
            complete,
        }
    }

    /// Whether every series of the environment is here.
    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Says whether every series of the environment is here.
    pub(super) const fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What [`Self::get`] compares.
    pub(super) fn print(&self, key: &[u8]) -> Fingerprint {
        let hash = self.hasher.hash(key);
        Fingerprint { low: hash.h1, high: (hash.h2 >> 32) as u32 }
    }

    /// The id of a series, or 0. Many at once are fast if nothing else is done in between: the
    /// processor then waits for several lines of memory at a time.
    #[inline]
    pub(super) fn get(&self, print: Fingerprint) -> SeriesId {
        let table = &self.tables[print.high as usize % TABLES];
        match &*table.slots {
            [] => 0,
            slots => slots[Table::place(slots, print)].id.into(),
        }
    }

    /// Takes committed series in, as far as there is room; whether there was for all.
    pub(super) fn extend<'a>(
        &mut self,
        series: impl Iterator<Item = (&'a [u8], SeriesId)>,
    ) -> bool {
        let mut all = true;
        for (key, id) in series {
            let print = self.print(key);
            let table = &mut self.tables[print.high as usize % TABLES];
            let Ok(id) = u32::try_from(id) else {
                all = false;
                continue;
            };
            if let Some(count) = table.growth() {
                let more = (count - table.slots.len()) * size_of::<Slot>();
                if !self.budget.take(more) {
                    all = false;
                    continue;
                }
                self.bytes += more;
                table.grow(count);
            }
            table.insert(print, id);
        }
        all
    }

    /// Gives its memory back.
    fn clear(&mut self) {
        self.tables.iter_mut().for_each(|table| *table = Table::default());
        self.complete = false;
        self.budget.give_back(std::mem::take(&mut self.bytes));
    }
}

/// What the caches of all open shards share.
pub(super) struct Caches {
    /// Of their hashes.
    key: u64,
    budget: Arc<CacheBudget>,
    /// Folds so far, of any shard.
    folds: AtomicU64,
}

impl Caches {
    pub(super) fn new(key: u64, bytes: usize) -> Self {
        Self { key, budget: CacheBudget::new(bytes), folds: AtomicU64::new(0) }
    }

    /// The cache of an environment that has just been opened.
    pub(super) fn cache(&self, complete: bool) -> SeriesCache {
        SeriesCache::new(self.key, Arc::clone(&self.budget), complete)
    }

    /// The number of the fold that begins.
    pub(super) fn next_fold(&self) -> u64 {
        self.folds.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Empties the one that was not used for longest; whether there was one. `idle` are caches that
    /// nobody uses now, each with the number of its last fold. Those that take turns at being used
    /// keep what they have: they would only take it from each other.
    pub(super) fn forget_oldest(&self, mut idle: Vec<(u64, MutexGuard<'_, SeriesCache>)>) -> bool {
        idle.retain(|(_, cache)| !cache.is_empty());
        let turns = 2 * (idle.len() as u64 + 1);
        let folds = self.folds.load(Ordering::Relaxed);
        match idle.iter_mut().min_by_key(|(folded, _)| *folded) {
            Some((folded, cache)) if *folded + turns <= folds => {
                cache.clear();
                true
            }
            _ => false,
        }
    }
}

impl Drop for SeriesCache {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Vec<u8> {
        format!("cpu,host=h{number}").into_bytes()
    }

    fn fill(cache: &mut SeriesCache, numbers: std::ops::Range<u32>) -> bool {
        let keys: Vec<_> =
            numbers.map(|number| (key(number), SeriesId::from(number) + 1)).collect();
        cache.extend(keys.iter().map(|(key, id)| (&key[..], *id)))
    }

    fn found(cache: &SeriesCache, numbers: std::ops::Range<u32>) -> usize {
        let id = |number: u32| cache.get(cache.print(&key(number)));
        let right = |number: &u32| match id(*number) {
            0 => false,
            id => {
                assert_eq!(id, SeriesId::from(*number) + 1);
                true
            }
        };
        numbers.filter(right).count()
    }

    #[test]
    fn series_are_found_again_and_others_are_not() {
        let budget = CacheBudget::new(usize::MAX);
        let mut cache = SeriesCache::new(7, Arc::clone(&budget), true);
        assert!(fill(&mut cache, 0..50_000));
        assert!(fill(&mut cache, 0..50_000));
        assert_eq!(found(&cache, 0..50_000), 50_000);
        assert_eq!(found(&cache, 50_000..100_000), 0);
        let used = budget.used.load(Ordering::Relaxed);
        assert!((21 * 50_000..43 * 50_000).contains(&used), "{used} bytes");
        drop(cache);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_room_some_are_left_out_and_room_comes_back() {
        let budget = CacheBudget::new(1 << 18);
        let mut first = SeriesCache::new(1, Arc::clone(&budget), true);
        assert!(fill(&mut first, 0..5_000));
        let mut second = SeriesCache::new(2, Arc::clone(&budget), true);
        assert!(!fill(&mut second, 0..50_000));
        assert!(budget.used.load(Ordering::Relaxed) <= 1 << 18);
        assert_eq!(found(&first, 0..5_000), 5_000);
        let before = found(&second, 0..50_000);
        first.clear();
        assert_eq!(found(&first, 0..5_000), 0);
        assert!(!first.is_complete());
        fill(&mut second, 0..50_000);
        assert!(found(&second, 0..50_000) > before);
    }

    #[test]
    fn an_id_that_is_too_large_is_not_taken_in() {
        let mut cache = SeriesCache::new(1, CacheBudget::new(1 << 20), true);
        assert!(!cache.extend([(&b"cpu"[..], 1 << 32)].into_iter()));
        assert_eq!(cache.get(cache.print(b"cpu")), 0);
    }
}
