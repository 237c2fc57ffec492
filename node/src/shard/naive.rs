//! For tests of reads: a shard as a plain map of winners, and stores that were told the same.
//!
//! Invariant: nothing here shares code with what it is compared to, but for encoding batches.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::{
    batch::{Batch, EncodedBatch, PartHeader, Selection, encode_part},
    id::{FieldId, Sequence, ShardId, Version},
    point::{Point, Value},
};

use super::{Config, ShardStore};
use crate::executor::Executor;

pub(super) const SHARD: ShardId = ShardId(7);

/// Cases of a property test: `count`, or 10,000 with `QUORATE_SOAK` set.
pub(super) fn cases(count: u32) -> ProptestConfig {
    let soak = std::env::var_os("QUORATE_SOAK").is_some();
    ProptestConfig::with_cases(if soak { 10_000 } else { count })
}

/// Every limit so small that a handful of rows crosses it.
pub(super) fn tiny() -> Config {
    Config {
        max_open_shards: 2,
        map_bytes: 128 << 10,
        txn_bytes: 600,
        fold_limit_bytes: 2000,
        block_rows: 3,
        merge_runs: 2,
        scan_bytes: 300,
        series_cache_bytes: 1 << 10,
        aggregate_partials: 4,
        ..Config::default()
    }
}

/// As [`tiny`], and hardly any series shares a block.
pub(super) fn small_blocks() -> Config {
    Config { block_bytes: 60, ..tiny() }
}

/// One value of one field of one row.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) series: u16,
    pub(super) time: i64,
    pub(super) field: u8,
    pub(super) value: i64,
}

impl Cell {
    fn value(&self) -> Value {
        match self.field % 5 {
            0 => self.value.into(),
            // Quarters: their sums are exact in any order.
            1 => (self.value as f64 / 4.0).into(),
            2 => format!("value {}", self.value).into(),
            3 => (self.value % 2 == 0).into(),
            _ => self.value.unsigned_abs().into(),
        }
    }

    fn point(&self) -> Point {
        let host = match self.series % 5 {
            0 => format!("{:0>600}", self.series),
            1 => format!("a b,{}", self.series),
            _ => format!("{}", self.series),
        };
        let name = if self.series.is_multiple_of(2) { "cpu" } else { "cpu load" };
        let mut builder = Point::builder(name).tag("host", host);
        if self.series.is_multiple_of(3) {
            builder = builder.tag("rack", format!("r{}", self.series % 4));
        }
        builder.field(format!("f{}", self.field), self.value()).at(self.time).unwrap()
    }
}

pub(super) fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let cell = (0_u16..12, -9_i64..9, 0_u8..6, -3_i64..3);
    let cell = cell.prop_map(|(series, time, field, value)| Cell { series, time, field, value });
    prop::collection::vec(cell, 1..24)
}

pub(super) fn batch(version: u64, cells: &[Cell]) -> EncodedBatch {
    let mut batch = Batch::new();
    for cell in cells {
        batch.push(&cell.point());
    }
    let header = PartHeader { shard: SHARD, version: Version(version), ..PartHeader::default() };
    let id = |_: &[u8], field: &[u8], _| {
        let number: u32 = std::str::from_utf8(field.strip_prefix(b"f")?).ok()?.parse().ok()?;
        Some(FieldId(number + 1))
    };
    EncodedBatch::parse(encode_part(&batch, &header, Selection::All, &id).unwrap()).unwrap()
}

/// The winners: by series key, field and time.
pub(super) type Winners = BTreeMap<(Bytes, u32, i64), (u64, Value)>;

/// A write: a version and its cells, each (series, time, field) once.
pub(super) type Write = (u64, Vec<Cell>);

/// A batch keeps the later of two equal cells; here only that one is left.
pub(super) fn once(cells: Vec<Cell>) -> Vec<Cell> {
    let place = |cell: &Cell| (cell.series, cell.time, cell.field);
    let by_place: BTreeMap<_, Cell> = cells.into_iter().map(|cell| (place(&cell), cell)).collect();
    by_place.into_values().collect()
}

pub(super) fn winners(writes: &[Write]) -> Winners {
    let mut winners = Winners::new();
    for (version, cells) in writes {
        for cell in cells {
            let key = Bytes::copy_from_slice(cell.point().key());
            let new = (*version, cell.value());
            let old = winners
                .entry((key, u32::from(cell.field) + 1, cell.time))
                .or_insert_with(|| new.clone());
            if new.0.cmp(&old.0).then_with(|| new.1.canonical_cmp(&old.1)).is_gt() {
                *old = new;
            }
        }
    }
    winners
}

/// What happens to a store between two writes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Nothing,
    Fold,
    Merge,
    Dense,
    /// Closed and opened, and everything is replayed.
    Reopen,
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Nothing),
        3 => Just(Event::Fold),
        2 => Just(Event::Merge),
        1 => Just(Event::Dense),
        1 => Just(Event::Reopen),
    ]
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A store that was told the writes, with an event after each.
pub(super) fn store(config: Config, dir: &Path, writes: &[Write], events: &[Event]) -> ShardStore {
    let open = || ShardStore::open(config, dir, Executor::Inline).unwrap();
    let mut store = open();
    let accept = |store: &ShardStore, at: usize, (version, cells): &Write| {
        store.accept(SHARD, Sequence(at as u64 + 1), batch(*version, cells)).unwrap();
    };
    for (at, write) in writes.iter().enumerate() {
        accept(&store, at, write);
        match events.get(at % events.len().max(1)) {
            None | Some(Event::Nothing) => {}
            Some(Event::Fold) => block_on(store.flush(SHARD)).unwrap(),
            Some(Event::Merge) => {
                block_on(store.flush(SHARD)).unwrap();
                block_on(store.settle(SHARD)).unwrap();
            }
            Some(Event::Dense) => block_on(store.densify(SHARD)).unwrap(),
            Some(Event::Reopen) => {
                drop(store);
                store = open();
                writes[..=at].iter().enumerate().for_each(|(at, w)| accept(&store, at, w));
            }
        }
    }
    store
}
