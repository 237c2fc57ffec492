//! Many tasks that share a [`Writer`]: each pushes single points and hears of its own outcomes, and
//! they travel together.
//!
//! Needs a database `metrics`, `QUORATE_CONNECT` and `QUORATE_CERTS` as in `quickstart`.

#![allow(clippy::print_stdout)]

use std::{
    env,
    error::Error,
    time::{SystemTime, UNIX_EPOCH},
};

use quorate_client::{Client, Point, PointError, Pushed, Writer, WriterConfig, WriterStats};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::builder()
        .seeds(env::var("QUORATE_CONNECT")?.split(','))
        .certificates(env::var("QUORATE_CERTS")?)
        .connect()
        .await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let stats = run(&client, 64, 100, i64::try_from(now.as_nanos())?).await;
    client.close().await;
    let stats = stats?;
    println!("{} points in {} batches, {} failed", stats.written, stats.batches, stats.failed);
    Ok(())
}

pub(crate) async fn run(
    client: &Client,
    tasks: i64,
    points: i64,
    now_ns: i64,
) -> Result<WriterStats, Box<dyn Error>> {
    let writer = client.writer("metrics", WriterConfig::default());
    let running: Vec<_> =
        (0..tasks).map(|task| tokio::spawn(work(writer.clone(), task, points, now_ns))).collect();
    for task in running {
        task.await??;
    }
    // Nothing is waiting any more here; a service that stops early closes it for this.
    writer.close().await;
    Ok(writer.stats())
}

async fn work(writer: Writer, task: i64, points: i64, now_ns: i64) -> Result<(), PointError> {
    for n in 0..points {
        let point = Point::builder("requests")
            .tag("task", task.to_string())
            .field("served", n)
            .at(now_ns + n)?;
        match writer.write(&point).await {
            Ok(Pushed::Written(_)) => {}
            Ok(_) => println!("task {task}: too old, dropped"),
            // The writer has tried again already, for as long as a write may take.
            Err(error) => println!("task {task}: {error}"),
        }
    }
    Ok(())
}
