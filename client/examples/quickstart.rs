//! Writes one point at quorum, says where its copies are, and waits until every owner has it.
//!
//! Needs a cluster with a database `metrics`: `QUORATE_CONNECT` names nodes to begin with
//! (`HOST:PORT`, separated by commas), `QUORATE_CERTS` the folder of a client certificate.

#![allow(clippy::print_stdout)]

use std::{
    env,
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quorate_client::{Batch, Client, Level, Point, WriteOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::builder()
        .seeds(env::var("QUORATE_CONNECT")?.split(','))
        .certificates(env::var("QUORATE_CERTS")?)
        .connect()
        .await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let result = run(&client, i64::try_from(now.as_nanos())?).await;
    client.close().await;
    result
}

pub(crate) async fn run(client: &Client, now_ns: i64) -> Result<(), Box<dyn Error>> {
    let mut batch = Batch::new();
    batch.push(&Point::builder("cpu").tag("host", "a").field("usage", 12.5).at(now_ns)?);

    let options = WriteOptions::at(Level::Quorum);
    let receipt = match client.write("metrics", &batch, &options).await {
        Ok(receipt) => receipt,
        // The rows that it names, once more, as part of the same write: that is always safe.
        Err(error) => {
            println!("{:?}: {error}", error.kind());
            client.resend("metrics", &batch, &error, &options).await?
        }
    };
    for copy in receipt.parts.iter().flat_map(|part| &part.copies) {
        println!("node {}: {:?}", copy.owner, copy.state);
    }
    match client.converged(&receipt, Duration::from_secs(10)).await {
        Ok(()) => println!("every owner has it"),
        Err(lacks) => println!("{lacks}"),
    }
    Ok(())
}
