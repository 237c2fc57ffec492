//! Whatever is granted, revoked and changed meanwhile: a client's map, made of the news it gets, is the
//! map without what it may not see.

use quorate_certs::{Identity, Role, Roles};
use quorate_protocol::map::{MapDelta, apply_updates};

use super::{
    delta::{commands, history},
    *,
};
use crate::{grants::visible, meta::feed::Feed};

/// What somebody shall have of a map.
fn cut(map: &ClusterMap, who: &Identity) -> ClusterMap {
    let mut cut = ClusterMap { grants: Vec::new(), ..map.clone() };
    if !who.permits(Role::Admin)
        && let Some(limits) = map.limits(who.name())
    {
        cut.databases.retain(|database| !limits.access(database.id).is_none());
    }
    cut
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_client_sees_the_databases_of_its_grants_and_no_others(
        commands in commands(),
        looks in prop::collection::vec(any::<bool>(), 50),
        limit in prop::sample::select(vec![0usize, 200, 1 << 20]),
    ) {
        let client = |name: &str, role| Identity::client("c", name, Roles::from_iter([role]));
        let who = [
            client("x", Role::Write).unwrap(),
            client("z", Role::Read).unwrap(),
            client("y", Role::Admin).unwrap(),
            Identity::node("c", "x").unwrap(),
        ];
        let mut have = who.each_ref().map(|_| Arc::new(ClusterMap::default()));
        let feed = Feed::new(limit);
        let maps = history(commands);
        for (two, look) in maps.windows(2).zip(looks.into_iter().chain([true]).cycle()) {
            feed.publish(&two[1], vec![MapDelta::between(&two[0], &two[1])]);
            for (have, who) in have.iter_mut().zip(&who).filter(|_| look) {
                let news = visible(feed.since(have.index), who).joined();
                if let Some(newer) = apply_updates(have, &news).unwrap() {
                    *have = newer;
                }
                prop_assert_eq!(have.as_ref(), &cut(&two[1], who), "{}", who);
            }
        }
    }
}
