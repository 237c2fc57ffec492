//! Policies change while points are written by askers that know nothing of each other.

use quorate_protocol::{change::PolicyChange, id::GroupId};

use super::*;

const HOUR: u64 = DAY / 24;

fn alter(change: PolicyChange) -> Change {
    Change::AlterPolicy { database: "db".to_owned(), name: "default".to_owned(), change }
}

/// What the matrix changes, beside the state it begins in: 1-day groups, kept for ever.
fn alterations() -> Vec<PolicyChange> {
    let group = |length| PolicyChange { group_duration: Some(length), ..PolicyChange::default() };
    vec![
        group(7 * DAY),
        group(HOUR),
        group(DAY),
        PolicyChange { duration: Some(2 * HOUR), ..PolicyChange::default() },
        PolicyChange { duration: Some(0), group_duration: Some(0), ..PolicyChange::default() },
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Alter(PolicyChange),
    /// One asker's write, with the groups that it lacks asked for at once.
    Write(Vec<i64>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let near = -20 * DAY as i64..20 * DAY as i64;
    let write = prop::collection::vec(near, 1..6);
    let writes = prop::collection::vec(write, 6 * 4);
    (Just(alterations()).prop_shuffle(), writes).prop_map(|(alterations, writes)| {
        let mut alterations = alterations.into_iter().map(Step::Alter);
        let mut steps = Vec::new();
        for (n, times) in writes.into_iter().enumerate() {
            // Four writes between any two alterations.
            if n > 0 && n % 4 == 0 {
                steps.extend(alterations.next());
            }
            steps.push(Step::Write(times));
        }
        steps
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn f19_in_every_order_of_alterations_a_point_stays_in_the_one_group_of_its_time(steps in steps()) {
        let mut cluster = Cluster::new();
        cluster.apply(alter(PolicyChange { group_duration: Some(DAY), ..PolicyChange::default() }));
        let mut filed: Vec<(i64, GroupId)> = Vec::new();
        for step in steps {
            match step {
                Step::Alter(change) => {
                    // Groups longer than the retention of that moment are refused, and change nothing.
                    let outcome = cluster.apply(alter(change));
                    let refused = matches!(outcome, Outcome::Refused { code: Code::Invalid, .. });
                    prop_assert!(refused || outcome == Outcome::Done, "{:?}", outcome);
                }
                Step::Write(times) => {
                    prop_assert_eq!(cluster.apply(groups(&times)), Outcome::Done);
                    for time in times {
                        let group = cluster.policy().group_at(time).unwrap();
                        filed.push((time, group.id));
                    }
                }
            }
            for (time, group) in &filed {
                let live = cluster.policy().groups.iter();
                let of: Vec<_> = live.filter(|g| g.start <= *time && *time < g.end).collect();
                prop_assert_eq!(of.len(), 1, "{} is in {:?}", time, of);
                prop_assert_eq!(of[0].id, *group);
            }
        }
    }
}

#[test]
fn a_policy_is_altered_as_far_as_is_said() {
    let mut cluster = Cluster::new();
    let settings = |cluster: &mut Cluster| {
        let policy = cluster.policy();
        (policy.duration, policy.group_duration, policy.replication)
    };
    let to = |cluster: &mut Cluster, duration, group_duration, replication| {
        cluster.apply(alter(PolicyChange { duration, group_duration, replication }))
    };
    assert_eq!(settings(&mut cluster), (0, 7 * DAY, 2));
    assert_eq!(to(&mut cluster, Some(30 * DAY), None, None), Outcome::Done);
    assert_eq!(settings(&mut cluster), (30 * DAY, 7 * DAY, 2), "groups that fit stay as long");
    assert_eq!(to(&mut cluster, Some(2 * HOUR), None, Some(3)), Outcome::Done);
    assert_eq!(settings(&mut cluster), (2 * HOUR, HOUR, 3), "others get the default");
    assert_eq!(to(&mut cluster, Some(0), Some(0), None), Outcome::Done);
    assert_eq!(settings(&mut cluster), (0, 7 * DAY, 3));
    for refused in [(Some(1), None), (Some(DAY), Some(2 * DAY)), (None, Some(1))] {
        let outcome = to(&mut cluster, refused.0, refused.1, None);
        assert!(matches!(outcome, Outcome::Refused { code: Code::Invalid, .. }), "{outcome:?}");
    }
}

#[test]
fn policies_come_and_go_and_a_database_keeps_its_default() {
    let mut cluster = Cluster::new();
    let named = |name: &str, duration| PolicySpec { name: name.to_owned(), ..spec(duration, 0) };
    let db = || "db".to_owned();
    let create = |policy, default| Change::CreatePolicy { database: db(), policy, default };
    assert_eq!(cluster.apply(create(named("raw", 2 * DAY), false)), Outcome::Done);
    assert_eq!(cluster.apply(create(named("raw", 2 * DAY), false)), Outcome::Done, "again");
    assert_eq!(cluster.refused(create(named("raw", 3 * DAY), true)), Code::AlreadyExists);
    assert_eq!(cluster.refused(create(named("r w", 0), false)), Code::Invalid);
    let database = &cluster.map.databases[0];
    assert_eq!(database.policies[1].id, PolicyId(2));
    assert_eq!(database.default_policy, PolicyId(1));
    let in_other = Change::CreatePolicy {
        database: "none".to_owned(),
        policy: named("raw", 0),
        default: false,
    };
    assert_eq!(cluster.refused(in_other), Code::DatabaseNotFound);

    let drop = |name: &str| Change::DropPolicy { database: db(), name: name.to_owned() };
    let default = |name: &str| Change::SetDefaultPolicy { database: db(), name: name.to_owned() };
    assert_eq!(cluster.refused(drop("default")), Code::Invalid);
    assert_eq!(cluster.refused(drop("none")), Code::PolicyNotFound);
    assert_eq!(cluster.refused(default("none")), Code::PolicyNotFound);
    cluster.apply(groups(&[0]));
    assert_eq!(cluster.apply(default("raw")), Outcome::Done);
    assert_eq!(cluster.apply(drop("default")), Outcome::Done);
    assert_eq!(cluster.map.shards().count(), 0);
    assert_eq!(cluster.refused(groups(&[0])), Code::PolicyNotFound);
    // What comes again has other ids.
    cluster.apply(create(named("default", 0), true));
    let database = &cluster.map.databases[0];
    assert_eq!(database.default_policy, PolicyId(3));
    let again = Change::CreateGroups { policy: PolicyId(3), times: vec![0] };
    assert_eq!(cluster.apply(again), Outcome::Done);
    let policy = cluster.map.databases[0].policy(PolicyId(3)).unwrap();
    assert_eq!(policy.groups[0].id, GroupId(2));
    for n in 0..98 {
        assert_eq!(cluster.apply(create(named(&format!("p{n}"), 0), false)), Outcome::Done);
    }
    assert_eq!(cluster.refused(create(named("more", 0), false)), Code::LimitExceeded);
}

#[test]
fn only_what_is_over_by_the_policy_as_it_is_now_expires() {
    let mut cluster = Cluster::new();
    cluster.apply(alter(PolicyChange { group_duration: Some(DAY), ..PolicyChange::default() }));
    cluster.apply(groups(&[0, DAY as i64, 2 * DAY as i64]));
    let starts = |cluster: &mut Cluster| -> Vec<i64> {
        cluster.policy().groups.iter().map(|group| group.start).collect()
    };
    let expire = Change::ExpireGroups { grace_ns: HOUR };
    cluster.at_ns = 100 * DAY;
    assert_eq!(cluster.apply(expire.clone()), Outcome::Done);
    assert_eq!(starts(&mut cluster).len(), 3, "kept for ever");
    cluster.apply(alter(PolicyChange { duration: Some(3 * DAY), ..PolicyChange::default() }));
    // The last point of the first group is three days old a day and three days after 0.
    cluster.at_ns = 4 * DAY + HOUR - 1;
    cluster.apply(expire.clone());
    assert_eq!(starts(&mut cluster).len(), 3);
    cluster.at_ns += 1;
    cluster.apply(expire.clone());
    assert_eq!(starts(&mut cluster), [DAY as i64, 2 * DAY as i64]);
    // Kept for longer before the command is applied: nothing goes.
    cluster.apply(alter(PolicyChange { duration: Some(0), ..PolicyChange::default() }));
    cluster.at_ns = 100 * DAY;
    cluster.apply(expire);
    assert_eq!(starts(&mut cluster).len(), 2);
    cluster.apply(groups(&[0]));
    let again = &cluster.policy().groups[0];
    assert_eq!((again.start, again.id), (0, GroupId(4)), "ids are not used again");
}

#[test]
fn groups_are_made_ahead_for_many_policies_and_only_where_they_are_missing() {
    let mut cluster = Cluster::new();
    cluster.apply(create("other", spec(0, 0)));
    cluster.apply(groups(&[0]));
    let end = cluster.policy().groups[0].end;
    let wanted = vec![(PolicyId(1), end), (PolicyId(9), 0), (PolicyId(1), 0), (PolicyId(2), end)];
    let change = Change::PrecreateGroups { wanted };
    assert_eq!(cluster.apply(change.clone()), Outcome::Done);
    assert_eq!(cluster.policy().groups.len(), 2);
    assert_eq!(cluster.map.databases[1].policies[0].groups.len(), 1);
    let before = cluster.map.databases.clone();
    assert_eq!(cluster.apply(change), Outcome::Done);
    assert_eq!(cluster.map.databases, before);
}
