//! Members that join, leave and get their vote or lose it, while processes are killed.

use std::{collections::BTreeSet, time::Duration};

use quorate_client::{Client, Env, WriteOptions};
use quorate_protocol::{
    change::Change, consistency::Level, id::NodeId, map::NodeState, message::RaftRole,
};
use quorate_tests::harness::{
    history::Ledger,
    limit::{real, soak},
    load::{sample, write},
    observe::{PATIENCE, create_database, statuses, wait_for},
    process::Processes,
    raw::Raw,
};
use tokio::time::sleep;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

/// Quick elections: what is shown does not depend on them, how long it takes does.
const SETTINGS: &str = "[meta]
heartbeat_ms = 100
election_timeout_ms = 400
election_stagger_ms = 160
reconcile_ms = 500
retry_max_ms = 400
";

/// Waits until these nodes, and no others, are members under one leader, and these are without a
/// vote.
async fn settled(client: &Client, members: &[NodeId], without: &[NodeId]) {
    wait_for("the members that shall be", PATIENCE, async || {
        let map = client.map();
        let there: Vec<NodeId> = map.active_nodes().map(|node| node.id).collect();
        let demoted: Vec<NodeId> =
            map.active_nodes().filter(|n| n.state == NodeState::NonVoter).map(|n| n.id).collect();
        if there != members || demoted != without {
            return Err(format!("in the map: {there:?}, without a vote {demoted:?}"));
        }
        let all = statuses(client, members).await?;
        let leaders: BTreeSet<_> = all.values().map(|status| status.leader).collect();
        let learners: Vec<NodeId> =
            all.values().filter(|s| s.role == RaftRole::Learner).map(|s| s.node).collect();
        let one = leaders.len() == 1 && !leaders.contains(&None);
        if one && learners == without { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
}

#[test]
fn a_kill_amid_joining_leaving_or_voting_leaves_one_state_behind() {
    let rounds = if soak(1) > 1 { 100 } else { 20 };
    real(async {
        let mut cluster = Processes::start_with(BINARY, 3, SETTINGS).await;
        let client = cluster.client().await;
        let raw = Raw::new(Env::system(), cluster.client_credentials());
        create_database(&client, "db", 4).await;
        let ledger = Ledger::new();
        let first: Vec<NodeId> = cluster.ids();
        let mut members = first.clone();
        let mut guest = NodeId(0);
        for round in 0..rounds {
            let step = round % 4;
            // What is asked for, and what shall be in the end.
            let change = match step {
                0 => {
                    guest = cluster.join();
                    members.push(guest);
                    None
                }
                1 | 2 => Some(Change::SetVoting { node: guest, votes: step == 2 }),
                _ => Some(Change::LeaveNode { node: guest }),
            };
            let asked = change.clone().map(|change| {
                let client = client.clone();
                tokio::spawn(async move { client.change(change).await })
            });
            // The guest in every other round, else each of the first ones in turn.
            let turn = round / 4;
            let victim = match (turn + step) % 2 {
                0 => guest,
                _ => first[(turn / 2 + step) as usize % 3],
            };
            // A joining process first has to start.
            let longest = if step == 0 { 600 } else { 120 };
            sleep(Duration::from_millis(round * 47 % longest)).await;
            cluster.kill(victim).await;
            sleep(Duration::from_millis(round * 31 % 200)).await;
            cluster.respawn(victim);
            let leaves = step == 3;
            if !(leaves && victim == guest) {
                cluster.wait_ready(victim).await;
            }
            if step == 0 && victim != guest {
                cluster.wait_ready(guest).await;
            }
            if let (Some(change), Some(asked)) = (change, asked) {
                // What is not known to be done may be asked for again.
                let _ = asked.await.unwrap();
                client.change(change).await.unwrap();
            }
            if leaves {
                members.pop();
                cluster.gone(guest).await;
            }
            let without: &[NodeId] = if step == 1 { &[guest] } else { &[] };
            settled(&client, &members, without).await;
            let all = WriteOptions::at(Level::All);
            write(&client, "db", &[sample(1, round)], &all, &ledger).await.unwrap();
            let now = client.map();
            raw.same_map(&now, &members, now.index).await;
        }
        client.close().await;
    });
}
