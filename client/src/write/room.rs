//! Waiting for room in the client's budget.
//!
//! Invariant: nobody who waits is overtaken; while somebody waits, what slow owners hold and the level does not
//! need makes room ([`crate::backlog`]).

use std::pin::pin;

use tokio::time::{Instant, timeout};

use super::{Call, Full};
use crate::{budget::Share, history::Step};

impl Call<'_> {
    /// A share of the budget, or none if there is no room in time.
    pub(super) async fn room(&self, bytes: usize) -> Option<Share> {
        let budget = &self.core.budget;
        let bytes = u32::try_from(bytes.min(self.core.config.budget_bytes)).unwrap_or(u32::MAX);
        if let Some(share) = Share::at_once(budget, bytes) {
            return Some(share);
        }
        let begun = Instant::now();
        let backlog = &self.core.backlog;
        // Slow owners that the level does not need make room, in a moment.
        let _wanted = backlog.want(bytes as usize);
        let share = match self.full {
            Full::Refuse => None,
            Full::Wait => {
                let mut room = pin!(Share::by(budget, bytes, self.goal.deadline));
                loop {
                    match timeout(backlog.pause(), &mut room).await {
                        Ok(share) => break share,
                        Err(_) => backlog.make_room(),
                    }
                }
            }
        };
        let outcome = if share.is_some() { "found" } else { "refused" };
        metrics::counter!("quorate_client_budget_waits_total", "outcome" => outcome).increment(1);
        let (took, found) = (begun.elapsed(), share.is_some());
        metrics::histogram!("quorate_client_budget_wait_seconds").record(took);
        self.notes.add(|| Step::RoomAwaited { took, found });
        share
    }
}
