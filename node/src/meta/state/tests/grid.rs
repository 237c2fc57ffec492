//! Where the shards of many groups go, through the commands that clients send.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::{id::ShardId, placement};

use super::*;

/// A database of these copies on these nodes; none for a node without a zone.
fn cluster(zones: &[Option<&str>], replication: u32) -> Cluster {
    let mut cluster = Cluster { map: ClusterMap::default(), index: 0, at_ns: 0 };
    cluster.apply(Change::Bootstrap { cluster: ClusterId(7), name: "test".to_owned() });
    for (zone, id) in zones.iter().zip(1..) {
        let (name, addr, zone) = (format!("n{id}"), "h:1".to_owned(), zone.map(str::to_owned));
        cluster.apply(Change::AddNode { name, addr, zone, instance: id });
    }
    let policy = PolicySpec { replication, ..spec(0, DAY) };
    cluster.apply(create("db", policy));
    cluster
}

/// Makes so many groups, some alone and some together, with other commands in between.
fn make(cluster: &mut Cluster, count: i64) {
    let mut day = 0;
    while day < count {
        let together = (day % 3 + 1).min(count - day);
        let times: Vec<i64> = (day..day + together).map(|day| day * DAY as i64).collect();
        assert_eq!(cluster.apply(groups(&times)), Outcome::Done);
        cluster.index += day.unsigned_abs() % 7;
        day += together;
    }
    assert_eq!(cluster.policy().groups.len() as i64, count);
}

/// Shards of each node.
fn load(cluster: &Cluster) -> BTreeMap<NodeId, usize> {
    let mut load: BTreeMap<NodeId, usize> =
        cluster.map.nodes.iter().map(|node| (node.id, 0)).collect();
    for place in cluster.map.shards() {
        for owner in &place.shard.owners {
            *load.get_mut(owner).unwrap() += 1;
        }
    }
    load
}

fn zones_of(cluster: &Cluster) -> BTreeMap<ShardId, Vec<String>> {
    let zone = |node: &NodeId| cluster.map.node(*node).unwrap().zone.clone().unwrap();
    let shards = cluster.map.shards();
    shards.map(|place| (place.shard.id, place.shard.owners.iter().map(zone).collect())).collect()
}

fn spread(load: &BTreeMap<NodeId, usize>) -> usize {
    load.values().max().unwrap() - load.values().min().unwrap()
}

#[test]
fn five_nodes_with_two_copies_own_the_same_over_a_hundred_groups() {
    let mut cluster = cluster(&[None; 5], 2);
    make(&mut cluster, 100);
    let load = load(&cluster);
    assert!(spread(&load) <= 1, "{load:?}");
    assert_eq!(load.values().sum::<usize>(), 100 * 5 * 2);
}

#[test]
fn every_number_of_nodes_and_copies_is_balanced_over_a_hundred_groups() {
    for nodes in 1..=9 {
        for replication in 1..=5 {
            let mut cluster = cluster(&vec![None; nodes], replication);
            make(&mut cluster, 100);
            let load = load(&cluster);
            assert!(spread(&load) <= 1, "{nodes} nodes, {replication} copies: {load:?}");
            let copies = placement::replicas(replication, nodes);
            assert!(cluster.map.shards().all(|place| place.shard.owners.len() == copies));
        }
    }
}

#[test]
fn six_nodes_in_three_zones_never_have_two_copies_in_one_zone() {
    let zones = [Some("a"), Some("a"), Some("b"), Some("b"), Some("c"), Some("c")];
    for zones in [zones, [zones[0], zones[2], zones[4], zones[1], zones[3], zones[5]]] {
        let mut cluster = cluster(&zones, 3);
        make(&mut cluster, 100);
        for (shard, zones) in zones_of(&cluster) {
            assert_eq!(zones.iter().collect::<BTreeSet<_>>().len(), 3, "shard {shard}: {zones:?}");
        }
        assert!(spread(&load(&cluster)) <= 1, "{:?}", load(&cluster));
    }
}

#[test]
fn a_zone_of_one_node_and_one_of_four_are_both_used() {
    let zones = [Some("a"), Some("b"), Some("b"), Some("b"), Some("b")];
    for replication in [2, 3] {
        let mut cluster = cluster(&zones, replication);
        make(&mut cluster, 100);
        for (shard, zones) in zones_of(&cluster) {
            let alone = zones.iter().filter(|zone| *zone == "a").count();
            assert_eq!(alone, 1, "shard {shard}: {zones:?}");
        }
        // The spread over zones comes first; the nodes of the larger one carry nearly the same. Which of
        // them has one more in a group follows the ring, where the first has the place of two.
        let mut load = load(&cluster);
        load.remove(&NodeId(1));
        let most = *load.values().max().unwrap();
        assert!(spread(&load) * 5 <= most, "{load:?}");
    }
}
