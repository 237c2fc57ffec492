//! A client under full load, in a process of its own, so that its memory can be seen from outside.
//!
//! `quorate-loader-under-test CONNECT CERTS DB BUDGET TASKS BYTES`: so many tasks write one row of so many
//! bytes after the other at quorum, until standard input ends. Every 50 ms one line of numbers: rows
//! acknowledged, writes failed, bytes of the budget in use; the last line comes when the client is closed.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quorate_client::{Batch, Client, Point, WriteOptions};
use quorate_tests::harness::load::EPOCH;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Counts {
    next: AtomicU64,
    acked: AtomicU64,
    failed: AtomicU64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [connect, certs, database, budget, tasks, bytes] = &args[..] else {
        panic!("CONNECT CERTS DB BUDGET TASKS BYTES, not {args:?}")
    };
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let seeds = connect.split(',').map(str::to_owned);
        let client = Client::builder().seeds(seeds).certificates(certs);
        let client = client.budget_bytes(budget.parse().unwrap()).connect().await.unwrap();
        run(client, database, tasks.parse().unwrap(), bytes.parse().unwrap()).await;
    });
}

async fn run(client: Client, database: &str, tasks: u64, bytes: usize) {
    let counts = Arc::new(Counts::default());
    let stop = CancellationToken::new();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let work = work(client.clone(), database.to_owned(), task, bytes, Arc::clone(&counts));
            tokio::spawn(stop.clone().run_until_cancelled_owned(work))
        })
        .collect();
    let ended = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.cancel();
    });
    while !stop.is_cancelled() {
        sleep(Duration::from_millis(50)).await;
        tell(&client, &counts);
    }
    for task in running {
        task.await.unwrap();
    }
    client.settle(Duration::from_secs(60)).await;
    tell(&client, &counts);
    client.close().await;
}

async fn work(client: Client, database: String, task: u64, bytes: usize, counts: Arc<Counts>) {
    let mut state = task | 1;
    let text: String = (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            char::from(b' ' + (state >> 58) as u8)
        })
        .collect();
    let (options, mut batch) = (WriteOptions::default(), Batch::new());
    loop {
        let time = EPOCH + counts.next.fetch_add(1, Ordering::Relaxed) as i64;
        let point =
            Point::builder("load").tag("task", task.to_string()).field("text", text.clone());
        batch.clear_rows();
        batch.push(&point.at(time).unwrap());
        match client.write(&database, &batch, &options).await {
            Ok(_) => counts.acked.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                eprintln!("{error}");
                // A refusal at once must not become a loop without a pause.
                sleep(Duration::from_millis(10)).await;
                counts.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

fn tell(client: &Client, counts: &Counts) {
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!("{} {} {}", load(&counts.acked), load(&counts.failed), client.usage().budget_bytes);
}
