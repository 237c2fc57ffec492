//! Who asks metadata for what: writes that begin together often lack the same field or group, and one
//! question does for all of them.
//!
//! Invariants: nothing is asked for by two questions at a time that both came through here; a question is
//! over when whoever asks it has its answer or goes away, so nobody waits for one that no one asks. Used by
//! [`crate::write`].

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use quorate_protocol::id::{DatabaseId, PolicyId};
use tokio::sync::watch;

/// What a row needs and the map does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lack {
    /// A field, by the names of its measurement and its own.
    Field(DatabaseId, Bytes, Bytes),
    /// The shard group that begins at this time.
    Group(PolicyId, i64),
}

/// What is being asked for.
#[derive(Debug, Default)]
pub(crate) struct Asking(Mutex<BTreeMap<Lack, watch::Receiver<()>>>);

/// A question; over when this is dropped.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    asking: &'a Asking,
    about: Vec<Lack>,
    _over: watch::Sender<()>,
}

/// Somebody else's question.
#[derive(Debug)]
pub(crate) struct Asked(watch::Receiver<()>);

impl Asking {
    fn under_way(&self) -> MutexGuard<'_, BTreeMap<Lack, watch::Receiver<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to ask.
    ///
    /// # Errors
    /// Somebody is asking for some of it already.
    pub(crate) fn begin(&self, about: Vec<Lack>) -> Result<Question<'_>, Asked> {
        let mut under_way = self.under_way();
        if let Some(asked) = about.iter().find_map(|lack| under_way.get(lack)) {
            return Err(Asked(asked.clone()));
        }
        let (over, asked) = watch::channel(());
        under_way.extend(about.iter().map(|lack| (lack.clone(), asked.clone())));
        Ok(Question { asking: self, about, _over: over })
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut under_way = self.asking.under_way();
        for lack in &self.about {
            under_way.remove(lack);
        }
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
    async fn one_asks_and_whoever_lacks_some_of_it_waits_until_that_is_over() {
        let asking = Asking::default();
        let group = |start| Lack::Group(PolicyId(1), start);
        let field = Lack::Field(DatabaseId(1), "cpu".into(), "usage".into());
        let first = asking.begin(vec![field.clone(), group(0)]).unwrap();
        let other = asking.begin(vec![group(60)]).unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let mut waits = pin!(asking.begin(vec![group(120), field]).unwrap_err().over());
        assert!(asking.begin(vec![group(120)]).is_ok(), "nobody asks for that yet");
        assert!(waits.as_mut().poll(&mut context).is_pending());
        drop(other);
        assert!(waits.as_mut().poll(&mut context).is_pending());
        drop(first);
        waits.await;
        assert!(asking.under_way().is_empty());
    }
}
