//! Partials: merged in any order they say what the values say; their bytes are read back or refused.

use proptest::prelude::*;

use super::*;
use crate::{batch::Presence, id::FieldId};

/// Distance to the time before, whether there is a value, and the value by type.
type Cell = (u64, bool, f64, i64, String);

/// Values of one type, or none, at ascending times.
fn column() -> impl Strategy<Value = (Vec<i64>, Column)> {
    let float = prop_oneof![-1e9_f64..1e9, Just(-0.0), Just(0.0), -1e300..1e300, -1e-300..1e-300];
    let integer = prop_oneof![any::<i64>(), -3_i64..3];
    let cell = (1_u64..50, any::<bool>(), float, integer, "[ab]{0,3}");
    (0_u8..5, prop::collection::vec(cell, 1..40), -1000_i64..1000).prop_map(
        |(kind, cells, start): (u8, Vec<Cell>, i64)| {
            let kind = FieldType::from_u8(kind).unwrap();
            let mut column = Column::new(FieldId(3), "f".into(), kind);
            column.present = Presence::all(0);
            let (mut times, mut time) = (Vec::new(), start);
            for (step, present, float, integer, text) in cells {
                time += step as i64;
                times.push(time);
                column.present.push(present);
                assert!(column.values.push(match kind {
                    FieldType::Float => float.into(),
                    FieldType::Integer => integer.into(),
                    FieldType::Unsigned => integer.cast_unsigned().into(),
                    FieldType::Boolean => (integer % 2 == 0).into(),
                    FieldType::String => text.into(),
                }));
            }
            (times, column)
        },
    )
}

/// One value after the other.
fn naive(times: &[i64], column: &Column) -> Option<Partial> {
    let mut all: Option<Partial> = None;
    for (row, time) in times.iter().enumerate() {
        let Some(value) = column.get(row) else { continue };
        let one = Partial::one(*time, value.to_value());
        match &mut all {
            None => all = Some(one),
            Some(all) => all.merge(&one),
        }
    }
    all
}

/// Equal but for the last bits of a sum of floats.
fn same(a: &Partial, b: &Partial, column: &Column) -> bool {
    let magnitude: f64 = match &column.values {
        Values::Float(slots) => slots.iter().map(|value| value.abs()).sum(),
        _ => 0.0,
    };
    let close = match (a.sum, b.sum) {
        (Sum::Float { high: a, low: x }, Sum::Float { high: b, low: y }) => {
            ((a - b) + (x - y)).abs() <= magnitude * 1e-29
        }
        (a, b) => a == b,
    };
    close && Partial { sum: b.sum, ..a.clone() } == *b
}

