//! Where blocking work runs.
//!
//! Invariant: with [`Executor::Inline`] nothing ever leaves the caller's thread, so that a
//! simulation's virtual clock cannot run ahead of a disk. Used by [`super::ShardStore`].

use super::error::ShardError;

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Executor {
    /// On the caller's thread: for simulations under a paused clock.
    Inline,
    /// On tokio's threads for blocking work.
    #[default]
    Blocking,
}

impl Executor {
    /// Runs `work` and gives its result back. Once started, it runs to its end even if the caller
    /// goes away.
    ///
    /// # Errors
    /// [`ShardError::Closed`] if the runtime stops or `work` panics.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ShardError> {
        match self {
            Self::Inline => Ok(work()),
            Self::Blocking => tokio::task::spawn_blocking(work)
                .await
                .map_err(|_| ShardError::Closed),
        }
    }
}
