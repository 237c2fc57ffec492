//! Whether space that is freed is used again: one shard, all of whose rows are written anew with
//! higher versions, ten times over.

use std::{path::Path, sync::Arc};

use quorate_benches::{
    fleet::{BATCH_ROWS, Parts, Shape},
    probe::disk_usage,
    report::{Line, Summary},
};
use quorate_node::shard::Config;

use super::{Plan, engine::Engine, spool::SHARD};

const ROUNDS: u64 = 10;

pub(crate) fn parent(plan: &Plan, summary: &mut Summary) -> String {
    let rows = plan.scale(2_000_000, 50_000);
    let dir = plan.dir.join("space").display().to_string();
    for _ in 0..plan.runs {
        let rows = rows.to_string();
        plan.child(summary, &["space".into(), dir.clone(), "1000".into(), rows]);
    }
    let size = |round: u64| summary.median(&format!("space round={round}"), "shard_mb");
    let ratio = size(ROUNDS).zip(size(3)).map(|(last, third)| last / third);
    Summary::goal("space, tenth round over third", ratio, None, Some(1.25))
}

pub(crate) async fn run(dir: &Path, hosts: usize, rows: usize) {
    // Folded and merged when a round is over, so that sizes do not depend on chance.
    let engine = Arc::new(Engine::open(dir, Config::default(), false));
    let parts = rows / BATCH_ROWS;
    for round in 1..=ROUNDS {
        let shape = Shape { hosts, ..Shape::default() };
        let fleet = Parts::new(shape, SHARD).later(round * parts as u64);
        let fleet = std::sync::Mutex::new(fleet);
        engine
            .write_all(move |at| {
                let part = (at < parts).then(|| fleet.lock().ok()?.next(BATCH_ROWS).ok());
                part.flatten()
            })
            .await;
        engine.flush(SHARD).await;
        engine.settle(SHARD).await;
        let settled = disk_usage(&dir.join("shards"));
        engine.densify(SHARD).await;
        let dense = disk_usage(&dir.join("shards"));
        let line = Line::new("space").case("round", round);
        let line = line.figure("shard_mb", settled as f64 / 1e6);
        let line = line.figure("dense_mb", dense as f64 / 1e6);
        println!("{}", line.count("rows", rows as u64));
    }
    engine.close().await;
    std::fs::remove_dir_all(dir).expect("the data was written here");
}
