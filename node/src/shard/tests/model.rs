//! A shard equals a map of winners, whatever happens in whatever order.
//!
//! `QUORATE_SOAK=1` runs 10,000 cases instead of 256.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::{
    aggregate::Windows,
    id::{FieldId, Sequence, ShardId, Version},
    point::{
        Value,
        key::{measurement_of, tags_of},
    },
};

use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128;

use super::support::*;
use crate::shard::{
    BucketDigest, Config, DigestFilter, ScanFilter, ShardError, ShardStore, TagFilter, TagTest,
};

/// How large the numbers of a case are: what they cross is different for each.
#[derive(Clone, Copy, Debug)]
struct Shape {
    shards: u64,
    series: u16,
    /// Times are this far from 0.
    times: i64,
    /// Cells of a batch.
    cells: usize,
    /// Rows of a batch that is one series at even distances.
    rows: i64,
    versions: u64,
    ops: usize,
    config: Config,
}

/// A handful of rows crosses every limit.
fn crumbs() -> Shape {
    Shape {
        shards: 1,
        series: 12,
        times: 9,
        cells: 24,
        rows: 6,
        versions: 6,
        ops: 40,
        config: tiny(),
    }
}

/// More shards than environments.
fn shards() -> Shape {
    let config = Config { max_open_shards: 2, ..tiny() };
    Shape { shards: 4, series: 5, cells: 9, ops: 60, config, ..crumbs() }
}

/// Thousands of rows of a few series, which get blocks of their own.
fn tall() -> Shape {
    let config = Config {
        block_rows: 1024,
        txn_bytes: 16 << 10,
        fold_limit_bytes: 1 << 20,
        scan_bytes: 8 << 10,
        ..tiny()
    };
    let versions = 4000;
    Shape { series: 2, times: 1500, cells: 40, rows: 900, versions, ops: 12, config, ..crumbs() }
}

/// Hundreds of series of a few rows, which share blocks.
fn wide() -> Shape {
    let config = Config {
        block_rows: 100,
        txn_bytes: 8 << 10,
        fold_limit_bytes: 64 << 10,
        scan_bytes: 4 << 10,
        ..tiny()
    };
    Shape { series: 400, times: 3, cells: 300, ops: 14, config, ..crumbs() }
}

