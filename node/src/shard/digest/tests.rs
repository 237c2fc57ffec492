//! Digests equal those of a naive model, and of a store that was told the same in another way.

use proptest::prelude::*;
use quorate_protocol::point::Value;

use super::*;
use crate::shard::naive::{self, SHARD, Winners, cells, event, once, small_blocks, tiny};

/// As the specification says it, without any reuse.
fn expected(winners: &Winners, filter: &DigestFilter) -> Vec<BucketDigest> {
    let mut buckets: BTreeMap<i64, BucketDigest> = BTreeMap::new();
    for ((key, field, time), (version, value)) in winners {
        if !(filter.from..filter.to).contains(time) || *version > filter.up_to.0 {
            continue;
        }
        let (kind, value) = match value {
            Value::Float(value) => (0_u8, value.to_bits().to_le_bytes().to_vec()),
            Value::Integer(value) => (1, value.to_le_bytes().to_vec()),
            Value::Unsigned(value) => (2, value.to_le_bytes().to_vec()),
            Value::Boolean(value) => (3, vec![u8::from(*value)]),
            Value::String(value) => (4, value.to_vec()),
        };
        let cell = [
            &xxh3_128(key).to_le_bytes()[..],
            &time.to_le_bytes(),
            &version.to_le_bytes(),
            &field.to_le_bytes(),
            &[kind],
            &value,
        ]
        .concat();
        let start = filter.buckets.bounds(*time).0;
        let bucket = buckets.entry(start).or_insert(BucketDigest { start, cells: 0, digest: 0 });
        bucket.cells += 1;
        bucket.digest = bucket.digest.wrapping_add(xxh3_128(&cell));
    }
    buckets.into_values().collect()
}

proptest! {
    #![proptest_config(naive::cases(32))]
    #[test]
    fn digests_equal_a_naive_model_and_those_of_another_replica(
        writes in prop::collection::vec((1_u64..6, cells()), 1..10),
        events in prop::collection::vec(event(), 1..10),
        others in prop::collection::vec(event(), 1..30),
        every in 0_u64..12, from in -10_i64..10, len in 0_i64..20, up_to in 0_u64..7, seed: u64,
    ) {
        let writes: Vec<_> = writes.into_iter().map(|(v, cells)| (v, once(cells))).collect();
        let winners = naive::winners(&writes);
        // The other replica gets everything in small pieces, in another order, some of it twice.
        let pieces = writes.iter().flat_map(|(version, cells)| {
            cells.chunks(5).map(|cells| (*version, cells.to_vec()))
        });
        let mut pieces: Vec<_> = pieces.collect();
        let len_of = pieces.len();
        for at in 0..len_of {
            pieces.swap(at, (seed.rotate_left(at as u32) % len_of as u64) as usize);
        }
        pieces.extend(pieces.first().cloned());
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let a = naive::store(tiny(), one.path(), &writes, &events);
        let b = naive::store(small_blocks(), two.path(), &pieces, &others);
        let part = DigestFilter {
            from, to: from + len, buckets: Windows::new(every), up_to: Version(up_to),
        };
        let all = DigestFilter {
            from: i64::MIN, to: i64::MAX, buckets: Windows::new(0), up_to: Version(u64::MAX),
        };
        for filter in [part, all] {
            let expected = expected(&winners, &filter);
            prop_assert_eq!(&a.digest(SHARD, filter).unwrap(), &expected);
            prop_assert_eq!(&b.digest(SHARD, filter).unwrap(), &expected);
        }
    }
}

#[test]
fn any_difference_shows() {
    use crate::shard::naive::Cell;
    let digest = |version: u64, cells: &[Cell]| {
        let dir = tempfile::tempdir().unwrap();
        let store = naive::store(tiny(), dir.path(), &[(version, cells.to_vec())], &[]);
        let filter = DigestFilter {
            from: i64::MIN,
            to: i64::MAX,
            buckets: Windows::new(0),
            up_to: Version(u64::MAX),
        };
        store.digest(SHARD, filter).unwrap()
    };
    let cell = Cell { series: 2, time: 5, field: 0, value: 7 };
    let same = digest(3, std::slice::from_ref(&cell));
    assert_eq!(digest(3, std::slice::from_ref(&cell)), same);
    assert_ne!(digest(4, std::slice::from_ref(&cell)), same);
    for other in [
        Cell { series: 4, ..cell.clone() },
        Cell { time: 6, ..cell.clone() },
        Cell { field: 5, ..cell.clone() },
        Cell { value: 8, ..cell.clone() },
    ] {
        assert_ne!(digest(3, &[other]), same);
    }
}

#[test]
fn too_many_buckets_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cells = (0..20).map(|time| naive::Cell { series: 1, time, field: 0, value: 1 }).collect();
    let config = crate::shard::Config { digest_buckets: 10, ..tiny() };
    let store = naive::store(config, dir.path(), &[(1, cells)], &[]);
    let filter = |every| DigestFilter {
        from: i64::MIN,
        to: i64::MAX,
        buckets: Windows::new(every),
        up_to: Version(u64::MAX),
    };
    let error = store.digest(SHARD, filter(1)).unwrap_err();
    assert!(matches!(error, ScanError::Shard(ShardError::TooManyBuckets { limit: 10 })), "{error}");
    assert_eq!(store.digest(SHARD, filter(2)).unwrap().len(), 10);
}

#[test]
fn the_specification_s_cells() {
    for vector in crate::spec::vectors("digest-cell") {
        let (kind, text) = vector.one("value").split_once(' ').unwrap();
        let value: Value = match kind {
            "float" => text.parse::<f64>().unwrap().into(),
            "unsigned" => text.parse::<u64>().unwrap().into(),
            "boolean" => text.parse::<bool>().unwrap().into(),
            _ => text.to_owned().into(),
        };
        let mut cells = Cells::default();
        let key = xxh3_128(vector.one("key").as_bytes());
        cells.row(key, vector.number("time"), Version(vector.number("version")));
        cells.put(vector.number("field"), value.as_ref());
        let hex: String = cells.buffer.iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = format!("{:032x}", xxh3_128(&cells.buffer));
        assert_eq!(cells.buffer, vector.bytes, "{}: {hex} {digest}", vector.name);
        assert_eq!(digest, vector.one("digest"), "{}", vector.name);
    }
}
