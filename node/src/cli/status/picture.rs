//! A look for people: what is as it should be in numbers, what is not by name.
//!
//! Invariant: with ordinary names no line is wider than 80 columns, and a cluster of any size fits a
//! few screens: of what is wrong the first so many are listed.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::{id::NodeId, map::ShardPlace};

use super::Look;
use crate::cli::{
    table::{Table, WIDTH, bytes, grouped},
    time::format_time,
};

/// Nodes that are down, shards that are not sound or behind, and hint queues, that are listed.
const LISTED: usize = 10;

pub(super) fn picture(look: &Look) -> String {
    let survey = &look.survey;
    let leader = survey.leader().map_or_else(|| "none".to_owned(), |id| survey.name(id));
    format!(
        "cluster '{}', leader {leader}\n\n{}\n{}\n{}{}{}",
        survey.map.name,
        nodes(look),
        shards(look),
        hints(look),
        late(look),
        expiry(look),
    )
}

fn nodes(look: &Look) -> String {
    let survey = &look.survey;
    let header = [">id", "name", "address", "zone", "state", "role", ">lag", "version"];
    let mut table = Table::new(&header);
    for node in survey.map.active_nodes() {
        let answer = survey.answer(node.id);
        let state = match answer {
            None => "down",
            Some(answer) if answer.poisoned => "poisoned",
            Some(_) => "alive",
        };
        table.row([
            node.id.to_string(),
            node.name.clone(),
            node.addr.clone(),
            node.zone.clone().unwrap_or_default(),
            state.to_owned(),
            answer.map_or("", |answer| answer.role.name()).to_owned(),
            survey.lag(node.id).map(grouped).unwrap_or_default(),
            answer.map(|answer| answer.version.clone()).unwrap_or_default(),
        ]);
    }
    let down = survey.reasons.iter().take(LISTED);
    let down: String =
        down.map(|(node, why)| fit(&format!("  {}: {why}", survey.name(*node)))).collect();
    table.render() + &down
}

/// What there is of one policy.
#[derive(Default)]
struct Sum {
    groups: BTreeSet<u64>,
    shards: u64,
    replicas: u64,
    sound: u64,
    behind: u64,
    without_quorum: u64,
}

fn shards(look: &Look) -> String {
    let mut sums: BTreeMap<(&str, &str), Sum> = BTreeMap::new();
    let mut odd = Vec::new();
    for place in look.survey.map.shards() {
        let (sound, quorum) = look.replicas.sound(place.shard);
        let owners = place.shard.owners.len();
        let sum = sums.entry((&place.database.name, &place.policy.name)).or_default();
        sum.groups.insert(place.group.id.0);
        sum.shards += 1;
        sum.replicas += owners as u64;
        sum.sound += sound as u64;
        let lacks = |owner: &&NodeId| look.replicas.behind(**owner, place.shard.id).is_behind();
        let behind = place.shard.owners.iter().filter(lacks).count();
        sum.behind += behind as u64;
        sum.without_quorum += u64::from(!quorum);
        if sound < owners || behind > 0 {
            odd.push(place);
        }
    }
    if sums.is_empty() {
        return "no shards yet: they come with the first writes\n".to_owned();
    }
    let header = [
        "database",
        "policy",
        ">groups",
        ">shards",
        ">replicas",
        ">sound",
        ">behind",
        ">without quorum",
    ];
    let mut table = Table::new(&header);
    for ((database, policy), sum) in sums {
        table.row([
            database.to_owned(),
            policy.to_owned(),
            grouped(sum.groups.len() as u64),
            grouped(sum.shards),
            grouped(sum.replicas),
            grouped(sum.sound),
            grouped(sum.behind),
            grouped(sum.without_quorum),
        ]);
    }
    // What is worst comes first.
    odd.sort_by_key(|place| look.replicas.sound(place.shard).0);
    let more = more(odd.len(), "quorate shard ls");
    let odd: String = odd.iter().take(LISTED).map(|place| unsound(look, place)).collect();
    format!("{}{odd}{more}", table.render())
}

/// A shard with a replica that is not sound, or behind.
fn unsound(look: &Look, place: &ShardPlace<'_>) -> String {
    let odd = look.replicas.healths(place.shard).filter_map(|(node, health)| {
        let word = look.replicas.odd(node, place.shard.id, health)?;
        Some(format!("{} {word}", look.survey.name(node)))
    });
    let odd: Vec<String> = odd.collect();
    let (id, database, policy) = (place.shard.id, &place.database.name, &place.policy.name);
    let head = format!("  shard {id} ({database}.{policy}): ");
    fit(&(head + &odd.join(", ")))
}

fn hints(look: &Look) -> String {
    let survey = &look.survey;
    let open = |pending: u64, quarantined: u64| pending > 0 || quarantined > 0;
    let mut queues: Vec<_> =
        survey.queues().filter(|(_, queue)| open(queue.pending, queue.quarantined)).collect();
    queues.sort_by_key(|(_, queue)| std::cmp::Reverse(queue.pending));
    let mut text = String::new();
    if !queues.is_empty() {
        let mut table =
            Table::new(&["hints on", "for", ">pending", ">quarantined", ">size", "oldest"]);
        for (holder, queue) in queues.iter().take(LISTED) {
            let oldest = i64::try_from(queue.oldest_ns).unwrap_or(i64::MAX);
            table.row([
                survey.name(*holder),
                survey.name(queue.target),
                grouped(queue.pending),
                grouped(queue.quarantined),
                bytes(queue.bytes),
                if oldest == 0 { String::new() } else { format_time(oldest) },
            ]);
        }
        text = format!("{}{}\n", table.render(), more(queues.len(), "quorate hints ls"));
    }
    let sum = survey.hints();
    let unknown =
        if survey.complete() { "" } else { "note: nodes that are down may keep more hints\n" };
    text + &format!(
        "hints: {} pending, {} delivered of {} accepted\n{unknown}",
        grouped(sum.pending),
        grouped(sum.delivered),
        grouped(sum.accepted),
    )
}

/// The nodes whose acknowledgements a power cut may take back.
fn late(look: &Look) -> String {
    let late = look.survey.map.active_nodes().filter_map(|node| {
        let every = look.survey.answer(node.id)?.sync_interval_ms;
        let what = "acknowledges before it syncs, which it does every";
        (every > 0).then(|| fit(&format!("note: {} {what} {every} ms", node.name)))
    });
    late.collect()
}

/// Whose certificate ends first.
fn expiry(look: &Look) -> String {
    let ends = look.survey.answers().map(|node| (node.certificate_expires_s, node.node));
    ends.min().map_or_else(String::new, |(seconds, node)| {
        let at = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let name = look.survey.name(node);
        fit(&format!("certificates: {name}'s ends first, on {}", format_time(at)))
    })
}

fn more(all: usize, command: &str) -> String {
    match all.saturating_sub(LISTED) {
        0 => String::new(),
        more => format!("  and {more} more: see '{command}'\n"),
    }
}

/// One line, cut where it must be.
fn fit(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return format!("{line}\n");
    }
    let kept: String = line.chars().take(WIDTH - 1).collect();
    format!("{kept}…\n")
}
