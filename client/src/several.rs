//! Some futures at a time, their results as they come.
//!
//! Invariants: never more than the bound are under way, the others have not been begun; dropping it drops
//! all of them. For asking several nodes at once, where one that is silent must not hold up the others.

use std::{future::poll_fn, pin::Pin, task::Poll, vec};

pub(crate) struct Several<F> {
    /// A list, not the iterator: a closure that is held across an await may cost whoever awaits its `Send`.
    waiting: vec::IntoIter<F>,
    under_way: Vec<Pin<Box<F>>>,
    most: usize,
}

impl<F: Future> Several<F> {
    /// At most `most` of them at a time, and at least one.
    pub(crate) fn new(futures: impl Iterator<Item = F>, most: usize) -> Self {
        let waiting = futures.collect::<Vec<F>>().into_iter();
        Self { waiting, under_way: Vec::new(), most: most.max(1) }
    }

    /// The next result; none when all have come.
    pub(crate) async fn next(&mut self) -> Option<F::Output> {
        while self.under_way.len() < self.most
            && let Some(future) = self.waiting.next()
        {
            self.under_way.push(Box::pin(future));
        }
        if self.under_way.is_empty() {
            return None;
        }
        let (at, output) = poll_fn(|context| {
            for (at, future) in self.under_way.iter_mut().enumerate() {
                if let Poll::Ready(output) = future.as_mut().poll(context) {
                    return Poll::Ready((at, output));
                }
            }
            Poll::Pending
        })
        .await;
        drop(self.under_way.swap_remove(at));
        Some(output)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_bound_is_kept_and_the_first_to_come_is_first() {
        let (open, most) = (Cell::new(0), Cell::new(0));
        let task = async |ms: u64| {
            open.set(open.get() + 1);
            most.set(most.get().max(open.get()));
            sleep(Duration::from_millis(ms)).await;
            open.set(open.get() - 1);
            ms
        };
        let begun = Instant::now();
        let mut several = Several::new([300, 100, 50, 60].into_iter().map(&task), 2);
        let mut came = Vec::new();
        while let Some(ms) = several.next().await {
            came.push(ms);
        }
        assert_eq!(came, [100, 50, 60, 300]);
        assert_eq!((most.get(), begun.elapsed()), (2, Duration::from_millis(300)));
    }
}
