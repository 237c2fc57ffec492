//! What a client's grants allow of a request, and what they let it see of the map.
//!
//! Invariants: nodes and admins are limited by nothing; whoever has an entry, or is one of the others
//! where these have one, gets no further than it, in no op that the table ([`crate::session::access`])
//! gives a grant; a request is judged by a map at or beyond the one it was made with, and a shard that
//! this node has not heard of is nobody's yet. A client's map has those databases only in which it may
//! do something. Called by the service before it does anything, and for all news of the map.

use quorate_certs::{Identity, Role};
use quorate_protocol::{
    change::Change,
    code::Code,
    frame::{Frame, FrameError, Message},
    grant::{Access, ClientGrants, OTHERS},
    id::{DatabaseId, MetaIndex, PolicyId, ShardId},
    map::{ClusterMap, MapUpdate},
    message::{Aggregate, Digest, Failure, Follow, GrantList, Grants, Mark, Propose, Scan, Write},
};

use crate::{
    core::Core,
    directory::Snapshot,
    meta::News,
    session::{Denied, Grant, Peer, Rule, Who, count_denied, rule},
};

/// What a request touches.
struct Touches {
    /// The index of the map it was made with.
    index: MetaIndex,
    what: What,
}

enum What {
    Shards(Vec<ShardId>),
    Policy(PolicyId),
    Database(DatabaseId),
    Everything,
}

/// What limits somebody; none: nothing but the certificate.
fn limits<'m>(map: &'m ClusterMap, identity: &Identity) -> Option<&'m ClientGrants> {
    if identity.permits(Role::Admin) {
        return None;
    }
    map.limits(identity.name()).map(AsRef::as_ref)
}

/// Whether somebody may do this in a database, as far as grants say.
pub(crate) fn allows(
    map: &ClusterMap,
    identity: &Identity,
    database: DatabaseId,
    access: Access,
) -> bool {
    limits(map, identity).is_none_or(|limits| limits.access(database).covers(access))
}

impl Core {
    /// Why grants forbid a request that the peer's certificate allows; none if they do not.
    pub(crate) async fn refused_by_grants(&self, peer: &Peer, request: &Frame) -> Option<Failure> {
        if peer.identity.permits(Role::Admin) {
            return None;
        }
        let asked = rule(request).and_then(|rule| Ok(touches(rule, request)?.zip(access(rule))));
        let (touches, access) = match asked {
            Ok(asked) => asked?,
            Err(denied) => return Some(self.failure(denied.code(), denied.to_string())),
        };
        let Ok(snapshot) = self.snapshot_for(touches.index).await else {
            return Some(self.failure(Code::StaleMeta, ""));
        };
        let limits = limits(&snapshot.map, &peer.identity)?;
        let database = match databases(&snapshot, &touches.what) {
            Ok(databases) => databases.into_iter().find(|it| !limits.access(*it).covers(access)),
            // A map to come may say whose it is.
            Err(code) => return Some(self.failure(code, "")),
        };
        let everything = matches!(touches.what, What::Everything) && !limits.all.covers(access);
        let place = match database {
            None if everything => "all databases".to_owned(),
            None => return None,
            Some(id) => {
                // Its name is no news to whoever may do something else there.
                let seen = !limits.access(id).is_none();
                let name = snapshot.map.database(id).filter(|_| seen).map(|it| it.name.as_str());
                name.map_or_else(|| format!("database {id}"), |name| format!("database '{name}'"))
            }
        };
        count_denied("grant");
        let (verb, role) = if access.write { ("write to", "write") } else { ("read", "read") };
        let name = peer.identity.name();
        let detail = format!(
            "client '{name}' is not granted to {verb} {place}; an admin allows it with `quorate grant \
             {name} DATABASE --role {role}`"
        );
        Some(self.failure(Code::Unauthorised, detail))
    }

    /// What leads somebody's map from `after` to the newest one.
    pub(crate) fn news(&self, asker: Option<&Peer>, after: MetaIndex) -> News {
        let news = self.meta.since(after);
        match asker {
            Some(peer) => visible(news, &peer.identity),
            None => news,
        }
    }

    /// What has been granted: to all clients, for admins, else to whoever asks.
    pub(crate) async fn grant_list(
        &self,
        peer: &Peer,
        request: Grants,
    ) -> Result<(GrantList, bytes::Bytes), Failure> {
        let snapshot = self.snapshot_for(request.meta_index).await;
        let map = &snapshot.map_err(|code| self.failure(code, ""))?.map;
        let all = peer.identity.permits(Role::Admin);
        let list = if all { map.grants.iter().collect() } else { Vec::new() };
        let own = map.limits(peer.identity.name()).filter(|_| !all);
        let list: Vec<_> = list.into_iter().chain(own).collect();
        let list = postcard::to_allocvec(&list);
        let list = list.map_err(|why| self.failure(Code::Internal, why.to_string()))?;
        Ok((GrantList { index: map.index }, list.into()))
    }
}

