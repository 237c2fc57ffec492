//! Who asks metadata for what: writes that begin together often lack the same field or group, and one
//! question does for all of them.
//!
//! Invariant: a question is over when whoever asks it has its answer or goes away, so nobody waits for one
//! that no one asks. Used by [`crate::write`].

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use quorate_protocol::id::{DatabaseId, PolicyId};
use tokio::sync::watch;

/// Whose fields and groups.
pub(crate) type Topic = (DatabaseId, PolicyId);

/// The questions that are being asked.
#[derive(Debug, Default)]
pub(crate) struct Asking(Mutex<BTreeMap<Topic, watch::Receiver<()>>>);

/// A question; over when this is dropped.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    asking: &'a Asking,
    topic: Topic,
    _over: watch::Sender<()>,
}

/// Somebody else's question.
#[derive(Debug)]
pub(crate) struct Asked(watch::Receiver<()>);

impl Asking {
    fn topics(&self) -> MutexGuard<'_, BTreeMap<Topic, watch::Receiver<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to ask.
    ///
    /// # Errors
    /// Somebody is asking already.
    pub(crate) fn begin(&self, topic: Topic) -> Result<Question<'_>, Asked> {
        let mut topics = self.topics();
        if let Some(asked) = topics.get(&topic) {
            return Err(Asked(asked.clone()));
        }
        let (over, asked) = watch::channel(());
        topics.insert(topic, asked);
        Ok(Question { asking: self, topic, _over: over })
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.asking.topics().remove(&self.topic);
    }
}

impl Asked {
    /// Waits until it is over.
    pub(crate) async fn over(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    #[tokio::test]
    async fn one_asks_and_the_others_wait_until_it_is_over() {
        let asking = Asking::default();
        let topic = (DatabaseId(1), PolicyId(1));
        let first = asking.begin(topic).unwrap();
        let other = asking.begin((DatabaseId(1), PolicyId(2))).unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let mut waits = pin!(asking.begin(topic).unwrap_err().over());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        drop(other);
        assert!(waits.as_mut().poll(&mut context).is_pending());
        drop(first);
        waits.await;
        assert!(asking.begin(topic).is_ok(), "the next one asks");
    }
}
