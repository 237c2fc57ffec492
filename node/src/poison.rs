//! The flag that stops all writes to something whose durability is no longer known.
//!
//! Invariant: set once, never cleared; after a failed sync the kernel may have dropped the dirty
//! pages and will report success next time, so only a restart that reads back what is really on
//! the disk makes the thing usable again. The journal (for the node's writes) and each shard
//! environment own one; sessions ask it before they accept a write.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};

/// The refusal of everything that comes after the first failed write or sync.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} stopped after a disk failure ({cause}); check the disk, then restart the node")]
pub struct Poisoned {
    what: &'static str,
    cause: Arc<str>,
}

/// A shared one-way flag with the first cause.
#[derive(Clone, Debug)]
pub struct Poison {
    what: &'static str,
    cause: Arc<OnceLock<Arc<str>>>,
}

impl Poison {
    /// A clean flag for `what`, which is how errors name the part that stopped.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self { what, cause: Arc::default() }
    }

    /// Sets the flag; the first cause is kept. Returns the error for whoever is waiting.
    pub fn set(&self, cause: impl Display) -> Poisoned {
        let cause = self.cause.get_or_init(|| cause.to_string().into());
        Poisoned { what: self.what, cause: Arc::clone(cause) }
    }

    /// The refusal, if the flag is set.
    ///
    /// # Errors
    /// [`Poisoned`] with the first cause.
    pub fn check(&self) -> Result<(), Poisoned> {
        match self.cause.get() {
            None => Ok(()),
            Some(cause) => Err(Poisoned { what: self.what, cause: Arc::clone(cause) }),
        }
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.cause.get().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_kept_and_shared() {
        let poison = Poison::new("the journal");
        assert!(poison.check().is_ok());
        let other = poison.clone();
        other.set("sync failed");
        poison.set("a later one");
        let refused = poison.check().unwrap_err();
        assert!(poison.is_set());
        assert!(refused.to_string().contains("the journal stopped"));
        assert!(refused.to_string().contains("sync failed"));
    }
}
