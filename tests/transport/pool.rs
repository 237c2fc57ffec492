//! The pool: who is up, who is down, and how often the dead are dialled.

use std::time::Duration;

use bytes::Bytes;
use quorate_client::{
    connection::{ConnectError, Lost},
    pool::{DownReason, PeerState, Pool},
};
use quorate_protocol::{id::NodeId, message::Ping};
use tokio::time::{Instant, timeout};

use super::world::{host, later, on, sim_dialer, sim_node, simulate};

fn at(n: u8) -> (NodeId, String) {
    (NodeId(n.into()), on(n).to_string())
}

#[test]
fn a_lost_peer_is_dialled_with_growing_waits_and_comes_back() {
    simulate(70, async |net| {
        let (_one, _two) = (sim_node(&net, 1), sim_node(&net, 2));
        let pool = Pool::new(sim_dialer(&net));
        pool.update([at(1), at(2)]);
        let (one, two) = (pool.peer(NodeId(1)).unwrap(), pool.peer(NodeId(2)).unwrap());
        assert!(matches!(one.state(), PeerState::Connecting));
        assert!(one.connection().is_none(), "told at once, without waiting");
        let connection = one.wait_up().await.unwrap();
        two.wait_up().await.unwrap();
        let dials = || pool.dialer().endpoint().stats().outgoing_handshakes;
        assert_eq!(dials(), 2);

        net.partition(host(1), host(200));
        let mut state = one.watch();
        connection.request(&Ping {}, Bytes::new(), later()).await.unwrap_err();
        state.wait_for(|state| matches!(state, PeerState::Down { .. })).await.unwrap();
        let PeerState::Down { reason, since } = one.state() else { panic!() };
        assert!(matches!(reason, DownReason::Lost(Lost::Mute)), "{reason}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Each dial takes 2 s, the waits grow to 5 s.
        let tried = dials() - 2;
        assert!((8..=20).contains(&tried), "{tried}");
        let PeerState::Down { reason, since: same } = one.state() else { panic!() };
        let DownReason::Connect(error) = reason else { panic!("{reason}") };
        assert!(matches!(*error, ConnectError::Unreachable { .. }), "{error}");
        assert_eq!(since, same, "down since it was lost");
        assert!(two.connection().is_some(), "the other peer is not concerned");

        net.heal_all();
        let healed = Instant::now();
        one.wait_up().await.unwrap();
        assert!(healed.elapsed() <= Duration::from_secs(7), "{:?}", healed.elapsed());
        pool.shutdown().await;
        assert!(matches!(one.state(), PeerState::Removed));
        assert!(one.wait_up().await.is_none());
    });
}

#[test]
fn a_nudge_saves_the_wait() {
    simulate(71, async |net| {
        let pool = Pool::new(sim_dialer(&net));
        pool.update([at(1)]);
        let peer = pool.peer(NodeId(1)).unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        let mut state = peer.watch();
        // Right after a failed dial, so that the next one is seconds away.
        state.mark_unchanged();
        state.changed().await.unwrap();
        let _node = sim_node(&net, 1);
        pool.nudge(NodeId(1));
        timeout(Duration::from_millis(200), peer.wait_up()).await.unwrap().unwrap();
    });
}

#[test]
fn seeds_become_the_nodes_they_are() {
    simulate(72, async |net| {
        let _nodes = [sim_node(&net, 1), sim_node(&net, 2)];
        let pool = Pool::new(sim_dialer(&net));
        net.set_name("seed", host(1));
        pool.seed(["seed:7000".to_owned(), on(9).to_string()]);
        let mut changes = pool.changes();
        while pool.up().is_empty() {
            changes.changed().await.unwrap();
        }
        let seed = pool.up()[0].clone();
        assert_eq!(seed.node(), NodeId(1));
        assert_eq!(seed.welcome().meta_index.0, 5);

        pool.update([at(1), at(2)]);
        let one = pool.peer(NodeId(1)).unwrap();
        let adopted = one.connection().unwrap();
        assert_eq!(adopted.stable_id(), seed.stable_id(), "not dialled again");
        assert!(pool.seeds().is_empty());
        pool.peer(NodeId(2)).unwrap().wait_up().await.unwrap();
        assert_eq!(pool.up().len(), 2);
        seed.request(&Ping {}, Bytes::new(), later()).await.unwrap();
        drop((seed, adopted));

        // A node that is gone from the map is let go of.
        pool.update([at(2)]);
        assert!(pool.peer(NodeId(1)).is_none());
        assert!(one.wait_up().await.is_none());
        assert!(matches!(one.state(), PeerState::Removed));
    });
}

#[test]
fn a_peer_that_moved_is_followed_and_an_impostor_is_not_used() {
    simulate(73, async |net| {
        let _nodes = [sim_node(&net, 1), sim_node(&net, 2)];
        let pool = Pool::new(sim_dialer(&net));
        // The map says that node 1 is where node 2 is.
        pool.update([(NodeId(1), on(2).to_string())]);
        let peer = pool.peer(NodeId(1)).unwrap();
        let mut state = peer.watch();
        state.wait_for(|state| matches!(state, PeerState::Down { .. })).await.unwrap();
        let PeerState::Down { reason: DownReason::Connect(error), .. } = peer.state() else {
            panic!("{:?}", peer.state())
        };
        assert!(matches!(*error, ConnectError::WrongNode { .. }), "{error}");
        pool.update([at(1)]);
        let connection = peer.wait_up().await.unwrap();
        assert_eq!(connection.node(), NodeId(1));

        // Eviction names the connection, so an old failure cannot evict its successor.
        peer.evict(&connection);
        assert!(peer.connection().is_none());
        let next = peer.wait_up().await.unwrap();
        assert_ne!(next.stable_id(), connection.stable_id());
        peer.evict(&connection);
        assert!(peer.connection().is_some());
    });
}

#[test]
fn shutdown_ends_every_task_even_with_connections_in_use() {
    simulate(74, async |net| {
        let node = sim_node(&net, 1);
        let pool = Pool::new(sim_dialer(&net));
        pool.update([at(1), at(9)]);
        let held = pool.peer(NodeId(1)).unwrap().wait_up().await.unwrap();
        timeout(Duration::from_secs(1), pool.shutdown_endpoint()).await.unwrap();
        assert_eq!(held.lost(), Some(Lost::Local));
        assert!(pool.peers().is_empty());
        pool.update([at(1)]);
        assert!(pool.peers().is_empty(), "nothing comes up again");
        // The node was told: it need not wait for a timeout.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(node.server.sessions(), 0);
    });
}

#[test]
fn a_peer_that_went_silent_is_shown_after_a_ping_and_trusted_by_degrees() {
    simulate(75, async |net| {
        let _node = sim_node(&net, 1);
        let pool = Pool::new(sim_dialer(&net));
        pool.update([at(1)]);
        let peer = pool.peer(NodeId(1)).unwrap();
        let connection = peer.wait_up().await.unwrap();
        assert!(matches!(peer.state(), PeerState::Up(_)));
        net.partition(host(1), host(200));
        connection.request(&Ping {}, Bytes::new(), later()).await.unwrap_err();
        assert!(peer.admit().is_none(), "nothing for a node that has not answered yet");
        net.heal_all();
        let again = peer.wait_up().await.unwrap();
        assert!(matches!(peer.state(), PeerState::Trial(_)), "{:?}", peer.state());
        let passes = |peer: &quorate_client::pool::PeerHandle| -> Vec<_> {
            std::iter::from_fn(|| peer.admit()).take(100).collect()
        };
        for allowed in [1, 2, 4, 8, 16] {
            // What is given up teaches nothing.
            drop(passes(&peer));
            let passes = passes(&peer);
            assert_eq!(passes.len(), allowed);
            passes.into_iter().for_each(quorate_client::pool::Pass::worked);
        }
        let mut state = peer.watch();
        state.wait_for(|state| matches!(state, PeerState::Up(_))).await.unwrap();
        assert_eq!(passes(&peer).len(), 100);
        assert_eq!(peer.connection().unwrap().stable_id(), again.stable_id(), "not dialled anew");
        pool.shutdown().await;
    });
}

#[test]
fn a_peer_that_keeps_leaving_is_on_trial() {
    simulate(76, async |net| {
        let pool = Pool::new(sim_dialer(&net));
        pool.update([at(1)]);
        let peer = pool.peer(NodeId(1)).unwrap();
        let mut states = Vec::new();
        for _ in 0..4 {
            let node = sim_node(&net, 1);
            peer.wait_up().await.unwrap();
            states.push(peer.state().name());
            node.server.shutdown().await;
            let mut state = peer.watch();
            state.wait_for(|state| matches!(state, PeerState::Down { .. })).await.unwrap();
            drop(node);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // Restarts are no failures, until they do not end.
        assert_eq!(states, ["up", "up", "up", "trial"]);
        pool.shutdown().await;
    });
}
