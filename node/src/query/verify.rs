//! Answering verifications: everything a node stores of a shard, read and checked.
//!
//! Invariant: what is damaged is reported, not served and not mended; the answer is bounded.

use quorate_protocol::message::{Failure, ShardProblem, Verified, Verify};

use crate::{core::Core, shard::VerifyReport};

/// Bytes of a problem's description at most: a hundred of them fit into a header.
const MAX_DETAIL: usize = 400;

impl Core {
    /// Verifies a shard that this node owns.
    pub(crate) async fn verify(&self, request: Verify) -> Result<Verified, Failure> {
        self.owned(request.shard, request.meta_index).await?;
        let mut verification = self.shards.verify_begin(request.shard);
        loop {
            let page = self.shards.verify_page(verification).await;
            let (rest, done) = page.map_err(|error| self.shard_failure(&error))?;
            match done {
                Some(report) => return Ok(verified(report)),
                None => verification = rest,
            }
        }
    }
}

/// A report as it travels.
pub(crate) fn verified(report: VerifyReport) -> Verified {
    let problem = |problem: crate::shard::Problem| {
        let mut detail = problem.detail;
        let end = (0..=MAX_DETAIL.min(detail.len())).rev().find(|at| detail.is_char_boundary(*at));
        detail.truncate(end.unwrap_or(0));
        ShardProblem { kind: problem.kind.name().to_owned(), detail }
    };
    Verified {
        runs: report.runs,
        blocks: report.blocks,
        bytes: report.bytes,
        rows: report.rows,
        values: report.values,
        series: report.series,
        garbage_blocks: report.garbage_blocks,
        garbage_bytes: report.garbage_bytes,
        found: report.found,
        problems: report.problems.into_iter().take(100).map(problem).collect(),
    }
}
