//! Reads the input and parses it, away from the network.
//!
//! Invariants: memory is bounded: two raw blocks, one batch being filled, two batches waiting; lines
//! that have arrived are not held back for more than [`LINGER`], however slow the rest comes.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use quorate_protocol::{
    batch::Batch,
    line::{LineError, Options, parse_into},
};
use tokio::sync::mpsc;

use super::chunk::{Chunk, Cutter};
use crate::cli::fail::Fail;

/// Bytes asked of the system at once.
const BLOCK: usize = 256 << 10;
/// How long whole lines wait for others to fill their batch.
const LINGER: Duration = Duration::from_secs(1);
/// Parsed batches that may wait for the network.
const WAITING: usize = 2;

/// Parsed chunks that make one batch.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) batch: Batch,
    pub(crate) points: usize,
    /// Lines that could not be read, each with the place of its chunk in `chunks`.
    pub(crate) errors: Vec<(usize, LineError)>,
}

impl Parsed {
    /// Parses one more chunk into the batch. A line ends with its chunk, whatever it says.
    pub(crate) fn add(&mut self, chunk: Chunk, options: Options) {
        let outcome = parse_into(&mut self.batch, &chunk.text, options);
        let at = self.chunks.len();
        self.points += outcome.points;
        self.errors.extend(outcome.errors.into_iter().map(|error| (at, error)));
        self.chunks.push(chunk);
    }
}

/// The input, and its size where it is known.
pub(crate) struct Input {
    pub(crate) source: Box<dyn Read + Send>,
    pub(crate) size: Option<u64>,
}

impl Input {
    /// Opens a file, or standard input for none and `-`.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self, Fail> {
        let Some(path) = file.filter(|path| *path != Path::new("-")) else {
            return Ok(Self { source: Box::new(io::stdin()), size: None });
        };
        let failed = |error: io::Error| {
            Fail::failed(format!("cannot read {}: {error}", PathBuf::from(path).display()))
        };
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if about.is_dir() {
            return Err(Fail::failed(format!("cannot read {}: it is a folder", path.display())));
        }
        let size = about.is_file().then_some(about.len());
        Ok(Self { source: Box::new(file), size })
    }
}

type Block = io::Result<Vec<u8>>;

/// Starts reading; batches of `lines` lines come out, then an error if reading failed.
pub(crate) fn start(
    input: Input,
    lines: usize,
    options: Options,
) -> io::Result<mpsc::Receiver<io::Result<Parsed>>> {
    let (blocks, received) = sync_channel(2);
    let (parsed, out) = mpsc::channel(WAITING);
    let mut source = input.source;
    // These threads end with the input, or when nobody takes what they have.
    thread::Builder::new().name("read".to_owned()).spawn(move || read(&mut *source, &blocks))?;
    thread::Builder::new().name("parse".to_owned()).spawn(move || {
        let mut cutter = Cutter::default();
        loop {
            let ended = match received.recv_timeout(LINGER) {
                Ok(Ok(block)) => {
                    cutter.push(&block);
                    false
                }
                Ok(Err(error)) => {
                    let _ = parsed.blocking_send(Err(error));
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(chunk) = cutter.take(lines)
                        && parsed.blocking_send(Ok(parse(chunk, options))).is_err()
                    {
                        return;
                    }
                    false
                }
                Err(RecvTimeoutError::Disconnected) => true,
            };
            while cutter.lines() >= lines || ended {
                let Some(chunk) = cutter.take(lines).or_else(|| cutter.rest()) else {
                    break;
                };
                if parsed.blocking_send(Ok(parse(chunk, options))).is_err() {
                    return;
                }
            }
            if ended {
                return;
            }
        }
    })?;
    Ok(out)
}

fn read(source: &mut dyn Read, blocks: &SyncSender<Block>) {
    loop {
        let mut block = vec![0; BLOCK];
        let next = match source.read(&mut block) {
            Ok(0) => return,
            Ok(length) => {
                block.truncate(length);
                Ok(block)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = next.is_err();
        if blocks.send(next).is_err() || failed {
            return;
        }
    }
}

/// Parses a chunk into a batch of its own.
pub(crate) fn parse(chunk: Chunk, options: Options) -> Parsed {
    let mut parsed = Parsed::default();
    parsed.add(chunk, options);
    parsed
}
