//! Batches, a fake journal, a naive model, and a small store that shows every edge quickly.

use std::{
    collections::BTreeMap,
    path::Path,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use quorate_protocol::{
    batch::{Batch, EncodedBatch, PartHeader, Selection, encode_part},
    id::{FieldId, Sequence, ShardId, Version},
    point::{Point, PointBuilder, Value},
    rows::Rows,
};
use tempfile::TempDir;

use crate::executor::Executor;
use crate::shard::{
    Config, ScanFilter, ShardError, ShardStore,
    fault::{Fault, Probe, Step},
};

pub(in crate::shard) const SHARD: ShardId = ShardId(7);

/// Every limit so small that a handful of rows crosses it.
pub(in crate::shard) fn tiny() -> Config {
    Config {
        max_open_shards: 2,
        map_bytes: 128 << 10,
        txn_bytes: 600,
        fold_limit_bytes: 2000,
        block_rows: 3,
        merge_runs: 2,
        scan_bytes: 300,
        series_cache_bytes: 1 << 10,
        ..Config::default()
    }
}

/// One value of one field of one row.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Cell {
    pub(super) series: u16,
    pub(super) time: i64,
    pub(super) field: u8,
    pub(super) value: i64,
}

pub(in crate::shard) fn cell(series: u16, time: i64, field: u8, value: i64) -> Cell {
    Cell { series, time, field, value }
}

/// Quarters near zero, everything finite further out.
fn float(value: i64) -> f64 {
    let bits = f64::from_bits(value.cast_unsigned());
    match value {
        -2 => -0.0,
        -1_000_000..1_000_000 => value as f64 / 4.0,
        _ if bits.is_finite() => bits,
        _ => value as f64,
    }
}

/// Short text, no text, and bytes that are no text.
fn string(value: i64) -> Bytes {
    match value {
        -3 => Bytes::new(),
        -1_000_000..1_000_000 => format!("value {value}").into(),
        _ => value.to_le_bytes().repeat((value & 7) as usize).into(),
    }
}

fn value(cell: &Cell) -> Value {
    match cell.field % 5 {
        0 => Value::Integer(cell.value),
        1 => Value::Float(float(cell.value)),
        2 => Value::String(string(cell.value)),
        3 => Value::Boolean(cell.value & 1 == 1),
        _ => Value::Unsigned(cell.value.cast_unsigned()),
    }
}

/// Cells of one row, with ascending fields.
fn point(cells: &[Cell]) -> Point {
    let Cell { series, time, .. } = cells[0];
    // Some long keys, which are cut in the table of keys; some with escapes.
    let host = match series % 5 {
        0 => format!("{series:0>600}"),
        1 => format!("a b,{series}"),
        _ => format!("{series}"),
    };
    let name = if series.is_multiple_of(2) { "cpu" } else { "cpu load" };
    let builder = Point::builder(name).tag("host", host);
    let add =
        |builder: PointBuilder, cell: &Cell| builder.field(format!("f{}", cell.field), value(cell));
    cells.iter().fold(builder, add).at(time).unwrap()
}

pub(in crate::shard) fn batch(shard: ShardId, version: u64, cells: &[Cell]) -> EncodedBatch {
    let mut batch = Batch::new();
    let one_row =
        |a: &Cell, b: &Cell| (a.series, a.time) == (b.series, b.time) && a.field < b.field;
    for row in cells.chunk_by(one_row) {
        batch.push(&point(row));
    }
    let header = PartHeader { shard, version: Version(version), ..PartHeader::default() };
    let id = |_: &[u8], field: &[u8], _| {
        let number: u32 = std::str::from_utf8(field.strip_prefix(b"f")?).ok()?.parse().ok()?;
        Some(FieldId(number + 1))
    };
    let bytes = encode_part(&batch, &header, Selection::All, &id).unwrap();
    EncodedBatch::parse(bytes).unwrap()
}

/// What is stored, value by value.
pub(in crate::shard) type Content = BTreeMap<(Bytes, i64, FieldId), (Version, Value)>;

