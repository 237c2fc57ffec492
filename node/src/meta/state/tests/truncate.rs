//! Groups are truncated while points are written, hinted and delivered by nodes with maps of their own.

use std::collections::BTreeMap;

use quorate_protocol::{
    change::{Consent, PolicyChange},
    id::GroupId,
    map::{DeleteReason, Truncation, TruncationState},
};

use super::*;

const HOUR: i64 = DAY as i64 / 24;

fn truncate(at: i64) -> Change {
    Change::TruncateGroups { database: "db".to_owned(), name: "default".to_owned(), at }
}

fn alter(change: PolicyChange) -> Change {
    Change::AlterPolicy { database: "db".to_owned(), name: "default".to_owned(), change }
}

fn policy_of(map: &ClusterMap) -> &Policy {
    &map.databases[0].policies[0]
}

/// One point on its way: one series, so always the first shard of its group.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Filed {
    time: i64,
    group: GroupId,
}

/// What a node says of a point by the map that it has.
#[derive(Debug, PartialEq)]
enum Verdict {
    Takes,
    Later,
    Never,
}

fn verdict(map: &ClusterMap, point: Filed) -> Verdict {
    let Some((_, group)) = map.group(point.group) else { return Verdict::Never };
    if !(group.start..group.end).contains(&point.time) {
        return Verdict::Never;
    }
    match group.closing() {
        Some(closing) if point.time >= closing.at => Verdict::Later,
        _ => Verdict::Takes,
    }
}

/// A node: the map that it has, what it stores, what it keeps for others.
#[derive(Default)]
struct Member {
    map: ClusterMap,
    stored: Vec<Filed>,
    hints: Vec<(usize, Filed)>,
}

impl Member {
    fn answers(&self) -> Vec<Consent> {
        let closing = policy_of(&self.map).groups.iter().filter_map(|group| {
            let it = group.closing()?;
            let kept = self.hints.iter().map(|(_, point)| point).chain(&self.stored);
            let of = kept.filter(|point| point.group == group.id && point.time >= it.at);
            let highest = of.map(|point| point.time).max();
            Some(Consent { group: group.id, truncation: it.index, highest })
        });
        closing.collect()
    }
}

/// A cluster, nodes and writers that follow its map as they like, and answers that are on their way.
struct World {
    cluster: Cluster,
    /// Every map there was.
    maps: BTreeMap<u64, ClusterMap>,
    members: Vec<Member>,
    writers: Vec<ClusterMap>,
    answers: Vec<(NodeId, Vec<Consent>)>,
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Change),
    /// A writer sends a point; owners with their bit set are down, and get a hint on `holder`.
    Write {
        writer: usize,
        time: i64,
        down: u8,
        holder: usize,
    },
    /// A node or writer hears of up to so many more changes.
    Follow(usize, u64),
    /// A node says what it has; the answer arrives when it is delivered, perhaps twice.
    Answer(usize),
    Arrive(usize, bool),
    /// A hint is delivered.
    Drain(usize),
    /// Truncations that are not answered are given up.
    Reopen,
}

impl World {
    fn new() -> Self {
        let mut cluster = Cluster::new();
        cluster.apply(alter(PolicyChange { group_duration: Some(DAY), ..PolicyChange::default() }));
        let map = cluster.map.clone();
        let member = || Member { map: map.clone(), ..Member::default() };
        Self {
            maps: BTreeMap::from([(map.index.0, map.clone())]),
            members: (0..3).map(|_| member()).collect(),
            writers: vec![map.clone(), map.clone(), map.clone()],
            answers: Vec::new(),
            cluster,
        }
    }

    fn apply(&mut self, change: Change) -> Outcome {
        let outcome = self.cluster.apply(change);
        self.maps.insert(self.cluster.index, self.cluster.map.clone());
        outcome
    }

