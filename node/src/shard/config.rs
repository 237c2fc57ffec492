//! Limits and targets of the shard store.
//!
//! Read by every part of [`super`]; the `[shard]` table of the node's configuration. From it follows
//! how much memory the store takes, at most: `fresh_bytes`, `series_cache_bytes`, a fold (see
//! `fold_cells`) and the largest of fold, merge and dense pass for each further one of
//! `compaction_threads`, half a mebibyte for each run and 2.3 MB for each open shard, and what each
//! scan takes (`scan_bytes`, `scan_cache_bytes`). With the defaults and a few open shards of a million
//! series that is some 600 MB; scans and the shards' files in the page cache come on top.

use serde::{Deserialize, Serialize};

/// Limits and targets of the shard store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Environments open at once; default 64. Each takes three file descriptors; opening one takes
    /// well under a millisecond.
    pub max_open_shards: usize,
    /// Map size of a new environment in bytes; default 64 MiB. Address space only.
    pub map_bytes: u64,
    /// Map size at most, in bytes; default 64 GiB. Maps double when they are full.
    pub max_map_bytes: u64,
    /// Read transactions alive at once in one environment; default 512. 64 bytes each.
    pub readers: u32,
    /// Fresh batches of all shards in memory, in bytes as encoded; default 192 MiB. When they are
    /// this many, writes wait for `fresh_wait_ms` and are then answered with "busy".
    pub fresh_bytes: u64,
    /// From which share of `fresh_bytes` on live writes come in no faster than folds make room, in
    /// percent; default 75. With less, peaks are slowed that would have fitted; with 100, writes
    /// wait for a whole fold when there is no room.
    pub slow_fresh_percent: u64,
    /// How long a live write waits for room before it is answered with "busy", in milliseconds;
    /// default 1,000. What waits counts against the limits of requests; what is refused is sent again.
    pub fresh_wait_ms: u64,
    /// How much of `fresh_bytes` may be taken when a hint from another node comes in, in percent;
    /// default 75. Live writes have the rest for themselves: with more, nodes that drain into this one
    /// keep it busy for its clients; with less, hints wait while clients write much.
    pub hint_fresh_percent: u64,
    /// Fresh bytes of one shard that make it worth folding; default 16 MiB. More makes larger runs
    /// and less merging, and a longer replay after a crash.
    pub fold_bytes: u64,
    /// Fresh bytes taken by one fold at most; default 32 MiB.
    pub fold_limit_bytes: u64,
    /// Cells (rows times fields) that a fold decodes at once, at most, but for the batch that goes
    /// over it; default 8 Mi. A fold takes up to 16 bytes of memory for each, keys and strings
    /// included, and twice `txn_bytes`; more makes larger runs and less merging.
    pub fold_cells: u64,
    /// How long a batch may wait for being folded, in milliseconds; default 10,000.
    pub fold_age_ms: u64,
    /// Rows of a block of one series; default 8,192. More compresses better; a read decodes whole
    /// columns of blocks. Series with less than 512 rows share blocks of up to 4,096 rows.
    pub block_rows: usize,
    /// Bytes of a block before encoding, roughly; default 512 KiB.
    pub block_bytes: usize,
    /// Bytes written by one transaction, a quarter of those of a dense pass; default 256 KiB. More writes
    /// a little less in all and takes new series in faster, and acknowledgements wait longer behind its sync.
    pub txn_bytes: usize,
    /// Runs of one size tier that are merged into one; default 4.
    pub merge_runs: usize,
    /// Runs of a shard that wait for being merged, at most; default 64. A shard with more is not folded
    /// before it is merged, so that under too much load writes are answered with "busy" and reads stay
    /// as fast as they are. From half of it on, merges of small runs go before everything else. More
    /// rides out longer peaks.
    pub max_runs: usize,
    /// Runs larger than this, in bytes, are not merged any more; default 512 MiB. A merge takes
    /// memory of 2 `block_bytes` for each run it reads (at most twice `merge_runs`), 4 `block_bytes`
    /// for what it writes, and 2 `txn_bytes`. Runs up to a sixteenth of it are small: merging them does
    /// not wait for a merge of larger ones or a dense pass.
    pub merge_limit_bytes: u64,
    /// Threads that fold, merge and rewrite shards; default 2. Folds come first, and from 2 on one
    /// thread is left for them. So much memory is taken at most: one fold (see `fold_cells`) and,
    /// for each further thread, a fold, a merge or a dense pass, whichever is largest, and a merge
    /// of small runs, which goes first.
    pub compaction_threads: usize,
    /// How far folds step back behind the rest of the node, 0 (not at all) to 19, as for `nice(1)`;
    /// default 10. On a busy processor, with less, acknowledgements wait for folds; with more, folds
    /// fall behind other programs and writes are answered with "busy" in the end. Besides, folds and
    /// merges let whoever waits go first after each block, until fresh data takes half of
    /// `slow_fresh_percent`.
    pub fold_nice: u8,
    /// As `fold_nice`, of merges and dense passes; default 19. With less they slow folds down, with
    /// which acknowledgements wait once the memory for fresh data is full.
    pub merge_nice: u8,
    /// How long a merge in the background rests after each transaction, in percent of the time that
    /// took; default 100. Without rest, merges keep the disk from acknowledgements; with more of it
    /// they fall behind sooner. There is no rest while a shard has more than half of `max_runs`.
    pub merge_pause_percent: u32,
    /// What is freed at once of a large file that is deleted, in bytes; default 8 MiB. A file system
    /// keeps every sync waiting while it frees; less disturbs acknowledgements less.
    pub delete_piece_bytes: u64,
    /// How long others have the file system to themselves after each piece, in milliseconds; default 5.
    /// With more, dropped shards take longer to give their space back.
    pub delete_pause_ms: u64,
    /// How long after its end a shard is taken for over, in milliseconds; default 600,000. Rows may
    /// still come later; each dense pass they lead to rewrites the shard.
    pub dense_after_ms: u64,
    /// How long a shard that is over must have been without folds before it is rewritten densely, in
    /// milliseconds; default 60,000.
    pub dense_idle_ms: u64,
    /// How much must have come since the last dense pass, in percent of what it wrote, for another
    /// one; default 10.
    pub dense_ratio_percent: u64,
    /// Rows of a block of one series in a dense run; default 16,384. More compresses better. A dense
    /// pass takes memory of 24 bytes per series, 64 `block_bytes` for reading, 16 for writing, and
    /// 512 `txn_bytes`; and, while it runs, room on the disk for the shard once more.
    pub dense_block_rows: usize,
    /// Stored bytes a scan reads in one read transaction, and bytes of a page of its items; default
    /// 1 MiB. What is read takes up to eight times that in memory.
    pub scan_bytes: usize,
    /// Series a database may have in one of its shard groups, in the shards of that group which
    /// this node owns; default 10,000,000. A live write that would add a series to a group at this
    /// number is refused with `SeriesLimit`. Counted are series in runs, so that a group exceeds
    /// it by what is fresh when it gets there (at most what fits into `fresh_bytes`) and by hints,
    /// which are never refused. Each series costs disk for its key and its place in the index, and
    /// time in every fold.
    pub max_series_per_database: u64,
    /// Memory for the ids of series, of all open shards together, in bytes; default 64 MiB. A series
    /// takes 22 to 43 bytes. Folds look up on disk what is not there, which takes them several times
    /// as long when a fold has a few rows of each series; more serves more active series.
    pub series_cache_bytes: usize,
    /// Decoded blocks shared by several series that a scan keeps in memory, in bytes; default 32 MiB.
    /// With less, a scan may decode blocks again and again if the order of keys is not that of
    /// arrival.
    pub scan_cache_bytes: usize,
    /// Series selected by the index whose keys a scan reads one by one; default 16,384, some hundred
    /// bytes each. With more, it walks over all keys of the measurement.
    pub scan_series: usize,
    /// Windows of fields (about 200 bytes each) an aggregation collects of one series before it gives
    /// them out; default 16,384.
    pub aggregate_partials: usize,
    /// Buckets of a digest at most; default 100,000. About 100 bytes each.
    pub digest_buckets: usize,
    /// What "busy" tells the sender to wait, in milliseconds; default 50.
    pub busy_retry_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_open_shards: 64,
            map_bytes: 64 << 20,
            max_map_bytes: 64 << 30,
            readers: 512,
            fresh_bytes: 192 << 20,
            slow_fresh_percent: 75,
            fresh_wait_ms: 1_000,
            hint_fresh_percent: 75,
            fold_bytes: 16 << 20,
            fold_limit_bytes: 32 << 20,
            fold_cells: 8 << 20,
            fold_age_ms: 10_000,
            block_rows: 8192,
            block_bytes: 512 << 10,
            txn_bytes: 256 << 10,
            merge_runs: 4,
            max_runs: 64,
            merge_limit_bytes: 512 << 20,
            compaction_threads: 2,
            fold_nice: 10,
            merge_nice: 19,
            merge_pause_percent: 100,
            delete_piece_bytes: 8 << 20,
            delete_pause_ms: 5,
            dense_after_ms: 600_000,
            dense_idle_ms: 60_000,
            dense_ratio_percent: 10,
            dense_block_rows: 16_384,
            scan_bytes: 1 << 20,
            max_series_per_database: 10_000_000,
            series_cache_bytes: 64 << 20,
            scan_cache_bytes: 32 << 20,
            scan_series: 16_384,
            aggregate_partials: 16_384,
            digest_buckets: 100_000,
            busy_retry_ms: 50,
        }
    }
}