/// The limits of a real node.
fn usual() -> Shape {
    Shape {
        series: 40,
        times: 200,
        cells: 100,
        rows: 300,
        ops: 16,
        config: Config::default(),
        ..crumbs()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write {
        shard: u64,
        version: u64,
        cells: Vec<Cell>,
    },
    /// One series at even distances, some of four fields in every row.
    Range {
        shard: u64,
        version: u64,
        series: u16,
        start: i64,
        step: i64,
        rows: i64,
        fields: u8,
        value: i64,
    },
    /// An earlier batch once more, as a hint or a resend would bring it.
    Again(usize),
    Fold(u64),
    FoldAll,
    Settle(u64),
    /// The dense pass.
    Dense(u64),
    Digest(u64, u64),
    /// Closes and opens, and replays the journal from somewhere below what was released.
    Reopen(u64),
    Drop(u64),
    Scan {
        shard: u64,
        from: i64,
        len: i64,
        series: u16,
        field: u8,
    },
    /// A scan of everything; between its pages, folds and merges.
    Interrupted(u64),
}

fn value() -> impl Strategy<Value = i64> {
    // Few values make ties, which the value decides then.
    prop_oneof![6 => -3_i64..4, 1 => any::<i64>(), 1 => -5000_i64..5000]
}

fn cells(shape: Shape) -> impl Strategy<Value = Vec<Cell>> {
    let times = -shape.times..shape.times;
    let one = (0..shape.series, times, 0_u8..5, value())
        .prop_map(|(series, time, field, value)| cell(series, time, field, value));
    prop::collection::vec(one, 1..shape.cells)
}

fn op(shape: Shape) -> impl Strategy<Value = Op> {
    let (shard, version, series) = (0..shape.shards, 1..shape.versions, 0..shape.series);
    let time = -shape.times..shape.times;
    let range = (
        (shard.clone(), version.clone(), series.clone()),
        (time.clone(), prop_oneof![Just(1_i64), 1_i64..4], 1..=shape.rows),
        (1_u8..32, value()),
    );
    prop_oneof![
        8 => (shard.clone(), version, cells(shape))
            .prop_map(|(shard, version, cells)| Op::Write { shard, version, cells }),
        3 => range.prop_map(|((shard, version, series), (start, step, rows), (fields, value))| {
            Op::Range { shard, version, series, start, step, rows, fields, value }
        }),
        2 => any::<usize>().prop_map(Op::Again),
        3 => shard.clone().prop_map(Op::Fold),
        1 => Just(Op::FoldAll),
        2 => shard.clone().prop_map(Op::Settle),
        1 => shard.clone().prop_map(Op::Dense),
        1 => (shard.clone(), 1_u64..9).prop_map(|(shard, every)| Op::Digest(shard, every)),
        1 => (0_u64..40).prop_map(Op::Reopen),
        1 => (shard.clone(), any::<prop::sample::Index>())
            // The only shard is dropped in few cases, or there is little left to look at.
            .prop_filter_map("kept", move |(shard, luck)| {
                (luck.index(8) < shape.shards as usize).then_some(Op::Drop(shard))
            }),
        2 => (shard.clone(), time, 0..shape.times + 3, series, 0_u8..6).prop_map(
            |(shard, from, len, series, field)| Op::Scan { shard, from, len, series, field }
        ),
        1 => shard.prop_map(Op::Interrupted),
    ]
}

fn case() -> impl Strategy<Value = (Shape, Vec<Op>)> {
    let shape = prop_oneof![
        5 => Just(crumbs()),
        2 => Just(shards()),
        1 => Just(tall()),
        1 => Just(wide()),
        1 => Just(usual()),
    ];
    shape.prop_flat_map(|shape| (Just(shape), prop::collection::vec(op(shape), 1..shape.ops)))
}

fn filtered(content: &Content, filter: &ScanFilter, host: Option<&str>) -> Content {
    let wanted = |(key, time, field): &(Bytes, i64, FieldId)| {
        let in_time = filter.from <= *time && *time < filter.to;
        let host_is = |host: &str| {
            tags_of(key).any(|(name, value)| name == b"host" && value == host.as_bytes())
        };
        let fields = &filter.fields;
        in_time
            && filter.measurement.as_ref().is_none_or(|m| {
                measurement_of(key) == m.escape_ascii().to_string().replace(' ', "\\ ").as_bytes()
            })
            && host.is_none_or(host_is)
            && (fields.is_empty() || fields.contains(&Bytes::from(format!("f{}", field.0 - 1))))
    };
    content.iter().filter(|(at, _)| wanted(at)).map(|(at, v)| (at.clone(), v.clone())).collect()
}

/// The digests of buckets as the specification has them, without any reuse.
fn digests(content: &Content, buckets: Windows) -> Vec<BucketDigest> {
    let mut digests: BTreeMap<i64, BucketDigest> = BTreeMap::new();
    for ((key, time, field), (version, value)) in content {
        let (kind, value) = match value {
            Value::Float(value) => (0_u8, value.to_bits().to_le_bytes().to_vec()),
            Value::Integer(value) => (1, value.to_le_bytes().to_vec()),
            Value::Unsigned(value) => (2, value.to_le_bytes().to_vec()),
            Value::Boolean(value) => (3, vec![u8::from(*value)]),
            Value::String(value) => (4, value.to_vec()),
        };
        let key = xxh3_128(key).to_le_bytes();
        let (time_bytes, version) = (time.to_le_bytes(), version.0.to_le_bytes());
        let field = field.0.to_le_bytes();
        let cell = [&key[..], &time_bytes, &version, &field, &[kind], &value].concat();
        let start = buckets.bounds(*time).0;
        let bucket = digests.entry(start).or_insert(BucketDigest { start, cells: 0, digest: 0 });
        bucket.cells += 1;
        bucket.digest = bucket.digest.wrapping_add(xxh3_128(&cell));
    }
    digests.into_values().collect()
}

/// A store, the journal before it, and what it must hold.
struct World {
    dir: TempDir,
    config: Config,
    store: ShardStore,
    journal: Journal,
    models: BTreeMap<ShardId, Content>,
    dropped: BTreeSet<ShardId>,
    /// The highest version of any batch.
    highest: Version,
    /// A store that was offered nothing yet knows of nothing to release.
    offered: bool,
}

impl World {
    fn new(config: Config) -> Self {
        let dir = scratch();
        let store = open(config, dir.path());
        Self {
            dir,
            config,
            store,
            journal: Journal::default(),
            models: BTreeMap::new(),
            dropped: BTreeSet::new(),
            highest: Version(0),
            offered: false,
        }
    }

    fn write(&mut self, shard: ShardId, version: u64, cells: &[Cell]) {
        let batch = batch(shard, version, cells);
        if self.dropped.contains(&shard) {
            let next = Sequence(self.journal.records.len() as u64 + 1);
            self.store.accept(shard, next, batch.clone()).unwrap_err();
            self.journal.records.push((shard, batch));
        } else {
            add_batch(self.models.entry(shard).or_default(), &batch);
            self.journal.append(&self.store, shard, batch);
        }
        self.highest = self.highest.max(Version(version));
        self.offered = true;
    }

    fn again(&mut self, which: usize) {
        let count = self.journal.records.len();
        if count == 0 {
            return;
        }
        let (shard, batch) = self.journal.records[which % count].clone();
        if !self.dropped.contains(&shard) {
            self.journal.append(&self.store, shard, batch);
            self.offered = true;
        }
    }

    fn fold_all(&self) {
        self.models.keys().for_each(|shard| fold(&self.store, *shard).unwrap());
        let through = if self.offered { self.journal.records.len() as u64 } else { 0 };
        assert_eq!(self.store.applied_through(), Sequence(through));
        assert_eq!(self.store.stats().fresh_bytes, 0);
    }

    fn reopen(mut self, less: u64) -> Self {
        let released = self.store.applied_through();
        drop(self.store);
        self.store = open(self.config, self.dir.path());
        let from = Sequence(released.0.saturating_sub(less));
        self.journal.replay(&self.store, from);
        self.offered = from.0 < self.journal.records.len() as u64;
        // A restarted store has forgotten what was dropped; the map of the cluster has not.
        self.dropped.iter().for_each(|shard| now(self.store.drop_shard(*shard)).unwrap());
        let highest = self.store.highest_version();
        assert!(highest == self.highest || highest < self.highest && !self.dropped.is_empty());
        self
    }

    fn drop_shard(&mut self, shard: ShardId) {
        now(self.store.drop_shard(shard)).unwrap();
        self.models.remove(&shard);
        self.dropped.insert(shard);
        assert!(!self.dir.path().join(shard.to_string()).exists());
    }

    /// A scan that is interrupted after every item; in the end everything is dense.
    fn interrupted(&self, shard: ShardId) -> Content {
        let mut found = Content::new();
        for item in self.store.scan(shard, ScanFilter::default()).unwrap() {
            let item = item.unwrap();
            add_rows(&mut found, &item.key, &item.rows);
            fold(&self.store, shard).unwrap();
            settle(&self.store, shard).unwrap();
            now(self.store.densify(shard)).unwrap();
        }
        found
    }

    /// The digests of buckets of so many ns.
    fn digest(&self, shard: ShardId, every: u64) {
        let everything = |buckets| DigestFilter {
            from: i64::MIN,
            to: i64::MAX,
            buckets,
            up_to: Version(u64::MAX),
        };
        let filter = everything(Windows::new(every));
        let nothing = Content::new();
        let model = self.models.get(&shard).unwrap_or(&nothing);
        assert_eq!(self.store.digest(shard, filter).unwrap(), digests(model, filter.buckets));
    }

    fn check(&self) {
        for (shard, model) in &self.models {
            assert_content(&scan(&self.store, *shard), model);
            self.digest(*shard, 1000);
            let report = self.store.verify(*shard).unwrap();
            assert!(report.is_good(), "{:?}", report.problems);
        }
        for shard in &self.dropped {
            let scan = self.store.scan(*shard, ScanFilter::default());
            assert!(matches!(scan, Err(ShardError::Gone(gone)) if gone == *shard));
        }
        assert!(self.store.shards().iter().all(|shard| self.models.contains_key(shard)));
    }

    /// The shard, if it may be looked at; else the look is refused.
    fn live(&self, shard: ShardId) -> bool {
        !self.dropped.contains(&shard)
    }
}

fn run_case(shape: Shape, ops: Vec<Op>) {
    let mut world = World::new(shape.config);
    let id = |shard: u64| ShardId(SHARD.0 + shard);
    let nothing = Content::new();
    for op in ops {
        match op {
            Op::Write { shard, version, cells } => world.write(id(shard), version, &cells),
            Op::Range { shard, version, series, start, step, rows, fields, value } => {
                let cells: Vec<_> = (0..rows)
                    .flat_map(|row| {
                        (0..5).filter(move |field| fields >> field & 1 == 1).map(move |field| {
                            cell(series, start + row * step, field, value.wrapping_add(row / 3))
                        })
                    })
                    .collect();
                world.write(id(shard), version, &cells);
            }
            Op::Again(which) => world.again(which),
            Op::Fold(shard) => fold(&world.store, id(shard)).unwrap(),
            Op::FoldAll => world.fold_all(),
            Op::Settle(shard) => settle(&world.store, id(shard)).unwrap(),
            Op::Dense(shard) if world.live(id(shard)) => {
                now(world.store.densify(id(shard))).unwrap();
            }
            Op::Digest(shard, every) if world.live(id(shard)) => world.digest(id(shard), every),
            Op::Reopen(less) => world = world.reopen(less),
            Op::Drop(shard) => world.drop_shard(id(shard)),
            Op::Interrupted(shard) if world.live(id(shard)) => {
                let found = world.interrupted(id(shard));
                assert_content(&found, world.models.get(&id(shard)).unwrap_or(&nothing));
            }
            Op::Scan { shard, from, len, series, field } if world.live(id(shard)) => {
                let model = world.models.get(&id(shard)).unwrap_or(&nothing);
                look(&world.store, id(shard), model, from..from + len, series, field);
            }
            Op::Dense(_) | Op::Digest(..) | Op::Interrupted(_) | Op::Scan { .. } => {}
        }
    }
    world.check();
    world.fold_all();
    world.models.keys().for_each(|shard| settle(&world.store, *shard).unwrap());
    world.check();
    world.reopen(0).check();
}

/// Some series, times and fields, by measurement and by tag.
fn look(
    store: &ShardStore,
    shard: ShardId,
    model: &Content,
    times: std::ops::Range<i64>,
    series: u16,
    field: u8,
) {
    let filter = ScanFilter {
        measurement: (!series.is_multiple_of(3))
            .then(|| if series.is_multiple_of(2) { "cpu".into() } else { "cpu load".into() }),
        fields: if field == 5 { vec![] } else { vec![format!("f{field}").into()] },
        from: times.start,
        to: times.end,
        ..ScanFilter::default()
    };
    let found = scan_with(store, shard, filter.clone()).unwrap();
    assert_content(&found, &filtered(model, &filter, None));
    let host = format!("{series}");
    let test = TagTest::In(vec![host.clone().into()]);
    let tags = vec![TagFilter { key: "host".into(), test }];
    let filter = ScanFilter { tags, ..filter };
    let found = scan_with(store, shard, filter.clone()).unwrap();
    assert_content(&found, &filtered(model, &filter, Some(&host)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if soak() { 10_000 } else { 256 },
        // A case takes milliseconds; hundreds of steps of simplification are enough.
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]
    #[test]
    fn a_store_equals_a_naive_model((shape, ops) in case()) {
        run_case(shape, ops);
    }
}

/// Three versions of one row, each with some of three fields: all 343 choices of fields in all six
/// orders of arrival, with folds and merges between the arrivals or not.
#[test]
fn rows_with_several_fields_keep_their_winners_under_every_order_of_three_versions() {
    const ORDERS: [[u64; 3]; 6] =
        [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    let rows = |phase: usize, version: u64| -> Vec<Cell> {
        let mut cells = Vec::new();
        for (order, versions) in ORDERS.iter().enumerate() {
            for choice in 0..343_i64 {
                if versions[phase] == version {
                    let place = u32::try_from(version - 1).unwrap();
                    let fields = 1 + (choice / 7_i64.pow(place)) % 7;
                    for field in (0..3).filter(|field| fields >> field & 1 == 1) {
                        let value = version as i64 * 10 + i64::from(field);
                        cells.push(cell(order as u16, choice, field, value));
                    }
                }
            }
        }
        cells
    };
    for folds in 0..8 {
        let dir = scratch();
        let config = Config { merge_runs: 2, ..Default::default() };
        let store = open(config, dir.path());
        let (mut journal, mut model) = (Journal::default(), Content::new());
        for phase in 0..3 {
            for version in 1..=3 {
                let batch = batch(SHARD, version, &rows(phase, version));
                add_batch(&mut model, &batch);
                journal.append(&store, SHARD, batch);
            }
            if folds >> phase & 1 == 1 {
                fold(&store, SHARD).unwrap();
            }
        }
        assert_eq!(scan(&store, SHARD), model);
        assert_eq!(model.len(), 6 * (343 * 3 - 3 * 27));
        settle(&store, SHARD).unwrap();
        assert_eq!(scan(&store, SHARD), model);
    }
}
