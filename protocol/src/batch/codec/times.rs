//! Times of rows, grouped by series.
//!
//! Invariant: what is kept of each time is how far it is from where the rows before say it should
//! be: a first row at the time of the first row before, another row one step after its
//! predecessor, where the step is the one seen last, in whatever series. Series that are sampled
//! together at a steady pace leave only zeros.

use super::{Reader, packed};
use crate::batch::DecodeError;

/// Appends to `out` how far each time is from where it is expected; `counts` are the group sizes,
/// which add up to the number of times.
pub fn distances(times: &[i64], counts: impl IntoIterator<Item = usize>, out: &mut Vec<i64>) {
    let (mut anchor, mut step) = (0_i64, 0_i64);
    let mut rest = times;
    out.reserve(times.len());
    for count in counts {
        let (group, tail) = rest.split_at(count.min(rest.len()));
        rest = tail;
        let Some((&first, group)) = group.split_first() else { continue };
        out.push(first.wrapping_sub(anchor));
        anchor = first;
        let mut last = first;
        out.extend(group.iter().map(|&time| {
            let passed = time.wrapping_sub(last);
            let distance = passed.wrapping_sub(step);
            (last, step) = (time, passed);
            distance
        }));
    }
}

/// Makes times of distances, in place: undoes [`distances`] for the same group sizes.
pub fn restore(numbers: &mut [i64], counts: impl IntoIterator<Item = usize>) {
    let (mut anchor, mut step) = (0_i64, 0_i64);
    let mut rest = numbers;
    for count in counts {
        let (group, tail) = rest.split_at_mut(count.min(rest.len()));
        rest = tail;
        let Some((first, group)) = group.split_first_mut() else { continue };
        *first = first.wrapping_add(anchor);
        anchor = *first;
        let mut last = *first;
        for number in group {
            step = step.wrapping_add(*number);
            last = last.wrapping_add(step);
            *number = last;
        }
    }
}

/// Appends the times of groups of rows; `counts` are the group sizes.
pub(crate) fn encode(out: &mut Vec<u8>, times: &[i64], counts: &[i64]) {
    let mut rest = Vec::new();
    distances(times, counts.iter().map(|count| *count as usize), &mut rest);
    packed::encode(out, &rest);
}

/// Reads the times of groups of rows. Whether they ascend is for the caller to check.
pub(crate) fn decode(reader: &mut Reader<'_>, counts: &[usize]) -> Result<Vec<i64>, DecodeError> {
    let mut times = packed::decode(reader, counts.iter().sum())?;
    restore(&mut times, counts.iter().copied());
    Ok(times)
}
