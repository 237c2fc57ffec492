//! Cuts a stream of line protocol into pieces that end where lines end.
//!
//! Invariants: the pieces put together are the stream; a piece ends behind a newline that no string
//! contains, except at the end of the stream or when a line is longer than any line may be, and such
//! a line is a piece of its own; memory is bounded by that limit. Called by the reading thread of
//! `write`, and by `hints import`.

use std::sync::Arc;

/// The longest line that is waited for, in bytes; a longer one is cut at its first newline, since
/// more likely a closing quote is missing.
const MAX_LINE: usize = 8 << 20;
/// A piece of more than one line has so many bytes at most.
const MAX_CHUNK: usize = 4 << 20;

/// Whole lines of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// The lines, each with its newline.
    pub(crate) text: Vec<u8>,
    /// The number of the first line in the stream, from 1.
    pub(crate) first_line: usize,
    /// Which stream it is, where there are several.
    pub(crate) source: Option<Arc<str>>,
}

/// Where the scanner is within a line; the same rules as the parser's, byte by byte. Quotes count
/// only in field values: behind the first space, and behind more equals signs than commas.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    escaped: bool,
    quoted: bool,
    fields: bool,
    equals: usize,
    commas: usize,
}

impl Scan {
    /// Takes the next byte; true if a line ends behind it.
    fn ends(&mut self, byte: u8) -> bool {
        if std::mem::take(&mut self.escaped) {
            return false;
        }
        match byte {
            b'\\' => self.escaped = true,
            b' ' => self.fields = true,
            b'=' if self.fields && !self.quoted => self.equals += 1,
            b',' if self.fields && !self.quoted => self.commas += 1,
            b'"' if self.fields && self.equals > self.commas => self.quoted = !self.quoted,
            b'\n' if !self.quoted => {
                *self = Self::default();
                return true;
            }
            _ => {}
        }
        false
    }
}

/// Collects bytes and gives whole lines.
#[derive(Debug)]
pub(crate) struct Cutter {
    buffer: Vec<u8>,
    scanned: usize,
    scan: Scan,
    /// Positions behind the newlines that end lines.
    ends: Vec<usize>,
    /// Those among them whose line was given up. Its string would swallow the lines behind it, so
    /// the parser must not see them together.
    broken: Vec<usize>,
    line: usize,
    source: Option<Arc<str>>,
}

impl Default for Cutter {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            scanned: 0,
            scan: Scan::default(),
            ends: Vec::new(),
            broken: Vec::new(),
            line: 1,
            source: None,
        }
    }
}

impl Cutter {
    /// For one stream of several.
    pub(crate) fn of(source: Arc<str>) -> Self {
        Self { source: Some(source), ..Self::default() }
    }

    /// For the rest of a stream, which begins with this line.
    pub(crate) fn at(line: usize) -> Self {
        Self { line, ..Self::default() }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.scan();
    }

    fn scan(&mut self) {
        while let Some(byte) = self.buffer.get(self.scanned) {
            self.scanned += 1;
            if self.scan.ends(*byte) {
                self.ends.push(self.scanned);
            }
            let begin = self.ends.last().copied().unwrap_or(0);
            if self.scanned - begin > MAX_LINE {
                self.give_up_line(begin);
            }
        }
    }

    /// Ends the line that began at `begin` at its first newline, or here.
    fn give_up_line(&mut self, begin: usize) {
        let line = self.buffer.get(begin..self.scanned).unwrap_or_default();
        let end = line.iter().position(|byte| *byte == b'\n').map_or(line.len(), |at| at + 1);
        self.scanned = begin + end;
        self.ends.push(self.scanned);
        self.broken.push(self.scanned);
        self.scan = Scan::default();
    }

    /// At the end of the stream, when all whole lines were taken: ends a line whose string is never
    /// closed at its first newline. True if there was one; then there are lines to take again.
    pub(crate) fn give_up(&mut self) -> bool {
        let open = self.ends.is_empty() && self.scan.quoted && self.buffer.contains(&b'\n');
        if open {
            self.give_up_line(0);
            self.scan();
        }
        open
    }

