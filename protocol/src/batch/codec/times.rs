//! Times of rows, grouped by series.
//!
//! Invariant: what is kept of each time is how far it is from where the rows before say it should
//! be: a first row at the time of the first row before, another row one step after its
//! predecessor, where the step is the one seen last, in whatever series. Series that are sampled
//! together at a steady pace leave only zeros.

use super::{packed, reader::Reader};
use crate::batch::DecodeError;

#[derive(Default)]
struct Clock {
    anchor: i64,
    step: i64,
    last: i64,
}

impl Clock {
    fn expected(&self, first: bool) -> i64 {
        if first { self.anchor } else { self.last.wrapping_add(self.step) }
    }

    fn advance(&mut self, first: bool, time: i64) {
        if first {
            self.anchor = time;
        } else {
            self.step = time.wrapping_sub(self.last);
        }
        self.last = time;
    }
}

/// Appends the times of groups of rows; `counts` are the group sizes.
pub(crate) fn encode(out: &mut Vec<u8>, times: &[i64], counts: &[i64]) {
    let mut clock = Clock::default();
    let mut rest = Vec::with_capacity(times.len());
    let mut times = times.iter();
    for &count in counts {
        for at in 0..count {
            let Some(&time) = times.next() else { break };
            rest.push(time.wrapping_sub(clock.expected(at == 0)));
            clock.advance(at == 0, time);
        }
    }
    packed::encode(out, &rest);
}

/// Reads the times of groups of rows. Whether they ascend is for the caller to check.
pub(crate) fn decode(reader: &mut Reader<'_>, counts: &[usize]) -> Result<Vec<i64>, DecodeError> {
    let mut times = packed::decode(reader, counts.iter().sum())?;
    let mut clock = Clock::default();
    let mut start = 0;
    for &count in counts {
        for (at, time) in times[start..start + count].iter_mut().enumerate() {
            *time = time.wrapping_add(clock.expected(at == 0));
            clock.advance(at == 0, *time);
        }
        start += count;
    }
    Ok(times)
}
