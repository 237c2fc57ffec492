//! Writes one point at quorum and says where its copies are.
//!
//! Needs a cluster with a database `metrics`: `QUORATE_CONNECT` names nodes to begin with
//! (`HOST:PORT`, separated by commas), `QUORATE_CERTS` the folder of a client certificate.

#![allow(clippy::print_stdout)]

use std::{env, error::Error, path::Path};

use quorate_certs::{Credentials, UnixTime};
use quorate_client::{Client, ClientConfig, Env, WriteOptions};
use quorate_protocol::{batch::Batch, consistency::Level, point::Point};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seeds: Vec<String> = env::var("QUORATE_CONNECT")?.split(',').map(str::to_owned).collect();
    let credentials = Credentials::load(Path::new(&env::var("QUORATE_CERTS")?), UnixTime::now())?;
    let world = Env::system();
    let now_ns = i64::try_from(world.clock.wall_ns())?;
    let client = Client::connect(&seeds, credentials, ClientConfig::default(), world).await?;

    let mut batch = Batch::new();
    batch.push(&Point::builder("cpu").tag("host", "a").field("usage", 12.5).at(now_ns)?);

    match client.write("metrics", &batch, &WriteOptions::at(Level::Quorum)).await {
        Ok(receipt) => {
            for copy in receipt.parts.iter().flat_map(|part| &part.copies) {
                println!("node {}: {:?}", copy.owner, copy.state);
            }
        }
        // Sending the rows again is always safe with the version of the first attempt.
        Err(error) => {
            println!("{:?}, version {}: {error}", error.kind(), error.receipt.version);
        }
    }
    client.close().await;
    Ok(())
}
