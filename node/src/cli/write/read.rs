//! Reads the input and parses it, away from the network.
//!
//! Invariants: memory is bounded: two raw blocks, one batch being filled, two batches waiting; lines
//! that have arrived are not held back for more than [`LINGER`], however slow the rest comes; a line
//! that an error of the input has cut off is not read as if it were whole.

use std::{
    io::{self, Read},
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use quorate_protocol::{
    batch::Batch,
    line::{LineError, Options, parse_into},
};
use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3;

use super::{
    chunk::{Chunk, Cutter},
    input::{self, Input},
    state::Mark,
    unpack::{BLOCK, Stored},
};

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
    /// Where it ends in the input, and how many stored bytes had been read by then; none if it is
    /// made of several inputs.
    pub(crate) end: Option<(Mark, u64)>,
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

/// Bytes, and how many stored ones had been read by then.
type Block = io::Result<(Vec<u8>, u64)>;

/// Starts reading; batches of `lines` lines come out, then an error if reading failed.
pub(crate) fn start(
    input: Input,
    lines: usize,
    options: Options,
) -> io::Result<mpsc::Receiver<io::Result<Parsed>>> {
    let (blocks, received) = sync_channel(2);
    let (parsed, out) = mpsc::channel(WAITING);
    let Input { mut source, stored, mark, hash, .. } = input;
    let mut parser =
        Parser { cutter: Cutter::at(mark.line), mark, hash, read: 0, lines, options, out: parsed };
    // These threads end with the input, or when nobody takes what they have.
    thread::Builder::new()
        .name("read".to_owned())
        .spawn(move || read(&mut *source, &stored, &blocks))?;
    thread::Builder::new().name("parse".to_owned()).spawn(move || {
        loop {
            let taken = match received.recv_timeout(LINGER) {
                Ok(Ok((block, read))) => parser.block(&block, read),
                Ok(Err(error)) => return parser.failed(error),
                Err(RecvTimeoutError::Timeout) => parser.linger(),
                Err(RecvTimeoutError::Disconnected) => return parser.ended(),
            };
            if taken.is_none() {
                return;
            }
        }
    })?;
    Ok(out)
}

fn read(mut source: &mut (dyn Read + Send), stored: &Stored, blocks: &SyncSender<Block>) {
    loop {
        let mut block = vec![0; BLOCK];
        let next = match input::read(&mut source, &mut block) {
            Ok(0) => return,
            Ok(length) => {
                block.truncate(length);
                Ok((block, stored.bytes()))
            }
            Err(error) => Err(error),
        };
        let failed = next.is_err();
        if blocks.send(next).is_err() || failed {
            return;
        }
    }
}

/// Makes batches of blocks.
struct Parser {
    cutter: Cutter,
    /// Behind what was sent out.
    mark: Mark,
    hash: Xxh3,
    /// Stored bytes that had been read at the last block.
    read: u64,
    lines: usize,
    options: Options,
    out: mpsc::Sender<io::Result<Parsed>>,
}

impl Parser {
    /// None if nobody takes batches any more; so all of these.
    fn block(&mut self, block: &[u8], read: u64) -> Option<()> {
        self.read = read;
        self.cutter.push(block);
        while self.cutter.is_full(self.lines) {
            self.take()?;
        }
        Some(())
    }

    /// Nothing more has come for a while.
    fn linger(&mut self) -> Option<()> {
        if self.cutter.is_full(1) { self.take() } else { Some(()) }
    }

    /// The last line needs no newline, and a string that is never closed costs its line only.
    fn ended(&mut self) {
        loop {
            while self.cutter.is_full(1) {
                if self.take().is_none() {
                    return;
                }
            }
            if !self.cutter.give_up() {
                break;
            }
        }
        if let Some(chunk) = self.cutter.rest() {
            let _ = self.send(chunk, true);
        }
    }

    fn failed(&mut self, error: io::Error) {
        while self.cutter.is_full(1) {
            if self.take().is_none() {
                return;
            }
        }
        let _ = self.out.blocking_send(Err(error));
    }

    fn take(&mut self) -> Option<()> {
        let chunk = self.cutter.take(self.lines)?;
        self.send(chunk, false)
    }

    fn send(&mut self, chunk: Chunk, open: bool) -> Option<()> {
        self.hash.update(&chunk.text);
        self.mark = Mark {
            offset: self.mark.offset + chunk.text.len() as u64,
            line: self.cutter.line(),
            hash: self.hash.digest(),
            open,
        };
        let mut parsed = parse(chunk, self.options);
        parsed.end = Some((self.mark.clone(), self.read));
        self.out.blocking_send(Ok(parsed)).ok()
    }
}

/// Parses a chunk into a batch of its own.
pub(crate) fn parse(chunk: Chunk, options: Options) -> Parsed {
    let mut parsed = Parsed::default();
    parsed.add(chunk, options);
    parsed
}
