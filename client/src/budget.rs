//! The bytes of encoded parts that a client may have under way.
//!
//! Invariant: whoever holds a [`Share`] has that many bytes; they are free when it is dropped. Taken by a
//! write for each part, and held until the part's last copy has ended.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// Bytes in use by all clients of this process.
const USED: &str = "quorate_client_budget_used_bytes";

/// Some bytes of the budget.
#[derive(Debug)]
pub(crate) struct Share {
    _permit: OwnedSemaphorePermit,
    bytes: u32,
}

impl Share {
    fn new(permit: OwnedSemaphorePermit, bytes: u32) -> Self {
        metrics::gauge!(USED).increment(f64::from(bytes));
        Self { _permit: permit, bytes }
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Some bytes, if they are free; nobody who waits is overtaken.
    pub(crate) fn at_once(budget: &Arc<Semaphore>, bytes: u32) -> Option<Self> {
        let permit = Arc::clone(budget).try_acquire_many_owned(bytes).ok()?;
        Some(Self::new(permit, bytes))
    }

    /// Some bytes, as soon as they are free; none at the deadline.
    pub(crate) async fn by(budget: &Arc<Semaphore>, bytes: u32, deadline: Instant) -> Option<Self> {
        let room = Arc::clone(budget).acquire_many_owned(bytes);
        let permit = timeout_at(deadline, room).await.ok()?.ok()?;
        Some(Self::new(permit, bytes))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        metrics::gauge!(USED).decrement(f64::from(self.bytes));
    }
}
