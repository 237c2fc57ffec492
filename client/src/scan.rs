//! One owner's stream of one shard, cut into whole series.
//!
//! Called by [`crate::query`], which merges owners and shards. Windows are read beside it, in
//! [`crate::aggregate`], and give owners up for the same reasons.

use std::{collections::VecDeque, fmt, sync::Arc};

use bytes::{Buf, Bytes};
use quorate_protocol::{
    code::Code,
    id::{MetaIndex, NodeId, ShardId},
    message::Scan,
    rows::Rows,
};
use tokio::time::Instant;

use crate::{connection::RequestError, core::Core, query::Query};

pub(crate) fn scan_request(query: &Query, shard: ShardId, meta_index: MetaIndex) -> Scan {
    Scan {
        shard,
        meta_index,
        measurement: query.measurement.clone(),
        tags: query.tags.clone(),
        fields: query.fields.clone(),
        from: query.from,
        to: query.to,
        after: None,
        limit: 0,
        rows: query.limit.map_or(0, |rows| u32::try_from(rows).unwrap_or(u32::MAX)),
    }
}

/// Why an owner was given up for another one. If there is none, the query's error says so.
pub(crate) struct GivenUp {
    pub(crate) code: Code,
    /// For people.
    pub(crate) reason: String,
}

impl GivenUp {
    /// There was nobody to ask yet.
    pub(crate) fn nobody() -> Self {
        Self { code: Code::Unavailable, reason: "no owner is up".into() }
    }

    pub(crate) fn down(node: NodeId) -> Self {
        Self { code: Code::Unavailable, reason: format!("node {node} is down") }
    }

    /// Counts an owner that was given up.
    pub(crate) fn count(&self) {
        metrics::counter!("quorate_client_query_owners_given_up_total", "code" => self.code.name())
            .increment(1);
    }

    pub(crate) fn failed(node: NodeId, error: &RequestError) -> Self {
        Self { code: error.code(), reason: format!("node {node}: {error}") }
    }

    /// It answered something that is no answer.
    pub(crate) fn unreadable(node: NodeId, what: impl fmt::Display) -> Self {
        Self { code: Code::Internal, reason: format!("node {node} sent {what}") }
    }
}

/// One owner's scan, page by page: no stream is held open between two pages, however many shards
/// are read at the same time.
pub(crate) struct Source {
    core: Arc<Core>,
    node: NodeId,
    /// Asks for the next page.
    request: Scan,
    entries: VecDeque<(Bytes, Bytes)>,
    ended: bool,
    /// The next series, whole.
    series: Option<(Bytes, Rows)>,
}

impl Source {
    pub(crate) const fn new(core: Arc<Core>, node: NodeId, request: Scan) -> Self {
        Self { core, node, request, entries: VecDeque::new(), ended: false, series: None }
    }

    /// The key of the next series.
    pub(crate) fn key(&self) -> Option<&Bytes> {
        self.series.as_ref().map(|(key, _)| key)
    }

    /// The rows of the next series, if it is this one.
    pub(crate) fn take(&mut self, key: &Bytes) -> Option<Rows> {
        let (_, rows) = self.series.take_if(|(own, _)| own == key)?;
        Some(rows)
    }

    /// Makes the next series available; none is if the scan has ended.
    pub(crate) async fn fill(&mut self) -> Result<(), GivenUp> {
        if self.series.is_none()
            && let Some((key, block)) = self.entry().await?
        {
            let mut parts = vec![self.decode(&block)?];
            // A page ends between two series, or where nobody wants more.
            while let Some((_, block)) = self.entry_if(&key) {
                parts.push(self.decode(&block)?);
            }
            self.series = Some((key, Rows::merge(parts)));
        }
        Ok(())
    }

    async fn entry(&mut self) -> Result<Option<(Bytes, Bytes)>, GivenUp> {
        self.load().await?;
        Ok(self.entries.pop_front())
    }

    fn entry_if(&mut self, key: &Bytes) -> Option<(Bytes, Bytes)> {
        let same = self.entries.front().is_some_and(|(next, _)| next == key);
        if same { self.entries.pop_front() } else { None }
    }

    async fn load(&mut self) -> Result<(), GivenUp> {
        while self.entries.is_empty() && !self.ended {
            self.page().await?;
        }
        Ok(())
    }

    /// Reads one page, which ends between two series.
    async fn page(&mut self) -> Result<(), GivenUp> {
        let node = self.node;
        metrics::counter!("quorate_client_query_pages_total").increment(1);
        let connection = self.core.connection(node).ok_or_else(|| GivenUp::down(node))?;
        let deadline = Instant::now() + self.core.config.connect_timeout;
        let stream = connection.open_stream(&self.request, Bytes::new(), deadline).await;
        let mut stream = stream.map_err(|error| GivenUp::failed(node, &error))?;
        loop {
            match stream.next().await {
                Ok(Some((rows, payload))) => {
                    self.ended = rows.complete;
                    self.split(payload)?;
                }
                Ok(None) => break,
                Err(error) => return Err(GivenUp::failed(node, &error)),
            }
        }
        match self.entries.back() {
            Some((key, _)) => self.request.after = Some(key.clone()),
            None if self.ended => {}
            None => return Err(GivenUp::unreadable(node, "an empty page")),
        }
        Ok(())
    }

    fn split(&mut self, mut payload: Bytes) -> Result<(), GivenUp> {
        while payload.has_remaining() {
            let key = self.piece(&mut payload)?;
            let block = self.piece(&mut payload)?;
            self.entries.push_back((key, block));
        }
        Ok(())
    }

    fn piece(&self, payload: &mut Bytes) -> Result<Bytes, GivenUp> {
        let broken = || GivenUp::unreadable(self.node, "rows that cannot be read");
        let length = payload.try_get_u32_le().map_err(|_| broken())? as usize;
        if length > payload.len() {
            return Err(broken());
        }
        Ok(payload.split_to(length))
    }

    fn decode(&self, block: &[u8]) -> Result<Rows, GivenUp> {
        let unreadable = |error| GivenUp::unreadable(self.node, format_args!("rows: {error}"));
        Rows::decode(block).map_err(unreadable)
    }
}