    /// The number of the line that comes next.
    pub(crate) const fn line(&self) -> usize {
        self.line
    }

    /// Whether so many lines wait to be taken, or as much as a piece may have.
    pub(crate) fn is_full(&self, lines: usize) -> bool {
        self.ends.len() >= lines || self.ends.last().is_some_and(|end| *end > MAX_CHUNK)
    }

    /// The next lines, at most this many; none if there is no whole line.
    pub(crate) fn take(&mut self, lines: usize) -> Option<Chunk> {
        let mut count = self.ends.partition_point(|end| *end <= MAX_CHUNK).min(lines);
        if let Some(broken) = self.broken.first() {
            count = count.min(self.ends.partition_point(|end| end < broken));
        }
        // The first line always goes, however long or broken it is.
        let end = *self.ends.get(count.max(1) - 1)?;
        self.ends.drain(..count.max(1));
        self.broken.retain(|position| *position > end);
        for position in self.ends.iter_mut().chain(&mut self.broken) {
            *position -= end;
        }
        self.scanned -= end;
        Some(self.cut(end))
    }

    /// What is left at the end of the stream: a line without its newline.
    pub(crate) fn rest(&mut self) -> Option<Chunk> {
        let end = self.buffer.len();
        self.ends.clear();
        self.broken.clear();
        self.scanned = 0;
        self.scan = Scan::default();
        (end > 0).then(|| self.cut(end))
    }

    fn cut(&mut self, end: usize) -> Chunk {
        let rest = self.buffer.split_off(end);
        let text = std::mem::replace(&mut self.buffer, rest);
        let first_line = self.line;
        self.line += newlines(&text);
        Chunk { text, first_line, source: self.source.clone() }
    }
}

impl Chunk {
    /// The lines one by one, each as a chunk of its own.
    pub(crate) fn into_lines(self) -> impl Iterator<Item = Self> {
        let mut cutter = Cutter::default();
        cutter.push(&self.text);
        let mut ends = cutter.ends;
        if ends.last().copied().unwrap_or(0) < self.text.len() {
            ends.push(self.text.len());
        }
        let (mut begin, mut line) = (0, self.first_line);
        ends.into_iter().map(move |end| {
            let text = self.text.get(begin..end).unwrap_or_default().to_vec();
            let first_line = line;
            begin = end;
            line += newlines(&text);
            Self { text, first_line, source: self.source.clone() }
        })
    }
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_protocol::{
        batch::Batch,
        line::{Options, parse_into},
    };

    use super::*;

    fn lines(text: &str) -> Vec<(String, usize)> {
        let chunk = Chunk { text: text.as_bytes().to_vec(), first_line: 1, source: None };
        let line = |chunk: Chunk| (String::from_utf8(chunk.text).unwrap(), chunk.first_line);
        chunk.into_lines().map(line).collect()
    }

    #[test]
    fn a_newline_in_a_string_ends_no_line() {
        let text = "a v=1\nb s=\"x\ny\",t=\"\\\"\n\" 1\nc,q=\" v=2\n# it's \"\nd v=1";
        let expected = [
            ("a v=1\n", 1),
            ("b s=\"x\ny\",t=\"\\\"\n\" 1\n", 2),
            ("c,q=\" v=2\n", 5),
            ("# it's \"\n", 6),
            ("d v=1", 7),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(line, at)| ((*line).to_owned(), *at)).collect();
        assert_eq!(lines(text), expected);
    }

    #[test]
    fn a_missing_quote_does_not_swallow_the_stream() {
        let mut cutter = Cutter::default();
        cutter.push(b"a s=\"x\nb v=1\n");
        assert!(!cutter.is_full(1));
        let filler = "c v=1\n".repeat(MAX_LINE / 6 + 1);
        cutter.push(filler.as_bytes());
        let first = cutter.take(1).unwrap();
        assert_eq!(first, Chunk { text: b"a s=\"x\n".to_vec(), first_line: 1, source: None });
        assert_eq!(cutter.take(1).unwrap().text, b"b v=1\n");
        assert!(cutter.is_full(MAX_LINE / 6));
    }

