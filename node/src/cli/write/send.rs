//! Parsed batches on their way into a database, and what becomes of each.
//!
//! Invariants: so many batches are under way at most; every line of every batch is counted as
//! written, rejected, dropped or failed, and told if it was not written. Called by `write` and by
//! `hints import`.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use quorate_client::{Client, Receipt, WriteError, WriteOptions};
use quorate_protocol::line::Options;
use tokio::task::JoinSet;

use super::{Chunk, Parsed, Rejects, Tally};
use crate::cli::{fail::Fail, table::grouped};

/// Where batches go.
pub(crate) struct Target {
    /// None sends nothing: what was parsed counts as written.
    pub(crate) client: Option<Client>,
    pub(crate) database: String,
    pub(crate) options: WriteOptions,
    /// Batches under way at the same time; with one, a later batch has the higher version.
    pub(crate) in_flight: usize,
}

/// A batch that has been answered.
struct Answered {
    chunks: Vec<Chunk>,
    points: usize,
    result: Result<Receipt, WriteError>,
}

/// A run of writes.
pub(crate) struct Sending {
    client: Option<Client>,
    database: Arc<str>,
    options: Arc<WriteOptions>,
    in_flight: usize,
    /// How the text was parsed; lines that failed are found by parsing it again.
    pub(crate) parsing: Options,
    pub(crate) rejects: Rejects,
    pub(crate) tally: Tally,
    /// The caller says how far it is.
    pub(crate) bar: ProgressBar,
    tasks: JoinSet<Answered>,
}

impl Sending {
    /// `size` is that of the whole input in bytes, where it is known.
    pub(crate) fn new(
        target: Target,
        parsing: Options,
        rejects: Rejects,
        size: Option<u64>,
    ) -> Self {
        let (bar, style) = match size {
            Some(size) => (
                ProgressBar::new(size),
                "{bar:30} {bytes}/{total_bytes} {msg} {elapsed} left {eta}",
            ),
            None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg} {elapsed}"),
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self {
            client: target.client,
            database: target.database.into(),
            options: Arc::new(target.options),
            in_flight: target.in_flight,
            parsing,
            rejects,
            tally: Tally::default(),
            bar,
            tasks: JoinSet::new(),
        }
    }

    /// Counts and tells what could not be read, and sends the rest once there is a place for it.
    pub(crate) async fn send(&mut self, parsed: Parsed) -> Result<(), Fail> {
        self.rejects.unreadable(&parsed)?;
        self.tally.rejected += parsed.errors.len();
        while self.tasks.len() >= self.in_flight {
            self.answer().await?;
        }
        let Parsed { chunks, batch, points, .. } = parsed;
        if batch.is_empty() {
            return Ok(());
        }
        let Some(client) = self.client.clone() else {
            self.tally.points += points;
            self.tally.batches += 1;
            return Ok(());
        };
        let (database, options) = (Arc::clone(&self.database), Arc::clone(&self.options));
        self.tasks.spawn(async move {
            let result = client.write(&database, &batch, &options).await;
            Answered { chunks, points, result }
        });
        Ok(())
    }

    /// Waits until everything has been answered.
    pub(crate) async fn finish(&mut self) -> Result<(), Fail> {
        while !self.tasks.is_empty() {
            self.answer().await?;
        }
        Ok(())
    }

    /// Takes note of the next batch that has been answered.
    async fn answer(&mut self) -> Result<(), Fail> {
        let Some(answered) = self.tasks.join_next().await else {
            return Ok(());
        };
        let Answered { chunks, points, result } = answered.map_err(Fail::failed)?;
        match result {
            Ok(receipt) => self.tally.written(points, &receipt),
            Err(error) => {
                self.tally.failed(points, &error);
                self.rejects.failed(chunks, self.parsing, &error.failed)?;
            }
        }
        self.bar.set_message(format!("{} points", grouped(self.tally.points as u64)));
        Ok(())
    }
}