pub(in crate::shard) fn add_rows(content: &mut Content, key: &Bytes, rows: &Rows) {
    for column in &rows.columns {
        for row in 0..rows.len() {
            let Some(value) = column.get(row) else {
                continue;
            };
            let new = (rows.versions[row], value.to_value());
            let at = (key.clone(), rows.times[row], column.field);
            let old = content.entry(at).or_insert_with(|| new.clone());
            if (new.0).cmp(&old.0).then_with(|| new.1.canonical_cmp(&old.1)).is_gt() {
                *old = new;
            }
        }
    }
}

/// The model: every value of every batch against every other, and the winner stays.
pub(in crate::shard) fn add_batch(content: &mut Content, batch: &EncodedBatch) {
    for (key, _, rows) in batch.decode().unwrap().into_rows() {
        add_rows(content, &key, &rows);
    }
}

/// Compares without printing thousands of cells.
pub(in crate::shard) fn assert_content(found: &Content, model: &Content) {
    if found == model {
        return;
    }
    let missing: Vec<_> = model.iter().filter(|(at, _)| !found.contains_key(*at)).collect();
    let invented: Vec<_> = found.iter().filter(|(at, _)| !model.contains_key(*at)).collect();
    let wrong: Vec<_> = model
        .iter()
        .filter_map(|(at, expected)| Some((at, expected, found.get(at)?)))
        .filter(|(_, expected, found)| expected != found)
        .collect();
    panic!(
        "{} of {} cells missing, {} invented, {} wrong; the first: {:?} {:?} {:?}",
        missing.len(),
        model.len(),
        invented.len(),
        wrong.len(),
        missing.first(),
        invented.first(),
        wrong.first()
    );
}

/// Tells other threads to end, also by a panic: a scope of threads waits for all of them.
pub(in crate::shard) struct AtEnd<'a>(pub(in crate::shard) &'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Whether repetitions are many.
pub(in crate::shard) fn soak() -> bool {
    std::env::var_os("QUORATE_SOAK").is_some()
}

/// Everything a scan yields, with its order and uniqueness verified.
pub(in crate::shard) fn scan_with(
    store: &ShardStore,
    shard: ShardId,
    filter: ScanFilter,
) -> Result<Content, String> {
    let mut content = Content::new();
    let mut last: Option<(Bytes, i64)> = None;
    let mut values = 0;
    for item in store.scan(shard, filter).map_err(|error| error.to_string())? {
        let item = item.map_err(|error| error.to_string())?;
        let (first_time, last_time) = item.rows.time_range().ok_or("an item without rows")?;
        let first = (item.key.clone(), first_time);
        if last.as_ref().is_some_and(|last| *last >= first) {
            return Err(format!("out of order: {first:?} after {last:?}"));
        }
        last = Some((item.key.clone(), last_time));
        values += item.rows.columns.iter().map(|column| column.present.count()).sum::<usize>();
        add_rows(&mut content, &item.key, &item.rows);
    }
    if values != content.len() {
        return Err(format!("{values} values for {} cells: losers were kept", content.len()));
    }
    Ok(content)
}

pub(in crate::shard) fn scan(store: &ShardStore, shard: ShardId) -> Content {
    scan_with(store, shard, ScanFilter::default()).unwrap()
}

/// What a store whose work is done inline has ready at once.
pub(in crate::shard) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the work is not done inline"),
    }
}

pub(in crate::shard) fn fold(store: &ShardStore, shard: ShardId) -> Result<(), ShardError> {
    now(store.flush(shard))
}

/// Merges as long as there is something to merge.
pub(in crate::shard) fn settle(store: &ShardStore, shard: ShardId) -> Result<(), ShardError> {
    now(store.settle(shard))
}

/// Every checksum and invariant of what is stored.
#[track_caller]
pub(in crate::shard) fn assert_whole(store: &ShardStore) {
    let report = store.verify(SHARD).unwrap();
    assert!(report.is_good(), "{:#?}", report.problems);
}