/// The access that a row is about.
fn access(rule: &Rule) -> Option<Access> {
    match (rule.grant, rule.who) {
        (Grant::None, _) => None,
        (_, Who::Client(Role::Read)) => Some(Access::READ),
        (_, Who::Client(Role::Write)) => Some(Access::WRITE),
        // No such row.
        _ => Some(Access::ALL),
    }
}

/// What a request touches, if its row has a grant.
fn touches(rule: &Rule, request: &Frame) -> Result<Option<Touches>, Denied> {
    let shards = |index, shards: Vec<ShardId>| Touches { index, what: What::Shards(shards) };
    Ok(Some(match (rule.grant, request.op) {
        (Grant::None, _) => return Ok(None),
        (_, Write::OP) => {
            let it: Write = request.message()?;
            shards(it.meta_index, vec![it.shard])
        }
        (_, Mark::OP) => {
            let it: Mark = request.message()?;
            shards(MetaIndex(0), vec![it.shard])
        }
        (_, Scan::OP) => {
            let it: Scan = request.message()?;
            shards(it.meta_index, vec![it.shard])
        }
        (_, Aggregate::OP) => {
            let it: Aggregate = request.message()?;
            shards(it.meta_index, vec![it.shard])
        }
        (_, Digest::OP) => {
            let it: Digest = request.message()?;
            shards(it.meta_index, vec![it.shard])
        }
        (_, Follow::OP) => {
            let it: Follow = request.message()?;
            shards(it.meta_index, it.shards.iter().map(|it| it.shard).collect())
        }
        (_, Propose::OP) => {
            let what = match Change::decode(&request.payload).map_err(FrameError::from)? {
                Change::CreateGroups { policy, .. } => What::Policy(policy),
                Change::RegisterFields { database, .. } => What::Database(database),
                _ => What::Everything,
            };
            // Not the asker's: the leader may know more than this node, and decides.
            Touches { index: MetaIndex(0), what }
        }
        // Hints, and whatever is forgotten here.
        _ => Touches { index: MetaIndex(0), what: What::Everything },
    }))
}

/// The databases that are touched. What is gone for good is left to whoever answers.
fn databases(snapshot: &Snapshot, what: &What) -> Result<Vec<DatabaseId>, Code> {
    let map = &snapshot.map;
    match what {
        What::Everything => Ok(Vec::new()),
        What::Database(id) if map.next.database <= id.0 => Err(Code::StaleMeta),
        What::Database(id) => Ok(vec![*id]),
        What::Policy(id) if map.next.policy <= id.0 => Err(Code::StaleMeta),
        What::Policy(id) => {
            let mut databases = map.databases.iter();
            Ok(databases.find(|it| it.policy(*id).is_some()).map(|it| it.id).into_iter().collect())
        }
        What::Shards(shards) => {
            let mut found = Vec::with_capacity(shards.len());
            for shard in shards {
                match snapshot.shard(*shard) {
                    Some(place) => found.push(place.database),
                    None if map.next.shard <= shard.0 => return Err(Code::StaleMeta),
                    None => {}
                }
            }
            Ok(found)
        }
    }
}

/// The news that somebody may have.
pub(crate) fn visible(mut news: News, identity: &Identity) -> News {
    let map = &news.map;
    let name = identity.name();
    if news.updates.is_empty() || identity.permits(Role::Admin) {
        return news;
    }
    let own = map.grants_of(name).is_some();
    let regranted = |client: &String| client == name || (client == OTHERS && !own);
    let regranted = news.regranted.iter().any(regranted);
    match limits(map, identity) {
        None if !regranted => {}
        // Its map may have too little, and now too much.
        limits if regranted => {
            let mut whole = map.as_ref().clone();
            if let Some(limits) = limits {
                whole.databases.retain(|database| sees(limits, database.id));
            }
            news.updates = vec![(news.index, encode(&MapUpdate::Whole(whole)))];
        }
        Some(limits) if limits.all.is_none() => {
            for (_, update) in &mut news.updates {
                // What this node has encoded it can read.
                let Ok(read) = postcard::from_bytes::<MapUpdate>(update) else { continue };
                *update = encode(&cut(read, limits));
            }
        }
        _ => {}
    }
    news
}

fn sees(limits: &ClientGrants, database: DatabaseId) -> bool {
    !limits.access(database).is_none()
}

/// An update without what is not granted.
fn cut(update: MapUpdate, limits: &ClientGrants) -> MapUpdate {
    match update {
        MapUpdate::Whole(mut map) => {
            map.databases.retain(|database| sees(limits, database.id));
            MapUpdate::Whole(map)
        }
        MapUpdate::Delta(mut delta) => {
            delta.changes.retain(|change| change.database().is_none_or(|it| sees(limits, it)));
            MapUpdate::Delta(delta)
        }
    }
}

fn encode(update: &MapUpdate) -> bytes::Bytes {
    // A map is plain data: encoding fails only where memory does.
    postcard::to_allocvec(update).map(bytes::Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests;