fn windows_of(times: &[i64], column: &Column, windows: Windows) -> Vec<(i64, Partial)> {
    let mut out: Vec<(i64, Partial)> = Vec::new();
    for (row, time) in times.iter().enumerate() {
        if let Some(partial) = Partial::of(times, column, row..row + 1) {
            let (start, end) = windows.bounds(*time);
            assert!(start <= *time && *time < end);
            match out.last_mut() {
                Some((last, known)) if *last == start => known.merge(&partial),
                _ => out.push((start, partial)),
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn parts_merged_in_any_order_are_the_whole(
        (times, column) in column(), cuts in prop::collection::vec(any::<usize>(), 0..5),
        order: u64,
    ) {
        let whole = Partial::of(&times, &column, 0..times.len());
        prop_assert_eq!(whole.is_some(), column.present.any());
        let Some(whole) = whole else { return Ok(()) };
        prop_assert_eq!(whole.count, column.present.count() as u64);
        prop_assert!(same(&whole, &naive(&times, &column).unwrap(), &column));
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % times.len()).collect();
        ends.extend([0, times.len()]);
        ends.sort_unstable();
        let ranges = ends.windows(2).map(|two| two[0]..two[1]);
        let mut parts: Vec<Partial> =
            ranges.filter_map(|range| Partial::of(&times, &column, range)).collect();
        // Pairs are merged in an order that `order` picks, on either side.
        let mut order = order;
        while parts.len() > 1 {
            let at = order as usize % (parts.len() - 1);
            order = order.rotate_left(7);
            let (left, right) = (parts[at].clone(), parts.remove(at + 1));
            let (mut ab, mut ba) = (left.clone(), right.clone());
            ab.merge(&right);
            ba.merge(&left);
            prop_assert_eq!(&ab, &ba);
            parts[at] = ab;
        }
        prop_assert!(same(&whole, &parts[0], &column), "{:?} {:?}", whole, parts[0]);
    }

    #[test]
    fn windows_read_back_and_no_damage_goes_unnoticed(
        (times, column) in column(), every in 0_u64..100, bit: usize,
    ) {
        let windows = windows_of(&times, &column, Windows::new(every));
        let entry = FieldWindows {
            key: "m,a=b".into(), field: column.field, name: "f".into(), kind: column.kind(), windows,
        };
        let mut bytes = vec![1, 2];
        entry.encode(&mut bytes);
        let mut bytes = bytes.split_off(2);
        prop_assert_eq!(FieldWindows::decode(&bytes), Ok(entry));
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(FieldWindows::decode(&bytes).is_err());
    }

    /// With a right checksum: nothing may panic, and what is taken is in the one form there is.
    #[test]
    fn any_bytes_are_safe(
        (times, column) in column(), every in 0_u64..100, at: usize, byte: u8, cut: usize,
    ) {
        let entry = FieldWindows {
            key: "m,a=b".into(), field: column.field, name: "f".into(), kind: column.kind(),
            windows: windows_of(&times, &column, Windows::new(every)),
        };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        let at = 4 + at % (bytes.len() - 4);
        bytes[at] = byte;
        if cut % 3 == 0 {
            bytes.truncate(5 + cut % (bytes.len() - 4));
        }
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(read) = FieldWindows::decode(&bytes) {
            let mut again = Vec::new();
            read.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}

#[test]
fn functions_of_numbers() {
    let mut all = Partial::one(10, 3_i64.into());
    for (time, value) in [(30, 4_i64), (20, -1)] {
        all.merge(&Partial::one(time, value.into()));
    }
    let expected: [(Function, Value); 7] = [
        (Function::Count, 3_i64.into()),
        (Function::Sum, 6_i64.into()),
        (Function::Min, (-1_i64).into()),
        (Function::Max, 4_i64.into()),
        (Function::Mean, 2.0.into()),
        (Function::First, 3_i64.into()),
        (Function::Last, 4_i64.into()),
    ];
    for (function, expected) in expected {
        assert_eq!(all.result(function), Ok(Some(expected)), "{function:?}");
    }
}

#[test]
fn sums_are_exact_or_refused() {
    let all = |values: &[Value]| {
        let parts = (0..).zip(values).map(|(time, value)| Partial::one(time, value.clone()));
        parts.reduce(|mut all, one| {
            all.merge(&one);
            all
        })
    };
    let sum = |values: &[Value]| all(values).unwrap().result(Function::Sum);
    let huge = [i64::MAX, i64::MAX, -i64::MAX].map(Value::from);
    assert_eq!(sum(&huge), Ok(Some(i64::MAX.into())));
    let over = SumOverflow { function: Function::Sum, kind: FieldType::Integer, count: 2 };
    assert_eq!(sum(&huge[..2]), Err(over));
    assert_eq!(all(&huge[..2]).unwrap().result(Function::Mean), Ok(Some((i64::MAX as f64).into())));
    assert_eq!(sum(&[u64::MAX, 0].map(Value::from)), Ok(Some(u64::MAX.into())));
    assert!(sum(&[u64::MAX, 1].map(Value::from)).is_err());
    assert!(sum(&[f64::MAX, f64::MAX, -f64::MAX].map(Value::from)).is_err());
    let small = [1e100, 1.0, -1e100].map(Value::from);
    assert_eq!(sum(&small), Ok(Some(1.0.into())));
}

#[test]
fn text_and_booleans_have_count_first_and_last_only() {
    let mut all = Partial::one(1, "b".into());
    all.merge(&Partial::one(2, "a".into()));
    assert_eq!(all.result(Function::First), Ok(Some("b".into())));
    assert_eq!(all.result(Function::Last), Ok(Some("a".into())));
    assert_eq!(all.result(Function::Count), Ok(Some(2_i64.into())));
    for function in [Function::Sum, Function::Mean, Function::Min, Function::Max] {
        assert_eq!(all.result(function), Ok(None));
        assert_eq!(function.result(FieldType::Boolean), None);
    }
    assert_eq!(Function::Last.result(FieldType::Boolean), Some(FieldType::Boolean));
}

#[test]
fn windows_are_aligned_as_shard_groups() {
    let week = 7 * 24 * 3_600_000_000_000;
    // The first Monday of 1970.
    assert_eq!(Windows::new(week).bounds(5 * 24 * 3_600_000_000_000).0, 4 * 24 * 3_600_000_000_000);
    assert_eq!(Windows::new(10).bounds(-1), (-10, 0));
    assert_eq!(Windows::new(0).bounds(-1), (i64::MIN, i64::MAX));
}
