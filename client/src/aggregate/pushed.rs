//! Windows of one shard from one owner, page by page.
//!
//! Invariants: no stream is held open between two pages; nothing of a page is given before all of it
//! is there, and a page ends between two series, so that an owner that fails is replaced by another
//! one behind the last series: all windows of a series in a shard are of one owner, and come once.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Buf, Bytes};
use quorate_protocol::{
    aggregate::{FieldWindows, Partial, Windows},
    id::{NodeId, ShardId},
    message::Aggregate,
};
use tokio::time::Instant;

use crate::{
    core::Core,
    error::Error,
    query::{Query, page_bytes, plan},
    scan::GivenUp,
    series::{Items, Reader, merged},
};

/// Has one owner of every shard aggregate it.
pub(super) fn start(
    core: &Arc<Core>,
    query: &Query,
    windows: Windows,
) -> Result<Items<Vec<FieldWindows>>, Error> {
    let map = core.topology.map();
    let plans = plan(&map, query)?;
    let limit = page_bytes(core, plans.len());
    let readers = plans.into_iter().map(|plan| ShardWindows {
        core: Arc::clone(core),
        shard: plan.shard,
        unused: plan.owners,
        request: Aggregate {
            shard: plan.shard,
            meta_index: map.index,
            measurement: query.measurement.clone(),
            tags: query.tags.clone(),
            fields: query.fields.clone(),
            from: query.from,
            to: query.to,
            every: windows.every(),
            after: None,
            limit,
        },
        owner: None,
        last_key: None,
    });
    Ok(merged(core, readers.collect(), None))
}

/// One shard, from one owner at a time.
struct ShardWindows {
    core: Arc<Core>,
    shard: ShardId,
    /// Owners that were not tried yet.
    unused: Vec<NodeId>,
    request: Aggregate,
    owner: Option<Pages>,
    /// The series that was given last.
    last_key: Option<Bytes>,
}

impl Reader for ShardWindows {
    type Item = Vec<FieldWindows>;

    async fn next(&mut self) -> Result<Option<(Bytes, Vec<FieldWindows>)>, Error> {
        let mut last = GivenUp::nobody();
        loop {
            let Some(owner) = &mut self.owner else {
                // Owners that are up first, so that a node that is down costs nothing.
                self.unused.sort_by_key(|node| self.core.rank(*node));
                if self.unused.is_empty() {
                    return Err(Error::ReadLevel {
                        shard: self.shard,
                        answered: 0,
                        required: 1,
                        code: last.code,
                        reason: last.reason,
                    });
                }
                let node = self.unused.remove(0);
                let request = Aggregate { after: self.last_key.clone(), ..self.request.clone() };
                self.owner = Some(Pages::new(Arc::clone(&self.core), node, request));
                continue;
            };
            match owner.round().await {
                Ok(round) => {
                    if let Some((key, _)) = &round {
                        self.last_key = Some(key.clone());
                    }
                    return Ok(round);
                }
                Err(why) => {
                    why.count();
                    (self.owner, last) = (None, why);
                }
            }
        }
    }

    fn len(fields: &Vec<FieldWindows>) -> usize {
        fields.len()
    }

    fn bytes(fields: &Vec<FieldWindows>) -> usize {
        let windows = fields.iter().map(|field| field.windows.len());
        windows.sum::<usize>() * size_of::<(i64, Partial)>() + size_of_val(&fields[..])
    }

    /// Windows are counted where they are whole, behind this.
    fn truncate(fields: Vec<FieldWindows>, _: usize) -> Vec<FieldWindows> {
        fields
    }
}

/// Fields of one series with their windows.
type Round = (Bytes, Vec<FieldWindows>);

/// One owner's answers, page by page.
struct Pages {
    core: Arc<Core>,
    node: NodeId,
    /// Asks for the next page.
    request: Aggregate,
    entries: VecDeque<FieldWindows>,
    ended: bool,
}

impl Pages {
    const fn new(core: Arc<Core>, node: NodeId, request: Aggregate) -> Self {
        Self { core, node, request, entries: VecDeque::new(), ended: false }
    }

    /// The next fields of a series, ascending. A field that comes again begins another round.
    async fn round(&mut self) -> Result<Option<Round>, GivenUp> {
        while self.entries.is_empty() && !self.ended {
            self.page().await?;
        }
        let Some(first) = self.entries.pop_front() else { return Ok(None) };
        let (key, mut last) = (first.key.clone(), (first.field, first.kind));
        let mut fields = vec![first];
        // A page ends between two series, so that a round never goes on in the next one.
        while let Some(next) = self.entries.front()
            && next.key == key
            && (next.field, next.kind) > last
        {
            last = (next.field, next.kind);
            fields.extend(self.entries.pop_front());
        }
        Ok(Some((key, fields)))
    }

    async fn page(&mut self) -> Result<(), GivenUp> {
        let node = self.node;
        metrics::counter!("quorate_client_query_pages_total").increment(1);
        let failed = |error| GivenUp::failed(node, &error);
        let connection = self.core.connection(node).ok_or_else(|| GivenUp::down(node))?;
        let deadline = Instant::now() + self.core.config.connect_timeout;
        let stream = connection.open_stream(&self.request, Bytes::new(), deadline).await;
        let mut stream = stream.map_err(failed)?;
        while let Some((page, payload)) = stream.next().await.map_err(failed)? {
            self.ended = page.complete;
            self.split(payload)?;
        }
        match self.entries.back() {
            Some(last) => self.request.after = Some(last.key.clone()),
            None if self.ended => {}
            None => return Err(GivenUp::unreadable(node, "an empty page")),
        }
        Ok(())
    }

    fn split(&mut self, mut payload: Bytes) -> Result<(), GivenUp> {
        let broken = |node| GivenUp::unreadable(node, "windows that cannot be read");
        while payload.has_remaining() {
            let length = payload.try_get_u32_le().map_err(|_| broken(self.node))? as usize;
            if length > payload.len() {
                return Err(broken(self.node));
            }
            let entry = FieldWindows::decode(&payload.split_to(length));
            let unreadable = |error| GivenUp::unreadable(self.node, format_args!("{error}"));
            let entry = entry.map_err(unreadable)?;
            self.entries.push_back(entry);
        }
        Ok(())
    }
}
