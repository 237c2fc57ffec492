//! A shard store in a process of its own, whose end is what a test looks at.
//!
//! Invariant: exits with 0 and one JSON line if the store answered, also with an error. Commands:
//! `scan DIR SHARD`, `fold DIR SHARD`, `many DIR COUNT OPEN`, `reopen DIR COUNT OPEN`.

use std::{collections::BTreeMap, env, fs, path::Path, time::Instant};

use quorate_node::shard::{Config, ShardError, ShardStore};
use quorate_protocol::id::{Sequence, ShardId};
use quorate_tests::harness::shard::{add_batch, batch, open, open_shards, scan};
use serde_json::{Value, json};

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answer = runtime.block_on(async {
        match words[..] {
            ["scan", dir, shard] => read(Path::new(dir), ShardId(shard.parse().unwrap())),
            ["fold", dir, shard] => fold(Path::new(dir), ShardId(shard.parse().unwrap())).await,
            [mode @ ("many" | "reopen"), dir, count, open] => {
                let (count, open) = (count.parse().unwrap(), open.parse().unwrap());
                many(mode == "many", Path::new(dir), count, open).await
            }
            _ => panic!("unknown command {words:?}"),
        }
    });
    println!("{answer}");
}

fn read(dir: &Path, shard: ShardId) -> Value {
    let store = match open(Config::default(), dir) {
        Ok(store) => store,
        Err(error) => return json!({ "error": error.to_string() }),
    };
    match scan(&store, shard) {
        Ok(found) => {
            let cells: BTreeMap<_, _> = found
                .content
                .into_iter()
                .map(|(at, (version, value))| (at, (version.0, value)))
                .collect();
            json!({ "cells": cells, "damaged": found.damaged })
        }
        Err(error) => json!({ "error": error.to_string() }),
    }
}

async fn fold(dir: &Path, shard: ShardId) -> Value {
    let try_it = async || -> Result<(), ShardError> {
        let store = open(Config::default(), dir)?;
        store.accept(shard, Sequence(1), batch(shard, 1, 0, 10, 10)).unwrap();
        store.flush(shard).await?;
        // Many readers at once touch more of the file they register in.
        std::thread::scope(|threads| {
            let looks: Vec<_> =
                (0..4).map(|_| threads.spawn(|| scan(&store, shard).map(drop))).collect();
            looks.into_iter().for_each(|look| look.join().unwrap().unwrap());
        });
        Ok(())
    };
    match try_it().await {
        Ok(()) => json!({ "error": null }),
        Err(error) => json!({ "error": error.to_string(), "retryable": error.retryable() }),
    }
}

async fn many(new: bool, dir: &Path, count: u64, limit: usize) -> Value {
    let begun = Instant::now();
    let config = Config { max_open_shards: limit, ..Config::default() };
    let store = open(config, dir).unwrap();
    let opened_s = begun.elapsed().as_secs_f64();
    if new {
        for shard in (1..=count).map(ShardId) {
            store.accept(shard, Sequence(shard.0), batch(shard, 1, 0, 2, 2)).unwrap();
            store.flush(shard).await.unwrap();
        }
    }
    let mut most = open_shards(dir).len();
    let mut check = |store: &ShardStore, shard: ShardId| {
        let mut model = BTreeMap::new();
        add_batch(&mut model, &batch(shard, 1, 0, 2, 2));
        assert_eq!(scan(store, shard).unwrap().content, model, "shard {shard}");
        most = most.max(open_shards(dir).len());
    };
    // Far apart, then the same few again and again among others.
    (1..=count).step_by(37).for_each(|shard| check(&store, ShardId(shard)));
    let hot: Vec<u64> = (1..=limit as u64 / 2).map(|n| n * 11 % count + 1).collect();
    let mut hot_closed = 0;
    for cold in 1..=limit as u64 * 2 {
        check(&store, ShardId(cold * 7 % count + 1));
        if cold > 1 {
            let open = open_shards(dir);
            hot_closed += hot.iter().filter(|shard| !open.contains(shard)).count();
        }
        hot.iter().for_each(|shard| check(&store, ShardId(*shard)));
    }
    let open = open_shards(dir);
    json!({
        "seconds": begun.elapsed().as_secs_f64(),
        "opened_s": opened_s,
        "shards": store.shards().len(),
        "open": open.len(),
        "most": most,
        "hot_closed": hot_closed,
        "descriptors": fs::read_dir("/proc/self/fd").unwrap().count(),
        "anon_kb": status("RssAnon:"),
        "resident_kb": status("VmRSS:"),
    })
}

fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
