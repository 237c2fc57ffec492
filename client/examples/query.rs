//! Reads back: the rows of one host, and their mean per minute.
//!
//! Usage: `query [HOST]`. Needs a database `metrics`, `QUORATE_CONNECT` and `QUORATE_CERTS` as in
//! `quickstart`, which writes what this reads.

#![allow(clippy::print_stdout)]

use std::{env, error::Error};

use quorate_client::{Client, Level, Query};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let host = env::args().nth(1).unwrap_or_else(|| "a".to_owned());
    let client = Client::builder()
        .seeds(env::var("QUORATE_CONNECT")?.split(','))
        .certificates(env::var("QUORATE_CERTS")?)
        .connect()
        .await?;
    let read = run(&client, &host).await;
    client.close().await;
    let (rows, minutes) = read?;
    println!("{rows} rows in {minutes} minutes");
    Ok(())
}

/// How many rows there are, and in how many minutes.
pub(crate) async fn run(client: &Client, host: &str) -> Result<(usize, usize), Box<dyn Error>> {
    let query = Query::builder("metrics")
        .measurement("cpu")
        .tag("host", host)
        // What a quorum has acknowledged, a quorum reads.
        .level(Level::Quorum)
        .build()?;
    let (mut count, mut minutes) = (0, 0);
    let mut rows = client.query(query.clone()).await?;
    // A stream that ends without an error is whole.
    while let Some(series) = rows.next().await {
        let (key, rows) = series?;
        println!("{}: {} rows", String::from_utf8_lossy(&key), rows.len());
        count += rows.len();
    }
    let mut windows = client.aggregate(query, 60_000_000_000).await?;
    while let Some(series) = windows.next().await {
        let series = series?;
        for field in &series.fields {
            println!("{}: {} windows", String::from_utf8_lossy(&series.key), field.windows.len());
            minutes += field.windows.len();
        }
    }
    Ok((count, minutes))
}
