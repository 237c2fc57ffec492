//! Field types, agreed once.
//!
//! Invariant: the first registered type of a field stays for ever. Asking for another is no error
//! here: the asker compares with the map at the command's index and refuses its own points. Fields
//! over a limit are left out and the rest is registered, so that one runaway measurement does not
//! cost the other points of a batch; the outcome then is `Partly`, and what the map lacks at this
//! index is what was left out.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::{
    change::{NewField, Outcome},
    code::Code,
    id::{DatabaseId, FieldId},
    map::{ClusterMap, Database, Field, Measurement, NextIds},
};

use super::{Refusal, refuse, take_id};

/// Fields that one measurement may have.
const MAX_FIELDS: usize = 1_024;

/// Measurements that one database may have.
const MAX_MEASUREMENTS: usize = 10_000;

/// Longest name of a measurement or field in bytes, as in the line protocol's keys.
const MAX_NAME: usize = 65_535;

pub(super) fn register(
    map: &mut ClusterMap,
    database: DatabaseId,
    fields: &[NewField],
) -> Result<Outcome, Refusal> {
    let mut ids = map.next;
    let database = map
        .database_mut(database)
        .ok_or_else(|| refuse(Code::DatabaseNotFound, "no such database"))?;
    let mut left_out = 0usize;
    let mut first = None;
    for field in fields {
        if let Err(refusal) = register_one(database, &mut ids, field) {
            left_out += 1;
            first.get_or_insert(refusal);
        }
    }
    map.next = ids;
    Ok(match first {
        None => Outcome::Done,
        Some(refusal) => Outcome::Partly {
            code: refusal.code,
            detail: format!("{left_out} of {} fields: {}", fields.len(), refusal.detail),
        },
    })
}

fn register_one(
    database: &mut Database,
    next: &mut NextIds,
    new: &NewField,
) -> Result<(), Refusal> {
    let valid = 1..=MAX_NAME;
    if !valid.contains(&new.measurement.len()) || !valid.contains(&new.field.len()) {
        return Err(refuse(Code::Invalid, format!("names must have 1 to {MAX_NAME} bytes")));
    }
    let measurements = &mut database.measurements;
    match measurements.binary_search_by(|known| known.name.cmp(&new.measurement)) {
        Ok(at) => match measurements.get_mut(at) {
            Some(measurement) if measurement.field(&new.field).is_some() => Ok(()),
            Some(measurement) => add_field(Arc::make_mut(measurement), next, new),
            None => Ok(()),
        },
        Err(_) if measurements.len() >= MAX_MEASUREMENTS => Err(refuse(
            Code::LimitExceeded,
            format!("a database may have {MAX_MEASUREMENTS} measurements"),
        )),
        Err(at) => {
            let mut measurement = Measurement { name: owned(&new.measurement), fields: Vec::new() };
            add_field(&mut measurement, next, new)?;
            measurements.insert(at, Arc::new(measurement));
            Ok(())
        }
    }
}

fn add_field(
    measurement: &mut Measurement,
    next: &mut NextIds,
    new: &NewField,
) -> Result<(), Refusal> {
    let fields = &mut measurement.fields;
    let Err(at) = fields.binary_search_by(|known| known.name.cmp(&new.field)) else {
        return Ok(());
    };
    if fields.len() >= MAX_FIELDS {
        return Err(refuse(
            Code::LimitExceeded,
            format!("a measurement may have {MAX_FIELDS} fields"),
        ));
    }
    fields.insert(
        at,
        Field { id: FieldId(take_id!(next.field)?), name: owned(&new.field), kind: new.kind },
    );
    Ok(())
}

/// A copy of its own: the command's bytes may be a slice of a much larger message.
fn owned(name: &Bytes) -> Bytes {
    Bytes::copy_from_slice(name)
}
