//! Line protocol, straight into a batch and on its way.
//!
//! Invariant: a line that is refused never costs its neighbours, and is told whatever becomes of them.
//! Called through [`Client::write_lines`]; the parser is [`quorate_protocol::line`].

use std::fmt;

use quorate_protocol::{
    batch::Batch,
    line::{self, LineError, Precision},
};

use crate::{Client, config::WriteOptions, error::WriteError, receipt::Receipt};

/// How lines are read and written.
#[derive(Clone, Debug, Default)]
pub struct LineOptions {
    /// The unit of the times in the text. Default nanoseconds.
    pub precision: Precision,
    /// The time of lines without one, ns since the Unix epoch, truncated to `precision`. None, the
    /// default, takes the time of the call.
    pub default_time: Option<i64>,
    /// How the good lines are written.
    pub write: WriteOptions,
}

impl From<&WriteOptions> for LineOptions {
    /// Times in nanoseconds, lines without one get the time of the call.
    fn from(write: &WriteOptions) -> Self {
        Self { write: write.clone(), ..Self::default() }
    }
}

/// What became of a text whose good lines have reached their level.
#[derive(Clone, Debug)]
pub struct LinesReceipt {
    /// Where the good lines are.
    pub receipt: Receipt,
    /// Lines that were neither blank nor comments.
    pub lines: usize,
    /// The lines that were refused, in order: nothing of them was written.
    pub rejected: Vec<LineError>,
}

/// Some of the good lines did not reach their level.
#[derive(Debug)]
pub struct LinesError {
    /// Which, and why. Its rows are those of `batch`.
    pub write: WriteError,
    /// The good lines, for [`Client::resend`].
    pub batch: Box<Batch>,
    /// Lines that were neither blank nor comments.
    pub lines: usize,
    /// The lines that were refused, in order: nothing of them was written.
    pub rejected: Vec<LineError>,
}

impl fmt::Display for LinesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.write)?;
        match self.rejected.first() {
            Some(first) => write!(f, "; {} lines rejected, first {first}", self.rejected.len()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for LinesError {}

impl Client {
    /// Writes the good lines of a text in line protocol, and says which lines are none, with line, column
    /// and reason. The whole text is one batch, parsed before anything is sent: cut large files between
    /// lines, into pieces of about 1 MiB. A text without a good line is no error.
    ///
    /// # Errors
    /// As [`Client::write`], with the batch of the good lines, so that its rows can be sent again.
    pub async fn write_lines(
        &self,
        database: &str,
        text: impl AsRef<[u8]>,
        options: &LineOptions,
    ) -> Result<LinesReceipt, LinesError> {
        let default_time = options
            .default_time
            .unwrap_or_else(|| i64::try_from(self.core.env.clock.wall_ns()).unwrap_or(i64::MAX));
        let read = line::Options { precision: options.precision, default_time };
        let mut batch = Batch::new();
        let line::Outcome { lines, errors: rejected, .. } =
            line::parse_into(&mut batch, text.as_ref(), read);
        metrics::counter!("quorate_client_rejected_lines_total").increment(rejected.len() as u64);
        match self.write(database, &batch, &options.write).await {
            Ok(receipt) => Ok(LinesReceipt { receipt, lines, rejected }),
            Err(write) => Err(LinesError { write, batch: Box::new(batch), lines, rejected }),
        }
    }
}
