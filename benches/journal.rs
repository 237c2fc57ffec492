//! The journal against the disk itself, in one run: what group commit costs beyond its syncs.
//!
//! The baseline is a bare loop of `write` + `fdatasync` of whole groups into files that were
//! written before, on the same disk, with the group size that the journal had just reached; runs of
//! both alternate and medians count. Besides: the CPU that a node spends between a batch in memory
//! and its answer, without making the batch. Run it with
//! `cargo bench -p quorate-benches --bench journal`; `QUORATE_BENCH_DIR` says on which disk,
//! `QUORATE_BENCH_REPS` how often. Lines that begin with `RES` are the results.

use std::{
    env,
    error::Error,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quorate_node::{
    disk::SystemDisk,
    executor::Executor,
    journal::{Committed, Durability, Journal, JournalConfig, JournalHome, Sink},
    shard::{self, ShardStore},
};
use quorate_protocol::{
    batch::{Batch, EncodedBatch, PartHeader, Selection, encode_part},
    id::{FieldId, NodeId, Sequence, ShardId, Version},
    schema::FieldType,
};
use rustix::time::{ClockId, clock_gettime};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// As large as the journal's segments.
const SEGMENT: u64 = 64 << 20;
/// Files that the bare loop goes round in.
const FILES: usize = 4;
/// How long one repetition lasts.
const SPAN: Duration = Duration::from_millis(1500);
const KIB: usize = 1024;

/// A number that looks random and is the same in every run.
fn noise(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random(bytes: usize) -> Vec<u8> {
    (0..bytes as u64 / 8 + 1).flat_map(|at| noise(at).to_le_bytes()).take(bytes).collect()
}

/// CPU time of all threads of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Written once, so that later writes change no metadata.
struct Bare {
    files: Vec<File>,
    file: usize,
    at: u64,
}

impl Bare {
    fn new(directory: &Path) -> Outcome<Self> {
        let chunk = random(1 << 20);
        let files = (0..FILES).map(|number| {
            let path = directory.join(format!("bare-{number}"));
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(path)?;
            for at in (0..SEGMENT).step_by(chunk.len()) {
                file.write_all_at(&chunk, at)?;
            }
            file.sync_all()?;
            Ok(file)
        });
        Ok(Self { files: files.collect::<Result<_, std::io::Error>>()?, file: 0, at: 0 })
    }

    fn append(&mut self, group: &[u8]) -> Outcome<()> {
        if self.at + group.len() as u64 > SEGMENT {
            (self.file, self.at) = ((self.file + 1) % FILES, 0);
        }
        self.files[self.file].write_all_at(group, self.at)?;
        self.files[self.file].sync_data()?;
        self.at += group.len() as u64;
        Ok(())
    }

    /// Bytes per second of groups of this size, and the median time of one.
    fn run(&mut self, group: &[u8]) -> Outcome<(f64, f64)> {
        let (begun, mut times) = (Instant::now(), Vec::new());
        while begun.elapsed() < SPAN {
            let started = Instant::now();
            self.append(group)?;
            times.push(started.elapsed().as_secs_f64());
        }
        let rate = (times.len() * group.len()) as f64 / begun.elapsed().as_secs_f64();
        Ok((rate, median(times)))
    }
}

/// What is visible; the journal may forget it at once.
#[derive(Default)]
struct Seen(AtomicU64);

impl Sink for Seen {
    fn committed(&self, records: &[Committed]) {
        if let Some(last) = records.last() {
            self.0.store(last.sequence.0, Ordering::Release);
        }
    }
}

fn open(directory: &Path, sink: Arc<dyn Sink>) -> Outcome<Arc<Journal>> {
    let home = JournalHome {
        directory: directory.join("journal"),
        node: NodeId(1),
        salt: 1,
        applied: Sequence(0),
        durability: Durability::Commit,
    };
    let disk = Arc::new(SystemDisk);
    let config = JournalConfig::default();
    let opened = Journal::open(config, home, disk, Executor::Thread, sink, &mut |_| {})?;
    Ok(Arc::new(opened.0))
}

/// Appends from `writers` tasks for a while: bytes per second, median latency, bytes per sync.
async fn append(journal: &Arc<Journal>, seen: &Arc<Seen>, size: usize, writers: u64) -> [f64; 3] {
    let payload = Bytes::from(random(size));
    let stop = Arc::new(AtomicBool::new(false));
    let releaser = tokio::spawn({
        let (journal, seen, stop) = (Arc::clone(journal), Arc::clone(seen), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let _ = journal.release(Sequence(seen.0.load(Ordering::Acquire))).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let (before, begun) = (journal.stats(), Instant::now());
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (journal, payload) = (Arc::clone(journal), payload.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < SPAN {
                    // As a request finds it: a task that was just woken on a worker.
                    tokio::task::yield_now().await;
                    let started = Instant::now();
                    if journal.append(ShardId(writer), payload.clone()).await.is_err() {
                        break;
                    }
                    times.push(started.elapsed().as_secs_f64());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap_or_default());
    }
    let elapsed = begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let _ = releaser.await;
    let bytes = (times.len() * size) as f64;
    let syncs = (journal.stats().syncs - before.syncs) as f64;
    [bytes / elapsed, median(times), bytes / syncs.max(1.0)]
}

async fn compare(reps: usize, bare: &mut Bare, directory: &Path) -> Outcome<()> {
    let seen = Arc::new(Seen::default());
    let journal = open(directory, Arc::clone(&seen) as Arc<dyn Sink>)?;
    // Until its segments are recycled ones.
    append(&journal, &seen, 256 * KIB, 64).await;
    for (name, size, writers) in
        [("many", 64 * KIB, 64), ("one_64k", 64 * KIB, 1), ("one_4k", 4 * KIB, 1)]
    {
        let (mut ours, mut bares, mut ratios, mut groups) = (vec![], vec![], vec![], vec![]);
        for _ in 0..reps {
            let [rate, latency, group] = append(&journal, &seen, size, writers).await;
            let whole = if writers == 1 { size } else { (group as usize).div_ceil(4096) * 4096 };
            let (bare_rate, bare_latency) = bare.run(&random(whole))?;
            let (our, base) =
                if writers == 1 { (latency, bare_latency) } else { (rate, bare_rate) };
            ours.push(our);
            bares.push(base);
            ratios.push(our / base);
            groups.push(group);
        }
        let group = median(groups) / KIB as f64;
        let (our, base, ratio) = (median(ours), median(bares), median(ratios));
        if writers == 1 {
            let (our, base) = (our * 1e6, base * 1e6);
            println!("RES journal_{name} p50_us={our:.0} bare_us={base:.0} ratio={ratio:.2}");
        } else {
            let (our, base) = (our / 1e6, base / 1e6);
            println!(
                "RES journal_{name} mb_s={our:.0} bare_mb_s={base:.0} ratio={ratio:.2} group_kib={group:.0}"
            );
        }
    }
    journal.close().await;
    Ok(())
}

const ROWS: usize = 5_000;
const FIELDS: usize = 10;

/// One batch of the fleet: 1,000 hosts, 5 points each, 10 whole-numbered fields.
fn fleet(version: u64) -> Outcome<Bytes> {
    let mut batch = Batch::new();
    let cpu = batch.measurement("cpu")?;
    let mut hosts = Vec::new();
    for host in 0..1_000 {
        let mut tags = vec![("hostname".to_owned(), format!("host_{host}"))];
        tags.extend(
            (0..9).map(|tag| (format!("tag_{tag}"), format!("v{}", noise(host + tag) % 99))),
        );
        hosts.push(cpu.series(&tags)?);
    }
    let names: Vec<String> = (0..FIELDS).map(|field| format!("usage_{field}")).collect();
    let mut columns = Vec::new();
    for name in &names {
        columns.push(cpu.column(name.as_bytes(), FieldType::Float)?);
    }
    for at in 0..ROWS {
        let time = 1_451_606_400_000_000_000 + (at / hosts.len()) as i64 * 10_000_000_000;
        let row = cpu.row(hosts[at % hosts.len()], time)?;
        for (field, column) in columns.iter().enumerate() {
            cpu.set_float(row, *column, (noise((at * FIELDS + field) as u64) % 101) as f64)?;
        }
    }
    let id = |_: &[u8], name: &[u8], _: FieldType| {
        let at = names.iter().position(|field| field.as_bytes() == name)?;
        Some(FieldId(at as u32 + 1))
    };
    let header =
        PartHeader { shard: ShardId(1), version: Version(version), ..PartHeader::default() };
    Ok(encode_part(&batch, &header, Selection::All, &id)?)
}

/// What the node's own sink does: what is durable becomes visible.
struct Visible(ShardStore);

impl Sink for Visible {
    fn committed(&self, records: &[Committed]) {
        for record in records {
            if let Ok(batch) = EncodedBatch::parse_verified(record.payload.clone()) {
                let _ = self.0.accept(record.shard, record.sequence, batch);
            }
        }
    }
}

/// CPU time per value from the batch in memory to its answer, folding and the network apart.
async fn ack_path(reps: usize, directory: &Path) -> Outcome<()> {
    const BATCHES: u64 = 512;
    let config = shard::Config { fresh_bytes: 4 << 30, ..shard::Config::default() };
    let batches: Vec<Bytes> = (1..=BATCHES).map(fleet).collect::<Outcome<_>>()?;
    let bytes = batches[0].len();
    for writers in [64, 8, 1] {
        let mut costs = Vec::new();
        for rep in 0..reps {
            let directory = directory.join(format!("ack-{writers}-{rep}"));
            let shards = ShardStore::open(config, &directory.join("shards"), Executor::Thread)?;
            let journal = open(&directory, Arc::new(Visible(shards.clone())))?;
            let next = Arc::new(AtomicU64::new(0));
            let batches = Arc::new(batches.clone());
            let before = cpu();
            let tasks: Vec<_> = (0..writers)
                .map(|_| {
                    let (journal, shards) = (Arc::clone(&journal), shards.clone());
                    let (next, batches) = (Arc::clone(&next), Arc::clone(&batches));
                    tokio::spawn(async move {
                        loop {
                            let at = next.fetch_add(1, Ordering::Relaxed) as usize;
                            let Some(bytes) = batches.get(at) else { return true };
                            let Ok(batch) = EncodedBatch::parse(bytes.clone()) else {
                                return false;
                            };
                            let (shard, bytes) = (batch.header().part.shard, batch.bytes().clone());
                            let Ok(_room) = shards.admit(shard, bytes.len() as u64) else {
                                return false;
                            };
                            if journal.append(shard, bytes).await.is_err() {
                                return false;
                            }
                        }
                    })
                })
                .collect();
            for task in tasks {
                if !task.await? {
                    return Err("a batch was refused".into());
                }
            }
            let values = BATCHES as f64 * (ROWS * FIELDS) as f64;
            costs.push((cpu() - before).as_secs_f64() * 1e9 / values);
            journal.close().await;
            shards.close().await;
            std::fs::remove_dir_all(&directory)?;
        }
        let cost = median(costs);
        println!("RES ack_path writers={writers} cpu_ns_per_value={cost:.2} batch_bytes={bytes}");
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let reps = env::var("QUORATE_BENCH_REPS").ok().and_then(|reps| reps.parse().ok()).unwrap_or(5);
    let base = env::var_os("QUORATE_BENCH_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(base)?;
    let mut bare = Bare::new(directory.path())?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(compare(reps, &mut bare, directory.path()))?;
    runtime.block_on(ack_path(reps, directory.path()))?;
    Ok(())
}
