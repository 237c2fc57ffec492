//! Damaged and made-up bytes: an error each, whatever they claim.

use super::*;

/// Makes the checksum right again.
fn reseal(block: &mut [u8]) {
    let checksum = crc32fast::hash(&block[4..]);
    block[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// Decodes whatever can be decoded, each part by itself too.
fn read(block: &[u8], table: &VersionTable) -> Result<RowGroup, BlockError> {
    let view = View::parse(block)?;
    for at in 0..view.heads().len() {
        let column = view.column(at);
        if let Ok(Column { values: Values::Float(values), .. }) = column {
            assert!(values.iter().all(|value| value.is_finite()));
        }
    }
    let (_, _) = (view.times(), view.versions(Some(table)));
    let group = view.decode(Some(table), &everything)?;
    assert_eq!(group.times.len(), view.rows());
    Ok(group)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_cut_and_any_flipped_bit_is_an_error(
        group in group(),
        dense in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..8), 20),
    ) {
        let table = VersionTable::new(group.versions.clone());
        let block = encoded(&group, Some(&table), density(dense));
        for cut in 0..block.len().min(200) {
            prop_assert!(View::parse(&block[..cut]).is_err());
            prop_assert!(View::parse(&block[..block.len() - 1 - cut]).is_err());
        }
        for (at, bit) in flips {
            let mut block = block.clone();
            let at = at.index(block.len());
            block[at] ^= 1 << bit;
            prop_assert!(View::parse(&block).is_err());
        }
    }

    #[test]
    fn damage_behind_a_right_checksum_is_an_error_or_other_rows(
        group in group(),
        dense in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..8), 60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 10),
    ) {
        let table = VersionTable::new(group.versions.clone());
        let block = encoded(&group, Some(&table), density(dense));
        for (at, bit) in flips {
            let mut block = block.clone();
            let at = 4 + at.index(block.len() - 4);
            block[at] ^= 1 << bit;
            reseal(&mut block);
            let _ = read(&block, &table);
        }
        for cut in cuts {
            let mut block = block[..4 + cut.index(block.len() - 4)].to_vec();
            reseal(&mut block);
            prop_assert!(read(&block, &table).is_err());
        }
    }

    #[test]
    fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..200), rows in 1_u8..100) {
        let table = VersionTable::new(vec![Version(1)]);
        let mut block = vec![0; 4];
        block.extend([FORMAT, rows]);
        block.extend(&bytes);
        reseal(&mut block);
        let _ = read(&block, &table);
        let _ = VersionTable::decode(&block);
        // Numbers in every encoding there is.
        for tag in 0..6 {
            let bytes = [&[tag][..], &bytes].concat();
            let mut reader = quorate_protocol::batch::codec::Reader::new(&bytes);
            let _ = integers::decode(&mut reader.clone(), 1000);
            let _ = strings::decode(&mut reader.clone(), 1000);
            let _ = dense::decode::<f64>(&mut reader, 1000);
        }
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for density in [Density::Cheap, Density::Dense] {
            let values = (0..500).map(|at| if at == 77 { value } else { f64::from(at).sin() });
            let mut group = solo(values.collect());
            // Two series, so that there are no statistics which would show it already.
            group.spans = vec![Span { series: 1, rows: 0..1 }, Span { series: 2, rows: 1..500 }];
            let block = encoded(&group, None, density);
            let view = View::parse(&block).unwrap();
            assert_eq!(view.column(0), Err(BlockError::Invalid("a float is not finite")));
        }
    }
}

#[test]
fn claims_beyond_the_limits_are_refused() {
    let table = VersionTable::new(vec![Version(0)]);
    let mut group = solo(vec![1.0; MAX_ROWS + 1]);
    let block = encoded(&group, None, Density::Cheap);
    assert_eq!(read(&block, &table), Err(BlockError::TooLarge("too many rows")));
    group = solo(vec![1.0; MAX_ROWS]);
    for field in 1..=(MAX_CELLS / MAX_ROWS) as u32 {
        let column = Column { field: FieldId(field + 1), ..group.columns[0].clone() };
        group.columns.push(column);
    }
    let block = encoded(&group, None, Density::Cheap);
    assert_eq!(read(&block, &table), Err(BlockError::TooLarge("too many cells")));
    group.columns.pop();
    assert!(View::parse(&encoded(&group, None, Density::Cheap)).is_ok());
}

#[test]
fn groups_that_break_the_rules_are_refused() {
    let good = solo(vec![1.0, 2.0, 3.0]);
    let refused = |change: fn(&mut RowGroup)| {
        let mut group = good.clone();
        change(&mut group);
        let block = encoded(&group, None, Density::Cheap);
        let read = View::parse(&block).and_then(|view| view.decode(None, &everything));
        assert!(matches!(read, Err(BlockError::Invalid(_))), "{group:?}");
    };
    refused(|group| group.times.swap(0, 1));
    refused(|group| group.times[1] = group.times[0]);
    refused(|group| group.times[0] = MIN_TIME - 1);
    refused(|group| group.times[2] = MAX_TIME + 1);
    refused(|group| group.spans[0].series = 0);
    refused(|group| group.spans[0].rows.end = 2);
    refused(|group| group.columns.clear());
    refused(|group| group.columns.push(group.columns[0].clone()));
    refused(|group| group.columns[0].name = Bytes::new());
    refused(|group| {
        let absent = Presence::none(1);
        group.columns[0].present.extend(&absent, 0..1);
        group.columns[0].present = group.columns[0].present.slice(1..4);
    });
    refused(|group| *group = RowGroup::default());
}
