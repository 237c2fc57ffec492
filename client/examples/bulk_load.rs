//! Loads a file of line protocol, a piece at a time in flat memory, and reports the lines that are none.
//!
//! Usage: `bulk_load FILE`. Needs a database `metrics`, `QUORATE_CONNECT` and `QUORATE_CERTS` as in
//! `quickstart`. A string value with a newline in it must not be cut; this one assumes there are none.

#![allow(clippy::print_stdout)]

use std::{
    env,
    error::Error,
    fs::File,
    io::{BufRead, BufReader, Read},
};

use quorate_client::{Client, Level, LineOptions, WriteOptions};

/// Bytes of a piece, about.
const PIECE: u64 = 1 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("usage: bulk_load FILE")?;
    let client = Client::builder()
        .seeds(env::var("QUORATE_CONNECT")?.split(','))
        .certificates(env::var("QUORATE_CERTS")?)
        .connect()
        .await?;
    let loaded = run(&client, BufReader::new(File::open(path)?), PIECE).await;
    client.close().await;
    let (written, rejected) = loaded?;
    println!("{written} points written, {rejected} lines rejected");
    Ok(())
}

/// Points that were written and lines that were rejected.
pub(crate) async fn run(
    client: &Client,
    mut file: impl BufRead,
    piece: u64,
) -> Result<(usize, usize), Box<dyn Error>> {
    let options = LineOptions::from(&WriteOptions::at(Level::Quorum));
    let (mut written, mut rejected, mut lines_before) = (0, 0, 0);
    let mut text = Vec::new();
    loop {
        text.clear();
        file.by_ref().take(piece).read_to_end(&mut text)?;
        // The rest of the line that was cut.
        file.read_until(b'\n', &mut text)?;
        if text.is_empty() {
            return Ok((written, rejected));
        }
        let loaded = match client.write_lines("metrics", &text, &options).await {
            Ok(loaded) => loaded,
            // A moment's trouble: what is left of the piece, once more.
            Err(error) if error.write.retryable() => {
                let (batch, failed) = (&error.batch, &error.write);
                let receipt = client.resend("metrics", batch, failed, &options.write).await?;
                written += failed.receipt.rows();
                quorate_client::LinesReceipt {
                    receipt,
                    lines: error.lines,
                    rejected: error.rejected,
                }
            }
            Err(error) => return Err(error.into()),
        };
        for bad in &loaded.rejected {
            println!("line {} column {}: {}", lines_before + bad.line, bad.column, bad.reason);
        }
        written += loaded.receipt.rows();
        rejected += loaded.rejected.len();
        lines_before += text.iter().filter(|byte| **byte == b'\n').count();
    }
}
