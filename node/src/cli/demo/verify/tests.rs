//! The comparison must find whatever is wrong with a replica.

use std::sync::LazyLock;

use bytes::Bytes;
use quorate_protocol::{
    id::FieldId,
    point::{Point, Value},
    schema::FieldType,
};

use super::*;
use crate::cli::demo::ledger::{FleetLedger, LiveLedger};

const FLEET: Fleet = Fleet { seed: 3, start: 1_700_000_000_000_000_000 };
const TICKS: usize = 6;
/// Sent, never acknowledged.
const LOST: usize = 4;

fn ledger() -> Ledger {
    let mut fleet = FleetLedger::new(FLEET);
    fleet.sent(0..TICKS);
    fleet.acked(0..LOST);
    fleet.acked(LOST + 1..TICKS);
    let mut live = LiveLedger::default();
    live.sent(&points());
    live.acked(&points());
    Ledger { fleet, live }
}

fn points() -> Vec<Point> {
    let point = |at: i64| Point::builder("zz_live").field("a", at).field("b", 0.5);
    vec![point(1).at(10).unwrap(), point(2).field("c", "x").at(20).unwrap()]
}

fn column(name: &str, values: Vec<Option<Value>>) -> Column {
    let kind = values.iter().flatten().next().map_or(FieldType::Integer, Value::field_type);
    let mut column = Column::new(FieldId(1), Bytes::copy_from_slice(name.as_bytes()), kind);
    for value in values {
        match value {
            Some(value) => {
                assert!(column.values.push(value));
                column.present.push(true);
            }
            None => column.push_absent(),
        }
    }
    column
}

/// A host's rows at these ticks.
fn host(host: usize, ticks: &[usize]) -> Series {
    static KEYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| Fleet::keys().unwrap());
    let mut walk = FLEET.walk(host);
    let rows: Vec<[i64; 10]> = (0..TICKS).map(|_| *walk.step()).collect();
    let field = |at: usize| {
        let values = ticks.iter().map(|tick| Some(Value::from(rows[*tick][at])));
        column(FIELDS[at], values.collect())
    };
    Series {
        key: KEYS[host].clone().into(),
        times: ticks.iter().map(|tick| FLEET.time(*tick)).collect(),
        columns: (0..FIELDS.len()).map(field).collect(),
    }
}

fn live() -> Series {
    Series {
        key: Bytes::from("zz_live"),
        times: vec![10, 20],
        columns: vec![
            column("a", vec![Some(Value::from(1i64)), Some(Value::from(2i64))]),
            column("b", vec![Some(Value::from(0.5)), Some(Value::from(0.5))]),
            column("c", vec![None, Some(Value::from("x"))]),
        ],
    }
}

/// Everything, as a replica that is right gives it, after `change`.
fn check(change: impl Fn(&mut Vec<Series>)) -> Found {
    let mut replica: Vec<Series> = Vec::new();
    for at in 0..1000 {
        // In two pieces, as when a shard group ends in between.
        replica.push(host(at, &[0, 1]));
        replica.push(host(at, &[2, 3, 5]));
    }
    replica.push(live());
    change(&mut replica);
    let (ledger, hosts) = (ledger(), hosts().unwrap());
    let mut verifier = Verifier::new(&ledger, &hosts);
    replica.iter().for_each(|piece| verifier.feed(piece));
    verifier.finish()
}

#[test]
fn a_replica_that_has_everything() {
    let found = check(|_| {});
    let expected = Found { verified: 5002, values: 50_005, ..Found::default() };
    assert_eq!(found, expected);
    assert_eq!(ledger().points(), 5002);
}

#[test]
fn what_was_sent_and_not_acknowledged_may_be_there() {
    let found = check(|replica| replica[1] = host(0, &[2, 3, 4, 5]));
    assert_eq!((found.verified, found.missing, found.wrong, found.unexpected), (5002, 0, 0, 0));
}

#[test]
fn missing_rows_pieces_and_series_are_found() {
    let rows = check(|replica| replica[1] = host(0, &[2, 5]));
    assert_eq!((rows.verified, rows.missing), (5001, 1));
    let tail = check(|replica| replica[1] = host(0, &[2]));
    assert_eq!((tail.verified, tail.missing), (5000, 2));
    let series = check(|replica| drop(replica.drain(4..6)));
    assert_eq!((series.verified, series.missing), (4997, 5));
    let live = check(|replica| drop(replica.pop()));
    assert_eq!((live.verified, live.missing), (5000, 2));
}

#[test]
fn one_wrong_value_is_found() {
    let value = check(|replica| {
        let Values::Integer(values) = &mut replica[7].columns[4].values else { panic!("integers") };
        values[1] += 1;
    });
    assert_eq!((value.verified, value.wrong), (5001, 1));
    let absent = check(|replica| drop(replica[7].columns.pop()));
    assert_eq!((absent.verified, absent.wrong), (4999, 3));
    let live = check(|replica| drop(replica[2000].columns.pop()));
    assert_eq!((live.verified, live.wrong), (5001, 1));
}

#[test]
fn rows_nobody_sent_are_found() {
    let time = check(|replica| replica[0].times[1] += 1);
    assert_eq!((time.missing, time.unexpected), (1, 1));
    let series = check(|replica| replica[2000].key = Bytes::from("zz_other"));
    assert_eq!((series.missing, series.unexpected), (2, 2));
    let twice = check(|replica| {
        let again = replica[0].clone();
        replica.push(again);
    });
    assert_eq!(twice.unexpected, 2);
}
