//! Bytes of strangers, read by everything that reads such bytes: no panic, no memory beyond a bound, an end.
//!
//! The inputs are the vectors of `SPEC.md` and what is in `fuzz/corpus/TARGET/`, as they are and changed a
//! little, [`RUNS`] times for each target, from a fixed seed. The same targets are fuzzed with coverage by
//! `fuzz/run`, and what that finds is in the corpus.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use quorate_protocol::hash::series_hash;
use quorate_tests::harness::{
    fuzz::{Target, allocator::Counting, check, mutate::Mutator, seeds, targets},
    limit::{simulated, soak},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Changed inputs for each target.
const RUNS: usize = 20_000;

/// Reads an input, and shows it if that goes wrong.
fn read(target: &Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(target, input))) {
        eprintln!("{}: {input:02x?}", target.name);
        resume_unwind(panic);
    }
}

fn fuzz(target: &Target) {
    // For its watchdog: whatever hangs ends the process.
    simulated(async {
        let corpus = seeds::corpus(target);
        corpus.iter().for_each(|input| read(target, input));
        let mut mutator = Mutator::new(series_hash(target.name.as_bytes()));
        for _ in 0..soak(RUNS) {
            read(target, &mutator.change(&corpus));
        }
    });
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                fuzz(&targets::$name());
            }
        )*
    };
}

tests! { frame hello message batch rows segment line config change }

#[test]
fn every_op_with_a_vector_is_read() {
    let ops = seeds::bodies().into_iter().map(|body| u16::from_le_bytes([body[0], body[1]]));
    let known: BTreeSet<u16> = targets::ops().collect();
    for op in ops {
        assert!(known.contains(&op), "{op:#06x} is missing in harness/fuzz/targets.rs");
    }
}

#[test]
fn what_takes_too_much_is_noticed() {
    let bomb = Target {
        name: "bomb",
        bound: 1 << 20,
        seeds: Vec::new,
        read: |input| {
            drop(vec![0u8; input.len() << 20]);
        },
    };
    read(&bomb, &[0]);
    assert!(catch_unwind(|| read(&bomb, &[0; 8])).is_err());
    let panics = Target { read: |_| panic!("as told"), ..bomb };
    assert!(catch_unwind(|| read(&panics, &[0])).is_err());
}
