use proptest::prelude::*;

use super::*;
use crate::{batch::Values, id::FieldId};

fn sample(rows: i64) -> Rows {
    let mut integer = Column::new(FieldId(1), "i".into(), crate::schema::FieldType::Integer);
    let mut float = Column::new(FieldId(2), "f".into(), crate::schema::FieldType::Float);
    for row in 0..rows {
        integer.present.push(true);
        assert!(integer.values.push((row % 7).into()));
        if row % 3 == 0 {
            float.present.push(true);
            assert!(float.values.push((row as f64 / 4.0).into()));
        } else {
            float.push_absent();
        }
    }
    Rows {
        times: (0..rows).map(|row| row * 10_000_000_000).collect(),
        versions: (0..rows).map(|row| Version(1_000_000 + 3 * (row as u64 / 5))).collect(),
        columns: vec![integer, float],
    }
}

#[test]
fn blocks_round_trip_and_stay_small() {
    for rows in [0, 1, 2, 63, 64, 65, 1000] {
        let mut rows = sample(rows);
        if rows.is_empty() {
            rows.columns.clear();
        }
        let mut block = b"before".to_vec();
        rows.encode(&mut block);
        assert_eq!(Rows::decode(&block[6..]).unwrap(), rows);
    }
    let mut block = Vec::new();
    sample(1000).encode(&mut block);
    assert!(block.len() < 1600, "{}", block.len());
}

#[test]
fn every_damaged_bit_is_found() {
    let mut block = Vec::new();
    sample(20).encode(&mut block);
    for bit in 0..block.len() * 8 {
        let mut bad = block.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Rows::decode(&bad).is_err(), "bit {bit}");
    }
    for cut in 0..block.len() {
        assert!(Rows::decode(&block[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn rules_are_checked_behind_the_checksum() {
    let invalid = |change: &dyn Fn(&mut Rows), why: &str| {
        let mut rows = sample(20);
        change(&mut rows);
        let mut block = Vec::new();
        rows.encode(&mut block);
        let error = Rows::decode(&block).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    invalid(&|rows| rows.times[3] = rows.times[2], "rows do not ascend");
    invalid(&|rows| rows.times[19] = i64::MAX, "time is out of range");
    invalid(&|rows| rows.columns.clear(), "no fields");
    invalid(&|rows| rows.columns.swap(0, 1), "columns do not ascend");
    invalid(&|rows| drop(rows.columns.remove(0)), "a row has no values");
    invalid(
        &|rows| {
            let Values::Float(values) = &mut rows.columns[1].values else { unreachable!() };
            values[3] = f64::NAN;
        },
        "not finite",
    );
    // Equal times with growing versions are fine.
    let mut rows = sample(20);
    rows.times[10] = rows.times[9];
    let mut block = Vec::new();
    rows.encode(&mut block);
    assert_eq!(Rows::decode(&block).unwrap(), rows);
}

proptest! {
    #[test]
    fn any_bytes_with_a_good_checksum_are_safe(mut bytes in prop::collection::vec(any::<u8>(), 5..200)) {
        bytes[4] = FORMAT;
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        let _ = Rows::decode(&bytes);
    }

    #[test]
    fn changed_blocks_with_a_good_checksum_are_safe(at in 5_usize..120, to in any::<u8>()) {
        let mut block = Vec::new();
        sample(30).encode(&mut block);
        let at = at.min(block.len() - 1);
        block[at] = to;
        let checksum = crc32fast::hash(&block[4..]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        let _ = Rows::decode(&block);
    }
}
