//! Blocks against the groups they were made of.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::{
    batch::{Column, Presence, Values},
    id::{FieldId, Version},
    point::{MAX_TIME, MIN_TIME, Value},
    schema::FieldType,
};

use super::*;

mod groups;

use groups::*;

fn encoded(group: &RowGroup, table: Option<&VersionTable>, density: Density) -> Vec<u8> {
    let mut out = b"before".to_vec();
    encode(group, table, density, &mut out, &mut Scratch::default());
    out.split_off(6)
}

fn everything(_: &ColumnHead) -> bool {
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn groups_come_back_as_they_were(group in group(), dense in any::<bool>(), shared in any::<bool>()) {
        let density = if dense { Density::Dense } else { Density::Cheap };
        let table = VersionTable::new(group.versions.clone());
        let table = shared.then_some(&table);
        let block = encoded(&group, table, density);
        let view = View::parse(&block).unwrap();
        prop_assert_eq!(view.decode(table, &everything).unwrap(), group);
    }
}
