//! Statistics against what a loop over the rows finds.

use super::*;

/// The present values of a column with their times.
fn values(group: &RowGroup, column: &Column) -> Vec<(i64, Value)> {
    let value = |row: usize| Some((group.times[row], column.get(row)?.to_value()));
    (0..group.times.len()).filter_map(value).collect()
}

fn numeric(a: &Value, b: &Value) -> std::cmp::Ordering {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (a, b) => a.canonical_cmp(b),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn statistics_are_those_of_the_rows(group in group()) {
        let block = encoded(&group, None, Density::Cheap);
        let view = View::parse(&block).unwrap();
        let solo = group.spans.len() == 1 && group.times.is_sorted_by(|a, b| a < b);
        for (head, column) in view.heads().iter().zip(&group.columns) {
            let values = values(&group, column);
            let Some(statistics) = &head.statistics else {
                let long = values.iter().any(|(_, value)| matches!(value, Value::String(value) if value.len() > 64));
                let float = head.kind == FieldType::Float;
                prop_assert!(!solo || long || float);
                continue;
            };
            prop_assert!(solo);
            prop_assert_eq!(statistics.count, values.len() as u64);
            prop_assert_eq!(Some(&statistics.first), values.first());
            prop_assert_eq!(Some(&statistics.last), values.last());
            let order = |a: &&(i64, Value), b: &&(i64, Value)| numeric(&a.1, &b.1);
            prop_assert_eq!(Some(&statistics.min), values.iter().min_by(order).map(|it| &it.1));
            prop_assert_eq!(Some(&statistics.max), values.iter().max_by(order).map(|it| &it.1));
            let whole = values.iter().map(|(_, value)| match value {
                Value::Integer(value) => i128::from(*value),
                Value::Unsigned(value) => i128::from(*value),
                _ => 0,
            });
            match statistics.sum {
                Sum::Integer(sum) => prop_assert_eq!(sum, whole.sum::<i128>()),
                Sum::None => prop_assert!(matches!(head.kind, FieldType::Boolean | FieldType::String)),
                Sum::Float { .. } => prop_assert_eq!(head.kind, FieldType::Float),
            }
        }
    }

    #[test]
    fn sums_of_floats_lose_nothing(hundredths in prop::collection::vec(-1_000_000_i64..1_000_000, 1..300)) {
        // Large numbers that cancel out would swallow the small ones.
        let mut numbers: Vec<f64> = vec![1e18];
        numbers.extend(hundredths.iter().map(|number| *number as f64 * 0.25));
        numbers.push(-1e18);
        let group = solo(numbers);
        let block = encoded(&group, None, Density::Cheap);
        let heads = View::parse(&block).unwrap().heads().to_vec();
        let Some(Sum::Float { high, low }) = heads[0].statistics.as_ref().map(|it| it.sum) else {
            panic!("no sum");
        };
        prop_assert_eq!(high + low, hundredths.iter().sum::<i64>() as f64 * 0.25);
    }
}

#[test]
fn zeros_keep_their_signs() {
    let extremes = |values: &[f64]| {
        let group = solo(values.to_vec());
        let block = encoded(&group, None, Density::Dense);
        let view = View::parse(&block).unwrap();
        assert_eq!(view.column(0).unwrap(), group.columns[0]);
        let statistics = view.heads()[0].statistics.clone().unwrap();
        (statistics.min, statistics.max)
    };
    let (negative, positive) = (Value::Float(-0.0), Value::Float(0.0));
    assert_eq!(extremes(&[0.0, -0.0]), (negative.clone(), positive.clone()));
    assert_eq!(extremes(&[-0.0, -0.0]), (negative.clone(), negative));
    assert_eq!(extremes(&[0.0; 9]), (positive.clone(), positive));
}

#[test]
fn a_sum_that_overflows_leaves_no_statistics() {
    let group = solo(vec![f64::MAX; 3]);
    let block = encoded(&group, None, Density::Cheap);
    let view = View::parse(&block).unwrap();
    assert_eq!(view.heads()[0].statistics, None);
    assert_eq!(view.column(0).unwrap(), group.columns[0]);
}
