//! Many shards in one stream, in order of series key and then of time.
//!
//! Invariants: a stream that ends without an error is whole, which its reader can tell from a client
//! that was closed on the way; nobody reads ahead for a reader that has gone. Used by
//! [`crate::query`] for rows and by [`crate::aggregate`] for windows.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{core::Core, error::Error};

/// Series that may wait for their reader, if `read_ahead_bytes` has room for them.
const READ_AHEAD: usize = 16;

/// One shard, series by series.
pub(crate) trait Reader: Send + 'static {
    /// What is read of a series.
    type Item: Default + Send + 'static;

    /// The next series, or the next part of the same one; none at the end of the shard.
    fn next(&mut self) -> impl Future<Output = Result<Option<(Bytes, Self::Item)>, Error>> + Send;

    /// Rows in it.
    fn len(item: &Self::Item) -> usize;

    /// What it takes in memory, about.
    fn bytes(item: &Self::Item) -> usize;

    /// Its first so many rows.
    fn truncate(item: Self::Item, len: usize) -> Self::Item;
}

/// A series with its share of what may be read ahead, or nothing to say that there are no more.
type Item<T> = Result<Option<(Bytes, T, Option<OwnedSemaphorePermit>)>, Error>;

/// Series as they come.
#[derive(Debug)]
pub(crate) struct Items<T> {
    receiver: mpsc::Receiver<Item<T>>,
    /// The end, or an error, was seen.
    ended: bool,
}

impl<T> Items<T> {
    /// Ends the reading.
    pub(crate) fn close(&mut self) {
        self.receiver.close();
    }

    /// The next one; none at the end. After an error nothing follows.
    pub(crate) async fn next(&mut self) -> Option<Result<(Bytes, T), Error>> {
        if self.ended {
            return None;
        }
        match self.receiver.recv().await {
            Some(Ok(Some((key, item, _)))) => Some(Ok((key, item))),
            other => {
                self.ended = true;
                match other {
                    Some(Ok(_)) => None,
                    Some(Err(error)) => Some(Err(error)),
                    None => Some(Err(Error::Closed)),
                }
            }
        }
    }
}

/// Where series go, and how much may wait there.
struct Outlet<T> {
    sender: mpsc::Sender<Item<T>>,
    room: Arc<Semaphore>,
    most: usize,
}

impl<T> Outlet<T> {
    /// Waits for room; what is larger than all of it takes all of it. False if the reader has gone.
    async fn send(&self, key: Bytes, item: T, bytes: usize) -> bool {
        let share = u32::try_from((key.len() + bytes).clamp(1, self.most)).unwrap_or(u32::MAX);
        // Nobody closes it.
        let share = Arc::clone(&self.room).acquire_many_owned(share).await.ok();
        self.sender.send(Ok(Some((key, item, share)))).await.is_ok()
    }
}

/// Reads the shards, which are in order of time, as one, up to so many rows.
pub(crate) fn merged<R: Reader>(
    core: &Arc<Core>,
    readers: Vec<R>,
    limit: Option<usize>,
) -> Items<R::Item> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let most = core.config.read_ahead_bytes.clamp(1, u32::MAX as usize);
    let outlet = Outlet { sender: sender.clone(), room: Arc::new(Semaphore::new(most)), most };
    let cancel = core.cancel.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            // The reader has gone: nobody is left to be told of anything.
            () = sender.closed() => {}
            () = async {
                let result = merge(readers, &outlet, limit.unwrap_or(usize::MAX)).await;
                let _ = sender.send(result.map(|()| None)).await;
            } => {}
        }
    });
    Items { receiver, ended: false }
}

/// Merges shards by series key; groups of one series follow each other in order of time, because
/// the readers do.
async fn merge<R: Reader>(
    mut readers: Vec<R>,
    outlet: &Outlet<R::Item>,
    mut left: usize,
) -> Result<(), Error> {
    let mut heap = BinaryHeap::with_capacity(readers.len());
    let mut heads: Vec<R::Item> = Vec::with_capacity(readers.len());
    for (index, reader) in readers.iter_mut().enumerate() {
        let head = reader.next().await?;
        if let Some((key, _)) = &head {
            heap.push(Reverse((key.clone(), index)));
        }
        heads.push(head.map(|(_, item)| item).unwrap_or_default());
    }
    while let Some(Reverse((key, index))) = heap.pop() {
        let mut item = std::mem::take(&mut heads[index]);
        if R::len(&item) > left {
            item = R::truncate(item, left);
        }
        left = left.saturating_sub(R::len(&item));
        let bytes = R::bytes(&item);
        if R::len(&item) > 0 && !outlet.send(key, item, bytes).await {
            return Ok(());
        }
        // What is not wanted is not read.
        if left == 0 {
            return Ok(());
        }
        if let Some((key, item)) = readers[index].next().await? {
            heap.push(Reverse((key, index)));
            heads[index] = item;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_protocol::rows::Rows;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_breaks_off_does_not_pass_as_whole() {
        let (sender, receiver) = mpsc::channel(4);
        let mut stream = Items { receiver, ended: false };
        let series = (Bytes::from_static(b"m"), Rows::default(), None);
        sender.send(Ok(Some(series))).await.unwrap();
        drop(sender);
        assert!(matches!(stream.next().await, Some(Ok(_))));
        assert!(matches!(stream.next().await, Some(Err(Error::Closed))));
        assert!(stream.next().await.is_none());

        let (sender, receiver) = mpsc::channel(4);
        let mut stream: Items<Rows> = Items { receiver, ended: false };
        sender.send(Ok(None)).await.unwrap();
        assert!(stream.next().await.is_none(), "this one is whole");
        assert!(stream.next().await.is_none());
    }
}
