//! Every row that was acknowledged is read back, and compared value by value.
//!
//! Invariant: a row counts as verified only if all its values are those that were written, and if it comes
//! once: a series comes in the order of time, a part for each shard that has some of it.

use std::collections::HashMap;

use bytes::Bytes;
use indicatif::ProgressBar;
use quorate_client::{Query, query};
use quorate_protocol::{
    consistency::Level,
    point::{ValueRef, key::series_key},
    rows::Rows,
};

use super::{
    drive::{Driven, Plan},
    scene::Scene,
};
use crate::{
    cli::fail::Fail,
    fleet::{FIELDS, INTERVAL, MEASUREMENT, Table, tags},
};

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Checked {
    /// Acknowledged rows that are as they were written.
    pub(super) verified: u64,
    /// Acknowledged rows that are not.
    pub(super) missing: u64,
}

/// Reads from every owner, or from most of them where one is down.
pub(super) async fn verify(
    scene: &Scene,
    table: &Table,
    plan: &Plan,
    driven: &Driven,
    bar: &ProgressBar,
) -> Result<Checked, Fail> {
    bar.reset();
    let shape = table.shape();
    let mut hosts = HashMap::new();
    for host in 0..shape.hosts {
        let key = series_key(MEASUREMENT.as_bytes(), &tags(shape.seed, host));
        hosts.insert(Bytes::from(key.map_err(Fail::failed)?), host);
    }
    let all = scene.client.up().len() == scene.nodes();
    let mut query = Query::all(&scene.database);
    query.level = if all { Level::All } else { Level::Quorum };
    let mut stream: query::RowStream = scene.client.query(query).await?;
    let (mut verified, mut seen) = (0, vec![i64::MIN; shape.hosts]);
    while let Some(next) = stream.next().await {
        let (key, rows) = next?;
        let Some(host) = hosts.get(&key) else { continue };
        advance(&mut seen[*host], &rows.times)?;
        let good = good(table, plan.distinct, &|row| driven.acked(plan, row), *host, &rows);
        verified += good;
        bar.inc(good);
    }
    Ok(Checked { verified, missing: driven.distinct(plan).saturating_sub(verified) })
}

/// Goes on to the last of these times, if all come after what was `seen`.
fn advance(seen: &mut i64, times: &[i64]) -> Result<(), Fail> {
    for time in times {
        if *time <= *seen {
            return Err(Fail::failed(format!(
                "a series was read out of order: {time} after {seen}"
            )));
        }
        *seen = *time;
    }
    Ok(())
}

/// Acknowledged rows that are as they were written, of a host; `written` were to be, of all hosts.
fn good(table: &Table, written: u64, acked: &dyn Fn(u64) -> bool, host: usize, rows: &Rows) -> u64 {
    let columns = FIELDS
        .map(|field| rows.columns.iter().find(|column| column.name.as_ref() == field.as_bytes()));
    let shape = table.shape();
    let mut good = 0;
    for (at, time) in rows.times.iter().enumerate() {
        let since = time - shape.start;
        let Ok(step) = usize::try_from(since / INTERVAL) else { continue };
        let row = step as u64 * shape.hosts as u64 + host as u64;
        if since % INTERVAL != 0 || row >= written || !acked(row) {
            continue;
        }
        let same = columns.iter().zip(table.values(step, host)).all(|(column, value)| {
            column.and_then(|column| column.get(at)) == Some(ValueRef::Float(value))
        });
        good += u64::from(same);
    }
    good
}

#[cfg(test)]
mod tests {
    use quorate_protocol::{
        id::{FieldId, Version},
        rows::{Column, Values},
        schema::FieldType,
    };

    use super::*;
    use crate::fleet::Shape;

    /// The rows of a host, as they are read back.
    fn rows(table: &Table, host: usize, steps: usize) -> Rows {
        let column = |field: usize| {
            let name = Bytes::from_static(FIELDS[field].as_bytes());
            let mut column = Column::new(FieldId(field as u32 + 1), name, FieldType::Float);
            column.present.extend_with(true, steps);
            let values = (0..steps).map(|step| table.values(step, host)[field]);
            column.values = Values::Float(values.collect());
            column
        };
        Rows {
            times: (0..steps).map(|step| table.time(step)).collect(),
            versions: vec![Version(1); steps],
            columns: (0..FIELDS.len()).map(column).collect(),
        }
    }

    #[test]
    fn nothing_is_counted_twice() {
        let mut seen = i64::MIN;
        advance(&mut seen, &[1, 2]).unwrap();
        advance(&mut seen, &[5]).unwrap();
        assert!(advance(&mut seen, &[5, 6]).is_err());
        assert!(advance(&mut seen, &[7, 6]).is_err());
    }

    #[test]
    fn only_acknowledged_rows_with_all_their_values_count() {
        let table = Table::new(Shape { hosts: 3, ..Shape::default() }, 10);
        let whole = rows(&table, 1, 10);
        let count = |rows: &Rows, acked: &dyn Fn(u64) -> bool| good(&table, 30, acked, 1, rows);
        assert_eq!(count(&whole, &|_| true), 10);
        // Host 1 has rows 1, 4, 7 and so on.
        assert_eq!(count(&whole, &|row| row != 4 && row != 5), 9);
        assert_eq!(good(&table, 28, &|_| true, 1, &whole), 9);
        let mut other = whole.clone();
        if let Values::Float(values) = &mut other.columns[9].values {
            values[3] += 1.0;
        }
        assert_eq!(count(&other, &|_| true), 9);
        let mut moved = whole.clone();
        moved.times[2] += 1;
        assert_eq!(count(&moved, &|_| true), 9);
        let less = Rows { columns: whole.columns[..9].to_vec(), ..whole.clone() };
        assert_eq!(count(&less, &|_| true), 0);
        assert_eq!(count(&rows(&table, 1, 6), &|_| true), 6);
        assert_eq!(good(&table, 30, &|_| true, 2, &whole), 0);
    }
}
