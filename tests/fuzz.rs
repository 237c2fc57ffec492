//! Bytes of strangers, read by everything that reads such bytes: no panic, no memory beyond a bound, an end.
//!
//! The inputs are the vectors of `SPEC.md` and what is in `fuzz/corpus/TARGET/`, as they are and changed a
//! little, [`RUNS`] times for each target, from a fixed seed. `QUORATE_FUZZ=SECONDS` goes on for so long with each
//! target and another seed every time, and leaves an input that fails in `fuzz/corpus/TARGET/`. There is
//! no coverage to guide it: what it has found is in the corpus.

mod allocator;
mod mutate;
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use quorate_tests::harness::limit::{simulated, soak};

use self::{allocator::peak_of, mutate::Mutator, targets::Target};

/// Changed inputs for each target.
const RUNS: usize = 4_000;

fn directory(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name)
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    let mut files: Vec<PathBuf> = fs::read_dir(directory(target))
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    inputs.extend(files.iter().map(|file| fs::read(file).unwrap()));
    assert!(inputs.len() > 2, "{}: no corpus", target.name);
    inputs
}

/// Reads an input as the target does.
fn read(target: &Target, input: &[u8]) {
    let mut ended = Ok(());
    let peak = peak_of(|| ended = catch_unwind(AssertUnwindSafe(|| (target.read)(input))));
    let bound = target.bound + 64 * input.len();
    if ended.is_ok() && peak <= bound {
        return;
    }
    let file = directory(target).join(format!("failed-{:016x}", hash(input)));
    if std::env::var_os("QUORATE_FUZZ").is_some() {
        fs::create_dir_all(directory(target)).unwrap();
        fs::write(&file, input).unwrap();
    }
    eprintln!("{}: {} bytes of {bound}, for {input:02x?}", target.name, peak);
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
    panic!("{}: took {peak} bytes, {bound} are allowed", target.name);
}

fn hash(input: &[u8]) -> u64 {
    quorate_protocol::hash::series_hash(input)
}

fn fuzz(target: &Target) {
    // For its watchdog: whatever hangs ends the process.
    simulated(async {
        let corpus = corpus(target);
        corpus.iter().for_each(|input| read(target, input));
        let mut mutator = Mutator::new(hash(target.name.as_bytes()));
        for _ in 0..soak(RUNS) {
            read(target, &mutator.change(&corpus));
        }
        let Some(seconds) = std::env::var("QUORATE_FUZZ").ok() else { return };
        let begun = Instant::now();
        let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let (mut mutator, mut runs) = (Mutator::new(seed), 0u64);
        while begun.elapsed() < Duration::from_secs(seconds.parse().unwrap()) {
            read(target, &mutator.change(&corpus));
            runs += 1;
        }
        println!("{}: {runs} inputs, seed {seed}", target.name);
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
