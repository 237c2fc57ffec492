//! The index against the keys themselves.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::point::key::series_key;
use regex::bytes::Regex;

use super::{set::IdSet, *};
use crate::shard::{
    env::{EnvError, EnvLimits, Environment},
    filter::{ScanFilter, TagFilter, TagTest},
};

fn environment(dir: &std::path::Path) -> Environment<1> {
    let limits = EnvLimits { map_bytes: 1 << 20, max_map_bytes: 1 << 32, readers: 8 };
    Environment::open(dir, limits, ["index"]).unwrap()
}

fn add(env: &Environment<1>, series: &[(SeriesId, Vec<u8>)], max: usize) {
    let postings = Postings::of(series.iter().map(|(id, key)| (*id, &key[..])));
    let mut from = 0;
    while from < postings.len() {
        let to = postings.fitting(from, max);
        env.write(|txn, [index]| postings.put(txn, index, from..to)).unwrap();
        from = to;
    }
}

fn select(env: &Environment<1>, filter: &ScanFilter) -> Option<IdSet> {
    let mut selection = select::Selection::new(filter)?;
    loop {
        let done = env.read(|txn, [index]| selection.advance(txn, index).map_err(|e| env.wrap(e)));
        if let Some(set) = done.unwrap() {
            return Some(set);
        }
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b','), Just(0)], 1..3),
        1 => (140_usize..160, 0_u8..2).prop_map(|(len, last)| {
            [vec![b'x'; len], vec![b'a' + last]].concat()
        }),
        1 => (70_usize..78, 0_u8..2).prop_map(|(len, last)| [vec![0; len], vec![last]].concat()),
    ]
}

/// Names that a key can say: here only those that begin with a letter.
fn said(name: Vec<u8>) -> Vec<u8> {
    [b"n".to_vec(), name].concat()
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::collection::btree_map(0_u8..3, name(), 0..3);
    (0_u8..2, tags, 0_u8..6).prop_map(|(measurement, tags, long)| {
        let name = if long == 0 { vec![b'm'; 200] } else { vec![b'm', measurement] };
        let tags: Vec<_> =
            tags.into_iter().map(|(tag, value)| (tag_name(tag), said(value))).collect();
        series_key(&name, &tags).unwrap()
    })
}

fn tag_name(tag: u8) -> Vec<u8> {
    // One is too long to stand in full.
    if tag == 2 { vec![b't'; 170] } else { vec![b't', b'0' + tag] }
}