    /// Whatever is taken at once, a line that was given up comes alone.
    #[test]
    fn a_missing_quote_costs_its_own_line_only() {
        let parse = |chunk: &Chunk| {
            let mut batch = Batch::new();
            let outcome = parse_into(&mut batch, &chunk.text, Options::default());
            (outcome.points, outcome.errors.len())
        };
        let mut cutter = Cutter::default();
        cutter.push(b"a v=1\nb s=\"x\nc v=1\nd s=\"y\"\n");
        let (mut points, mut errors) = (0, 0);
        loop {
            while let Some(chunk) = cutter.take(100) {
                let (good, bad) = parse(&chunk);
                points += good;
                errors += bad;
            }
            if !cutter.give_up() {
                break;
            }
        }
        assert_eq!((points, errors, cutter.rest()), (3, 1, None));

        let mut cutter = Cutter::default();
        cutter.push(b"a v=1\nb s=\"x\n");
        cutter.push("c v=1\n".repeat(MAX_LINE / 6 + 1).as_bytes());
        let taken: Vec<Chunk> = (0..3).filter_map(|_| cutter.take(100)).collect();
        let lengths: Vec<usize> = taken.iter().map(|chunk| chunk.text.len()).collect();
        assert_eq!(lengths, [6, 7, 600]);
        assert_eq!(taken.iter().map(|chunk| chunk.first_line).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn long_lines_make_pieces_of_fewer_lines() {
        let mut cutter = Cutter::default();
        let line = format!("a s=\"{}\"\n", "x".repeat(MAX_CHUNK / 4));
        cutter.push(line.repeat(9).as_bytes());
        let counts: Vec<usize> = std::iter::from_fn(|| cutter.take(100))
            .map(|chunk| chunk.text.len() / line.len())
            .collect();
        assert_eq!(counts, [3, 3, 3]);
    }

    proptest! {
        /// Parsing line by line finds the same as parsing at once.
        #[test]
        fn lines_end_where_the_parser_ends_them(text in "([ab#][ ,=\\\\\"a1\n]{0,9}( v=1)?\n){0,6}") {
            let parse = |text: &[u8]| {
                let mut batch = Batch::new();
                let outcome = parse_into(&mut batch, text, Options::default());
                (outcome.lines, outcome.points)
            };
            let whole = Chunk { text: text.clone().into_bytes(), first_line: 1, source: None };
            let (mut lines, mut points) = (0, 0);
            for line in whole.into_lines() {
                let found = parse(&line.text);
                lines += found.0;
                points += found.1;
            }
            prop_assert_eq!((lines, points), parse(text.as_bytes()));
        }

        #[test]
        fn nothing_is_lost_however_it_comes(
            text in "([a#][ ,=\\\\\"a1\n]{0,8}\n?){0,8}",
            cuts in prop::collection::vec(1usize..9, 1..9),
            take in 1usize..4,
        ) {
            let whole = Chunk { text: text.clone().into_bytes(), first_line: 1, source: None };
            let expected: Vec<Chunk> = whole.into_lines().collect();
            let (mut cutter, mut rest, mut out) = (Cutter::default(), text.as_bytes(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                cutter.push(now);
                rest = later;
                if cutter.is_full(take) {
                    out.extend(cutter.take(take).into_iter().flat_map(Chunk::into_lines));
                }
            }
            while let Some(chunk) = cutter.take(take) {
                out.extend(chunk.into_lines());
            }
            out.extend(cutter.rest());
            prop_assert_eq!(out.iter().flat_map(|c| c.text.clone()).collect::<Vec<_>>(), text.into_bytes());
            prop_assert_eq!(out, expected);
        }
    }
}
