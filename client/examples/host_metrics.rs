//! An agent: samples this host once a second and writes what it found, by handles made once.
//!
//! Needs a database `metrics`, `QUORATE_CONNECT` and `QUORATE_CERTS` as in `quickstart`. Samples
//! `/proc/loadavg`, until ctrl-c or for `QUORATE_SAMPLES` times. While no write gets through it keeps
//! sampling: what has failed goes with the next batch, up to a bound.

#![allow(clippy::print_stdout)]

use std::{
    env,
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quorate_client::{Batch, Client, Layout};
use tokio::time::{MissedTickBehavior, interval};

/// Samples that are kept while the cluster takes none; then the batch is given up.
const KEPT: usize = 3_600;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::builder()
        .seeds(env::var("QUORATE_CONNECT")?.split(','))
        .certificates(env::var("QUORATE_CERTS")?)
        .connect()
        .await?;
    let samples = env::var("QUORATE_SAMPLES").map_or(Ok(u64::MAX), |count| count.parse())?;
    let host = env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
    let sampled = tokio::select! {
        sampled = run(&client, &host, samples, now_ns) => sampled.map(|rows| println!("{rows} rows")),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    client.close().await;
    sampled
}

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Rows that were written.
pub(crate) async fn run(
    client: &Client,
    host: &str,
    samples: u64,
    now_ns: impl Fn() -> i64,
) -> Result<usize, Box<dyn Error>> {
    let load = Layout::builder("load").float("one").float("five").float("fifteen").build()?;
    let series = load.series(&[("host", host)])?;
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut batch, mut written) = (Batch::new(), 0);
    for _ in 0..samples {
        ticks.tick().await;
        let (one, five, fifteen) = averages()?;
        batch.fill(&load).push(&series, now_ns(), (one, five, fifteen))?;
        match client.write("metrics", &batch, client.options()).await {
            Ok(receipt) => {
                written += receipt.rows();
                // The series stay: only rows go.
                batch.clear_rows();
            }
            Err(error) => {
                println!("{} samples wait: {error}", batch.rows());
                if !error.retryable() || batch.rows() >= KEPT {
                    batch.clear_rows();
                }
            }
        }
    }
    Ok(written)
}

fn averages() -> Result<(f64, f64, f64), Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let mut next = || numbers.next().ok_or("three averages were expected in /proc/loadavg");
    Ok((next()??, next()??, next()??))
}
