//! Which node keeps hints for whom, and how a hint is called.
//!
//! Invariant: a node that does not answer is told, never passed over in silence. Used by the
//! commands that look at hints or change them.

use std::{path::Path, sync::Arc};

use quorate_client::Client;
use quorate_protocol::{
    id::NodeId,
    map::ClusterMap,
    message::{HintBatch, HintInfo},
};

use crate::{
    cli::{export::node_id, fail::Fail, survey::Survey},
    data::DataDir,
    disk::SystemDisk,
    handoff::Stopped,
};

/// The queues that are meant.
pub(super) struct Holders {
    survey: Survey,
    target: Option<NodeId>,
}

impl Holders {
    /// Asks all members that may keep such hints; no node keeps any for itself, so that a target
    /// that is down costs no time. `target`: for whom the hints are, everybody if it is not given;
    /// `on`: the only node that is meant.
    pub(super) async fn find(
        client: &Client,
        target: Option<&str>,
        on: Option<&str>,
    ) -> Result<Self, Fail> {
        let map = client.map();
        let target = target.map(|text| target_id(&map, text)).transpose()?;
        let on = on.map(|text| node_id(&map, text)).transpose()?;
        let wanted = |id| on.is_none_or(|on| on == id) && target != Some(id);
        let survey = Survey::of(client, wanted).await;
        Ok(Self { survey, target })
    }

    pub(super) fn map(&self) -> &ClusterMap {
        &self.survey.map
    }

    /// The name of a node, or its number.
    pub(super) fn name(&self, id: NodeId) -> String {
        self.survey.name(id)
    }

    /// Who keeps hints for whom.
    pub(super) fn pairs(&self) -> Vec<(NodeId, NodeId)> {
        let queues = self.survey.queues().map(|(holder, queue)| (holder, queue.target));
        let meant = |(_, target): &(NodeId, NodeId)| self.target.is_none_or(|one| one == *target);
        queues.filter(meant).collect()
    }

    /// Fails if a node that may keep such hints has not answered.
    pub(super) fn complete(&self) -> Result<(), Fail> {
        let silent = self.survey.nodes.iter().filter(|(_, answer)| answer.is_none());
        let down: Vec<String> = silent.map(|(id, _)| self.name(*id)).collect();
        if down.is_empty() {
            return Ok(());
        }
        let down = down.join(", ");
        Err(Fail::failed(format!("no answer from {down}; what is kept there is not included")))
    }
}

/// The node that a person means as the target of hints, which may have left long ago.
fn target_id(map: &ClusterMap, text: &str) -> Result<NodeId, Fail> {
    match text.parse() {
        Ok(id) if map.node_named(text).is_none() => Ok(NodeId(id)),
        _ => node_id(map, text),
    }
}

/// As [`target_id`], where there is no map: only the number can be known.
pub(super) fn stopped_target(text: &str) -> Result<NodeId, Fail> {
    text.parse().map(NodeId).map_err(|_| {
        Fail::usage(format!(
            "{text:?} is no node id; a data directory does not know the names of other nodes"
        ))
    })
}

/// The hint queues in the data directory of a node that is stopped, and its lock.
pub(super) fn stopped(data: &Path) -> Result<(Stopped, DataDir), Fail> {
    // Opening it would make one that is not there.
    let root = data.join("handoff");
    if let Err(error) = std::fs::metadata(&root) {
        return Err(Fail::failed(format!(
            "cannot read {}: {error}; --data is the directory that 'quorate node --data' got",
            root.display()
        )));
    }
    let locked = DataDir::open(data, Arc::new(SystemDisk)).map_err(Fail::failed)?;
    let found = Stopped::read(root.clone(), Arc::new(SystemDisk));
    let found =
        found.map_err(|error| Fail::failed(format!("cannot read {}: {error}", root.display())))?;
    Ok((found, locked))
}

/// What a hint is called: `hint 7`, `hints 7 to 9`, or that its number is not known.
pub(super) fn called(info: &HintInfo) -> String {
    match (info.sequence.0, info.count) {
        (0, 1) => "a hint".to_owned(),
        (0, count) => format!("{count} hints"),
        (first, 0 | 1) => format!("hint {first}"),
        (first, count) => format!("hints {first} to {}", first + (count - 1)),
    }
}

/// Database and policy of a batch by their names, where the map has them.
pub(super) fn place(map: &ClusterMap, batch: &HintBatch) -> Option<(String, String)> {
    let database = map.database(batch.database)?;
    let policy = database.policy(batch.policy)?;
    Some((database.name.clone(), policy.name.clone()))
}
