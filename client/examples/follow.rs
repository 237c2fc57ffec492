//! Follows a database: prints every row that is written, as it comes, or what was missed.
//!
//! Usage: `follow [BATCHES]`, or until ctrl-c. Needs a database `metrics`, `QUORATE_CONNECT` and
//! `QUORATE_CERTS` as in `quickstart`.

#![allow(clippy::print_stdout)]

use std::{env, error::Error};

use quorate_client::{Client, Event, Subscription};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let batches = env::args().nth(1).map_or(Ok(usize::MAX), |count| count.parse())?;
    let client = Client::builder()
        .seeds(env::var("QUORATE_CONNECT")?.split(','))
        .certificates(env::var("QUORATE_CERTS")?)
        .connect()
        .await?;
    let mut subscription = client.subscribe("metrics", None).await?;
    let followed = tokio::select! {
        followed = run(&mut subscription, batches) => followed,
        _ = tokio::signal::ctrl_c() => Ok(0),
    };
    client.close().await;
    followed?;
    Ok(())
}

/// The rows of so many batches.
pub(crate) async fn run(
    subscription: &mut Subscription,
    batches: usize,
) -> Result<usize, Box<dyn Error>> {
    let (mut rows, mut heard) = (0, 0);
    while heard < batches
        && let Some(event) = subscription.next().await
    {
        match event? {
            Event::Batch(batch) => {
                print!("{}", String::from_utf8_lossy(&batch.lines()?));
                rows += batch.header().rows as usize;
                heard += 1;
            }
            // What was missed is stored all the same: a query reads it.
            Event::Gap(gap) => println!("# shard {}: {} ({:?})", gap.shard, gap.reason, gap.missed),
            _ => {}
        }
    }
    Ok(rows)
}
