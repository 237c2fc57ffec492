//! Writers: tasks that write deterministic points into a ledger until they are told to stop.
//!
//! Invariant: the points of a writer depend on its number and on how many it has written, and no two
//! writers write the same row; what a write came to is recorded before the next begins. Used by
//! tests that break something under load.

use std::{sync::Arc, time::Duration};

use quorate_client::{Client, Receipt, WriteError, WriteOptions};
use quorate_protocol::{batch::Batch, point::Point};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::history::Ledger;

/// Time of the first points, in ns: 2023-11-14, a moment before every simulated clock starts.
pub const EPOCH: i64 = 1_699_999_999_000_000_000;

/// The `n`th point of a writer: three fields of different types, one of eight series per writer.
#[must_use]
pub fn sample(writer: u64, n: u64) -> Point {
    let n = i64::try_from(n).unwrap();
    Point::builder("cpu")
        .tag("host", format!("w{writer}-{}", n % 8))
        .tag("region", "north")
        .field("usage", n as f64 / 4.0)
        .field("count", n)
        .field("state", if n % 3 == 0 { "idle" } else { "busy, or so" })
        .at(EPOCH + n * 1_000_000)
        .unwrap()
}

/// A point of about `bytes` bytes that do not compress, one series.
///
/// # Panics
/// If `n` is no time.
#[must_use]
pub fn large(n: u64, bytes: usize) -> Point {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let text: String = (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'a' + (state % 26) as u8)
        })
        .collect();
    let n = i64::try_from(n).unwrap();
    Point::builder("large").tag("t", "t").field("text", text).at(EPOCH + n).unwrap()
}

/// One write of the points, recorded.
pub async fn write(
    client: &Client,
    database: &str,
    points: &[Point],
    options: &WriteOptions,
    ledger: &Ledger,
) -> Result<Receipt, WriteError> {
    let mut batch = Batch::new();
    points.iter().for_each(|point| batch.push(point));
    let result = client.write(database, &batch, options).await;
    ledger.record(points, &result);
    result
}

/// One finished write of a writer.
#[derive(Clone, Debug)]
pub struct Done {
    /// When it began.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// How it failed, if it did.
    pub error: Option<String>,
}

/// A running writer.
#[derive(Debug)]
pub struct Writer {
    stop: CancellationToken,
    acked: watch::Receiver<usize>,
    task: JoinHandle<Vec<Done>>,
}

impl Writer {
    /// Starts one: `rows` points per write, one write after the other with `pause` between them.
    #[must_use]
    pub fn start(
        client: &Client,
        database: &str,
        number: u64,
        rows: u64,
        pause: Duration,
        options: WriteOptions,
        ledger: &Arc<Ledger>,
    ) -> Self {
        let (client, database, ledger) = (client.clone(), database.to_owned(), Arc::clone(ledger));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (count, acked) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut done = Vec::new();
            let mut next = 0;
            while !stopped.is_cancelled() {
                let points: Vec<Point> = (next..next + rows).map(|n| sample(number, n)).collect();
                next += rows;
                let at = Instant::now();
                let result = write(&client, &database, &points, &options, &ledger).await;
                count.send_modify(|count| *count += usize::from(result.is_ok()));
                let error = result.err().map(|error| error.to_string());
                done.push(Done { at, took: at.elapsed(), error });
                sleep(pause).await;
            }
            done
        });
        Self { stop, acked, task }
    }

    /// Waits until this many more writes have been acknowledged.
    ///
    /// # Panics
    /// After a minute.
    pub async fn acked(&self, more: usize) {
        let mut acked = self.acked.clone();
        let goal = *acked.borrow() + more;
        let reached = acked.wait_for(|count| *count >= goal);
        let reached = tokio::time::timeout(super::observe::PATIENCE, reached).await;
        assert!(reached.is_ok(), "the writer got no {more} more writes through");
    }

    /// Stops it after the write it is in, and says what it did.
    pub async fn stop(self) -> Vec<Done> {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}