fn condition() -> impl Strategy<Value = TagFilter> {
    let values = prop::collection::vec(prop_oneof![Just(Vec::new()), name().prop_map(said)], 1..3);
    let patterns = prop_oneof![Just("^na"), Just("^(nb|)$"), Just("b$"), Just("x"), Just("^$")];
    (0_u8..3, any::<bool>(), values, patterns).prop_map(|(tag, exact, values, pattern)| TagFilter {
        key: tag_name(tag).into(),
        test: if exact {
            TagTest::In(values.into_iter().map(Bytes::from).collect())
        } else {
            TagTest::Matches(Regex::new(pattern).unwrap())
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn names_read_back_unless_they_were_cut(name in name(), rest: u64) {
        let mut form = Vec::new();
        put_name(&mut form, &name);
        prop_assert!(form.len() <= NAME_MAX);
        form.extend(rest.to_be_bytes());
        let (found, tail) = take_name(&form).unwrap();
        prop_assert_eq!(tail, rest.to_be_bytes());
        prop_assert_eq!(found, is_exact(&name).then_some(name));
    }

    #[test]
    fn chunks_read_back(ids in prop::collection::btree_set(any::<u64>(), 1..300), shift in 0_u32..64) {
        let ids: std::collections::BTreeSet<u64> = ids.iter().map(|id| id >> shift >> 1).collect();
        let ids: Vec<u64> = ids.into_iter().collect();
        let mut rest = &ids[..];
        while let Some(first) = rest.first() {
            let (value, count) = chunk::encode(rest);
            prop_assert!(value.len() <= chunk::MAX_BYTES);
            prop_assert!(count >= rest.len().min(64));
            prop_assert_eq!(chunk::count(&value), count);
            prop_assert_eq!(chunk::decode(*first, &value), Some(rest[..count].to_vec()));
            rest = &rest[count..];
        }
    }

    #[test]
    fn any_bytes_are_no_harm(first: u64, value in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Some(ids) = chunk::decode(first, &value) {
            prop_assert!(ids.is_sorted_by(|a, b| a < b));
        }
        take_name(&value);
    }

    #[test]
    fn no_wanted_series_is_missed_and_what_is_in_full_is_exact(
        keys in prop::collection::vec(key(), 1..80), splits in prop::collection::vec(1_usize..40, 1..4),
        tags in prop::collection::vec(condition(), 1..3), long: bool, max in 100_usize..4000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let env = environment(dir.path());
        let keys: std::collections::BTreeSet<Vec<u8>> = keys.into_iter().collect();
        let series: Vec<(SeriesId, Vec<u8>)> = (1..).zip(keys).collect();
        let mut rest = &series[..];
        for split in splits.into_iter().chain([usize::MAX]) {
            let (some, more) = rest.split_at(split.min(rest.len()));
            add(&env, some, max);
            rest = more;
        }
        let measurement = if long { vec![b'm'; 200] } else { b"m\x01".to_vec() };
        let filter = ScanFilter { measurement: Some(measurement.into()), tags, ..Default::default() };
        let escaped = filter.escaped_measurement();
        let wanted: Vec<SeriesId> = series
            .iter()
            .filter(|(_, key)| filter.key_matches(escaped.as_deref(), key))
            .map(|(id, _)| *id)
            .collect();
        let Some(selected) = select(&env, &filter) else {
            prop_assert!(filter.tags.iter().all(|tag| tag.key.len() > 150 || long));
            return Ok(());
        };
        for id in &wanted {
            prop_assert!(selected.contains(*id), "{} is missing", id);
        }
        let found: Vec<_> = selected.iter().collect();
        prop_assert_eq!(found.len(), selected.len());
        // More than one condition: with so few series the later ones are left to the keys. What wants
        // series without the tag has two: all of the measurement, less those with another value.
        let short = !long && filter.tags.len() == 1 && filter.tags[0].key.len() < 150
            && !filter.tags[0].test.matches(b"")
            && series.iter().all(|(_, key)| key.len() < 150);
        if short {
            prop_assert_eq!(found, wanted);
        }
    }
}

#[test]
fn many_series_of_one_value_and_many_values_of_one_tag() {
    let dir = tempfile::tempdir().unwrap();
    let env = environment(dir.path());
    let key = |id: u64| format!("m,host=h{id},os=linux,rack={}", id % 7).into_bytes();
    for fold in 0..4_u64 {
        let series: Vec<_> =
            (fold * 5000 + 1..=fold * 5000 + 5000).map(|id| (id, key(id))).collect();
        add(&env, &series, 64 << 10);
    }
    let with = |tag: &str, test: TagTest| {
        let tag = TagFilter { key: tag.to_owned().into(), test };
        let filter =
            ScanFilter { measurement: Some("m".into()), tags: vec![tag], ..ScanFilter::default() };
        select(&env, &filter).unwrap()
    };
    assert_eq!(with("os", TagTest::In(vec!["linux".into()])).len(), 20_000);
    assert_eq!(with("host", TagTest::In(vec!["h17".into(), "h19999".into()])).len(), 2);
    assert_eq!(with("host", TagTest::Matches(Regex::new("^h1..$").unwrap())).len(), 100);
    assert_eq!(with("rack", TagTest::In(vec!["".into(), "3".into()])).len(), 20_000 / 7);
    assert_eq!(with("none", TagTest::In(vec!["".into()])).len(), 20_000);
    let bytes = env
        .read(|txn, [index]| -> Result<_, EnvError> {
            let (mut entries, mut bytes) = (0, 0);
            for entry in index.iter(txn).unwrap() {
                let (key, value) = entry.unwrap();
                assert!(key.len() + value.len() < 2000);
                (entries, bytes) = (entries + 1, bytes + value.len());
            }
            assert!(entries < 20_100, "{entries}");
            Ok(bytes)
        })
        .unwrap();
    // Ids in a row take next to nothing.
    assert!(bytes < 20_000, "{bytes}");
}

#[test]
fn the_specification_s_keys_and_chunks() {
    use crate::spec::{unhex, vectors};
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for vector in vectors("shard-index-key") {
        let name = |key: &str| unhex(vector.one(key));
        let prefix = value_prefix(&tag_prefix(&name("measurement"), &name("tag")), &name("value"));
        let key = chunk_key(&prefix, vector.number("first"));
        assert_eq!(key, vector.bytes, "{}: {}", vector.name, hex(&key));
    }
    for vector in vectors("shard-index-chunk") {
        let ids: Vec<SeriesId> =
            vector.one("ids").split(' ').map(|id| id.parse().unwrap()).collect();
        let (value, count) = chunk::encode(&ids);
        assert_eq!((&value, count), (&vector.bytes, ids.len()), "{}: {}", vector.name, hex(&value));
        assert_eq!(chunk::decode(ids[0], &vector.bytes), Some(ids));
    }
    for vector in vectors("shard-index-chunk-bad") {
        assert_eq!(chunk::decode(1, &vector.bytes), None, "{}", vector.name);
    }
}