    /// The map up to `steps` changes behind this one, and not before `least`.
    fn later(&self, map: &ClusterMap, steps: u64, least: u64) -> ClusterMap {
        let wanted = (map.index.0 + steps).max(least);
        self.maps.range(..=wanted).next_back().unwrap().1.clone()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(change) => {
                let outcome = self.apply(change);
                let refused = matches!(outcome, Outcome::Refused { code: Code::Invalid, .. });
                assert!(refused || outcome == Outcome::Done, "{outcome:?}");
            }
            Step::Write { writer, time, down, holder } => self.write(writer, time, down, holder),
            Step::Follow(who, steps) if who < 3 => {
                self.members[who].map = self.later(&self.members[who].map, steps, 0);
            }
            Step::Follow(who, steps) => {
                self.writers[who - 3] = self.later(&self.writers[who - 3], steps, 0);
            }
            Step::Answer(who) => {
                let answers = self.members[who].answers();
                self.answers.push((NodeId(who as u64 + 1), answers));
            }
            Step::Arrive(which, again) if !self.answers.is_empty() => {
                let which = which % self.answers.len();
                let (node, groups) = self.answers[which].clone();
                if !again {
                    self.answers.remove(which);
                }
                self.apply(Change::ConsentGroups { node, groups });
            }
            Step::Arrive(..) => {}
            Step::Drain(who) => {
                let Some((owner, point)) = self.members[who].hints.first().copied() else { return };
                match verdict(&self.members[owner].map, point) {
                    Verdict::Takes => {
                        self.members[owner].stored.push(point);
                        self.members[who].hints.remove(0);
                    }
                    Verdict::Later => {}
                    Verdict::Never => panic!("a hint is outside of its group: {point:?}"),
                }
            }
            Step::Reopen => drop(self.apply(Change::ReopenGroups { older_ns: 0 })),
        }
    }

    fn write(&mut self, writer: usize, time: i64, down: u8, holder: usize) {
        if policy_of(&self.writers[writer]).group_at(time).is_none() {
            assert_eq!(self.apply(groups(&[time])), Outcome::Done);
            self.writers[writer] = self.cluster.map.clone();
        }
        let routed = &self.writers[writer];
        let group = policy_of(routed).group_at(time).unwrap();
        let point = Filed { time, group: group.id };
        let (index, owners) = (routed.index.0, group.shards[0].owners.clone());
        // Nobody answers by a map from before that of the writer.
        for member in 0..3 {
            self.members[member].map = self.later(&self.members[member].map, 0, index);
        }
        for owner in owners.iter().map(|owner| owner.0 as usize - 1) {
            let is_down = down >> owner & 1 == 1;
            let taker = if is_down && holder != owner { holder } else { owner };
            if verdict(&self.members[taker].map, point) != Verdict::Takes {
                continue;
            }
            if taker == owner {
                self.members[owner].stored.push(point);
            } else {
                self.members[holder].hints.push((owner, point));
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let live = &policy_of(&self.cluster.map).groups;
        for pair in live.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start, "overlap");
        }
        for group in live {
            prop_assert!(group.start < group.end);
        }
        for member in &self.members {
            for point in member.hints.iter().map(|(_, point)| point).chain(&member.stored) {
                let of: Vec<GroupId> = live
                    .iter()
                    .filter(|group| (group.start..group.end).contains(&point.time))
                    .map(|group| group.id)
                    .collect();
                prop_assert_eq!(&of, &vec![point.group], "{}", point.time);
            }
        }
        Ok(())
    }

    /// Everybody catches up and answers.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        for who in 0..3 {
            self.members[who].map = self.cluster.map.clone();
            self.step(Step::Answer(who));
        }
        while !self.answers.is_empty() {
            self.step(Step::Arrive(0, false));
            self.check()?;
        }
        let open = policy_of(&self.cluster.map).groups.iter().filter_map(|g| g.closing()).count();
        prop_assert_eq!(open, 0, "everybody has answered");
        for who in 0..3 {
            self.members[who].map = self.cluster.map.clone();
        }
        for who in 0..3 {
            while !self.members[who].hints.is_empty() {
                self.step(Step::Drain(who));
            }
        }
        self.check()
    }
}