pub(in crate::shard) fn runs(store: &ShardStore, shard: ShardId) -> usize {
    let pin = store.inner.open.pin(shard).unwrap();
    pin.map_or(0, |open| open.state().unwrap().runs.len())
}

/// All records ever journaled; a real journal would have released some.
#[derive(Default)]
pub(in crate::shard) struct Journal {
    pub(super) records: Vec<(ShardId, EncodedBatch)>,
}

impl Journal {
    /// Journals a batch and hands it on, as the sink does.
    pub(in crate::shard) fn append(
        &mut self,
        store: &ShardStore,
        shard: ShardId,
        batch: EncodedBatch,
    ) {
        self.records.push((shard, batch.clone()));
        store.accept(shard, Sequence(self.records.len() as u64), batch).unwrap();
    }

    /// Replays what is above `released`.
    pub(in crate::shard) fn replay(&self, store: &ShardStore, released: Sequence) {
        for (sequence, (shard, batch)) in (1..).zip(&self.records) {
            if Sequence(sequence) > released {
                store.accept(*shard, Sequence(sequence), batch.clone()).unwrap();
            }
        }
    }

    /// What every record of a shard together makes of it.
    pub(in crate::shard) fn content(&self, shard: ShardId) -> Content {
        let mut content = Content::new();
        for (_, batch) in self.records.iter().filter(|(of, _)| *of == shard) {
            add_batch(&mut content, batch);
        }
        content
    }
}

/// A directory in memory, where there is such a file system: nothing here cuts the power, so syncs
/// would only take time.
pub(in crate::shard) fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

pub(in crate::shard) fn open(config: Config, dir: &Path) -> ShardStore {
    ShardStore::open(config, dir, Executor::Inline).unwrap()
}

/// Makes something go wrong at one step, counted from 0.
#[derive(Default)]
pub(in crate::shard) struct Trap {
    pub(super) at: usize,
    pub(super) only: Option<Step>,
    pub(super) fault: Option<Fault>,
    pub(super) seen: AtomicUsize,
    pub(super) steps: Mutex<Vec<Step>>,
}

impl Probe for Trap {
    fn at(&self, step: Step) -> Result<(), Fault> {
        if self.only.is_some_and(|only| only != step) {
            return Ok(());
        }
        self.steps.lock().unwrap().push(step);
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Some(fault) if seen == self.at => Err(fault),
            _ => Ok(()),
        }
    }
}

type Visit = Box<dyn Fn(&ShardStore, Step) + Send + Sync>;

/// Calls the store at every step, unless it is doing so already.
#[derive(Default)]
pub(in crate::shard) struct Visitor {
    store: OnceLock<Mutex<Option<ShardStore>>>,
    visit: OnceLock<Visit>,
    visiting: Mutex<()>,
    pub(super) visits: Mutex<Vec<Step>>,
}

impl Visitor {
    pub(in crate::shard) fn open(
        config: Config,
        dir: &Path,
        visit: impl Fn(&ShardStore, Step) + Send + Sync + 'static,
    ) -> (ShardStore, Arc<Self>) {
        let visitor = Arc::new(Self::default());
        assert!(visitor.visit.set(Box::new(visit)).is_ok());
        let probe: Arc<dyn Probe> = Arc::clone(&visitor) as _;
        let store = ShardStore::open_probed(config, dir, Executor::Inline, probe).unwrap();
        assert!(visitor.store.set(Mutex::new(Some(store.clone()))).is_ok());
        (store, visitor)
    }

    /// Lets go of the store, which would otherwise keep itself alive.
    pub(in crate::shard) fn detach(&self) {
        self.store.get().unwrap().lock().unwrap().take();
    }
}

impl Probe for Visitor {
    fn at(&self, step: Step) -> Result<(), Fault> {
        let Ok(_visiting) = self.visiting.try_lock() else {
            return Ok(());
        };
        let store = self.store.get().and_then(|store| store.lock().unwrap().clone());
        if let (Some(store), Some(visit)) = (store, self.visit.get()) {
            self.visits.lock().unwrap().push(step);
            visit(&store, step);
        }
        Ok(())
    }
}