fn changes() -> Vec<Change> {
    let group = |length| PolicyChange { group_duration: Some(length), ..PolicyChange::default() };
    vec![
        alter(group(7 * DAY)),
        alter(group(HOUR as u64)),
        alter(PolicyChange { duration: Some(2 * HOUR as u64), ..PolicyChange::default() }),
        truncate(HOUR / 2),
        truncate(5 * HOUR),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = prop_oneof![4 => -2 * HOUR..8 * HOUR, 1 => -20 * DAY as i64..20 * DAY as i64];
    let write = (0..3usize, time, 0..8u8, 0..3usize)
        .prop_map(|(writer, time, down, holder)| Step::Write { writer, time, down, holder });
    let step = prop_oneof![
        5 => write,
        4 => (0..6usize, 1..6u64).prop_map(|(who, steps)| Step::Follow(who, steps)),
        3 => (0..3usize).prop_map(Step::Answer),
        4 => (any::<usize>(), prop::bool::weighted(0.3)).prop_map(|(n, again)| Step::Arrive(n, again)),
        1 => (0..3usize).prop_map(Step::Drain),
        1 => Just(Step::Reopen),
    ];
    let between = prop::collection::vec(prop::collection::vec(step, 4..14), 6);
    (Just(changes()).prop_shuffle(), between).prop_map(|(changes, between)| {
        let mut changes = changes.into_iter().map(Step::Apply);
        between
            .into_iter()
            .flat_map(|some| some.into_iter().chain(changes.next()).collect::<Vec<_>>())
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn f19_no_point_that_anybody_has_accepted_is_outside_of_its_group(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check()?;
        }
        world.finish()?;
    }
}

fn answer(cluster: &mut Cluster, node: u64, group: u64, truncation: u64, highest: Option<i64>) {
    let answer = Consent { group: GroupId(group), truncation: MetaIndex(truncation), highest };
    let change = Change::ConsentGroups { node: NodeId(node), groups: vec![answer] };
    assert_eq!(cluster.apply(change), Outcome::Done);
}

/// Two groups of a day, [0, 1d) and [1d, 2d), truncated at noon of the first; the index of that.
fn two_closing() -> (Cluster, u64) {
    let mut cluster = Cluster::new();
    let change = PolicyChange { group_duration: Some(DAY), ..PolicyChange::default() };
    cluster.apply(alter(change));
    cluster.apply(groups(&[0, DAY as i64]));
    cluster.at_ns = 1_000;
    assert_eq!(cluster.apply(truncate(12 * HOUR)), Outcome::Done);
    let index = cluster.index;
    (cluster, index)
}

#[test]
fn the_last_answer_decides_where_a_group_ends() {
    let (mut cluster, index) = two_closing();
    let at = |cluster: &mut Cluster, group: usize| {
        cluster.policy().groups[group].closing().map(|it| it.at)
    };
    assert_eq!((at(&mut cluster, 0), at(&mut cluster, 1)), (Some(12 * HOUR), Some(DAY as i64)));
    // A time inside a closing group gets that group.
    assert_eq!(cluster.apply(groups(&[13 * HOUR])), Outcome::Done);
    assert_eq!(cluster.policy().groups.len(), 2);
    for node in [1, 2, 2] {
        answer(&mut cluster, node, 1, index, Some(12 * HOUR + node as i64));
        answer(&mut cluster, node, 2, index, None);
    }
    answer(&mut cluster, 9, 1, index, Some(20 * HOUR));
    answer(&mut cluster, 3, 1, index - 1, Some(20 * HOUR));
    assert_eq!(cluster.policy().groups[0].end, DAY as i64, "one has not answered");
    answer(&mut cluster, 3, 1, index, None);
    let group = cluster.policy().groups[0].clone();
    assert_eq!((group.end, &group.truncation), (12 * HOUR + 3, &None));
    cluster.at_ns = 5_000;
    answer(&mut cluster, 3, 2, index, None);
    assert_eq!(cluster.policy().groups.len(), 1, "nothing was in the second one");
    let stone = cluster.policy().deleted[0].clone();
    assert_eq!(
        (stone.group, stone.at_ns, stone.reason),
        (GroupId(2), 5_000, DeleteReason::Emptied)
    );
    // What comes next follows the policy of now, behind the cut.
    cluster.apply(alter(PolicyChange {
        group_duration: Some(HOUR as u64),
        ..PolicyChange::default()
    }));
    cluster.apply(groups(&[12 * HOUR + 5]));
    let next = cluster.policy().groups[1].clone();
    assert_eq!((next.id, next.start, next.end), (GroupId(3), 12 * HOUR + 3, 13 * HOUR));
}

#[test]
fn points_up_to_the_end_keep_a_group_as_it_is() {
    let (mut cluster, index) = two_closing();
    for node in 1..=3 {
        answer(&mut cluster, node, 1, index, (node == 2).then_some(DAY as i64 - 1));
    }
    let group = cluster.policy().groups[0].clone();
    let kept = group.truncation.clone().unwrap();
    assert_eq!((group.end, kept.state), (DAY as i64, TruncationState::Kept));
    assert_eq!(kept.highest, Some(DAY as i64 - 1));
}

#[test]
fn a_truncation_that_somebody_does_not_answer_is_given_up() {
    let (mut cluster, index) = two_closing();
    answer(&mut cluster, 1, 1, index, None);
    let of = |cluster: &mut Cluster| -> Truncation {
        cluster.policy().groups[0].truncation.clone().unwrap()
    };
    cluster.at_ns = 1_099;
    assert_eq!(cluster.apply(Change::ReopenGroups { older_ns: 100 }), Outcome::Done);
    assert_eq!(of(&mut cluster).state, TruncationState::Closing);
    cluster.at_ns = 1_100;
    cluster.apply(Change::ReopenGroups { older_ns: 100 });
    assert_eq!(of(&mut cluster).state, TruncationState::Reopened);
    assert_eq!(of(&mut cluster).consents, [NodeId(1)]);
    // Begun again, the answers from before do not count.
    cluster.apply(truncate(12 * HOUR));
    let again = cluster.index;
    for node in 1..=3 {
        answer(&mut cluster, node, 1, index, None);
    }
    assert_eq!(
        (of(&mut cluster).state, of(&mut cluster).index.0),
        (TruncationState::Closing, again)
    );
    // One that is under way is not begun anew.
    cluster.apply(truncate(0));
    assert_eq!((of(&mut cluster).at, of(&mut cluster).index.0), (12 * HOUR, again));
    // One that leaves may have hints on their way, unless it has answered.
    cluster.apply(Change::SetVoting { node: NodeId(3), votes: false });
    answer(&mut cluster, 3, 2, index, None);
    for node in 1..=2 {
        answer(&mut cluster, node, 2, index, None);
    }
    assert_eq!(cluster.policy().groups[1].closing().map(|it| it.index.0), Some(again));
    answer(&mut cluster, 3, 2, again, None);
    assert_eq!(cluster.apply(Change::LeaveNode { node: NodeId(3) }), Outcome::Done);
    assert_eq!(of(&mut cluster).state, TruncationState::Reopened);
    assert!(cluster.policy().groups[1].closing().is_some(), "it has answered for this one");
    answer(&mut cluster, 1, 2, again, None);
    answer(&mut cluster, 2, 2, again, None);
    assert_eq!(cluster.policy().groups.len(), 1);
}

#[test]
fn a_deleted_group_leaves_a_tombstone_for_a_while() {
    let mut cluster = Cluster::new();
    cluster.apply(groups(&[0]));
    cluster.at_ns = 100;
    let delete = |group| Change::DeleteGroup { group: GroupId(group) };
    assert_eq!(cluster.refused(delete(0)), Code::Invalid);
    assert_eq!(cluster.refused(delete(2)), Code::Invalid);
    let shards: Vec<_> = cluster.policy().groups[0].shards.iter().map(|shard| shard.id).collect();
    assert_eq!(cluster.apply(delete(1)), Outcome::Done);
    assert_eq!(cluster.apply(delete(1)), Outcome::Done, "again");
    assert!(cluster.policy().groups.is_empty());
    let [stone] = &cluster.policy().deleted[..] else { panic!("one tombstone") };
    assert_eq!((stone.at_ns, stone.reason, &stone.shards), (100, DeleteReason::Asked, &shards));
    cluster.apply(groups(&[0]));
    assert_eq!(cluster.policy().groups[0].id, GroupId(2), "ids are not used again");
    cluster.at_ns = 149;
    cluster.apply(Change::PruneTombstones { keep_ns: 50 });
    assert_eq!(cluster.policy().deleted.len(), 1);
    cluster.at_ns = 150;
    cluster.apply(Change::PruneTombstones { keep_ns: 50 });
    assert!(cluster.policy().deleted.is_empty());
    let last = groups::MAX_TOMBSTONES as u64 + 3;
    for group in 2..last {
        cluster.apply(delete(group));
        cluster.apply(groups(&[0]));
    }
    let stones = &cluster.policy().deleted;
    assert_eq!(stones.len() as u64, last - 3);
    assert_eq!(stones[0].group, GroupId(3), "the oldest went first");
}
