//! Compressed input, known by its first bytes, whatever its name.
//!
//! Invariants: gzip of any number of members and zstd of any number of frames give all of their
//! content; data that ends too early, or is damaged, is an error and never the end of the input;
//! what was read before the error has been given out. Called by the reading thread of `write`.

use std::{
    io::{self, BufRead, BufReader, Cursor, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::bufread::MultiGzDecoder;

/// Bytes asked of the system at once.
pub(crate) const BLOCK: usize = 256 << 10;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Bytes read of the input as it is stored, while it is being read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored(Arc<AtomicU64>);

impl Stored {
    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counted<R>(R, Stored);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read(buffer)?;
        self.1.0.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

type Source = Box<dyn BufRead + Send>;

/// The content of an input, compressed or not.
pub(crate) struct Unpack(Kind);

enum Kind {
    /// Nothing has been asked for yet: reading the first bytes may have to wait for them.
    Unread(Option<Source>),
    Plain(Source),
    Gzip(MultiGzDecoder<Source>),
    // libzstd refuses windows above 128 MiB (`zstd --long=28` and more), which bounds its memory.
    Zstd(zstd::stream::read::Decoder<'static, Source>),
}

impl Unpack {
    /// The content of `source`, and a count of what is read of it.
    pub(crate) fn new(source: impl Read + Send + 'static) -> (Self, Stored) {
        let stored = Stored::default();
        let source = BufReader::with_capacity(BLOCK, Counted(source, stored.clone()));
        (Self(Kind::Unread(Some(Box::new(source)))), stored)
    }
}

/// Looks at no more bytes than are needed, because a slow input may have no more for now.
fn detect(mut source: Source) -> io::Result<Kind> {
    let mut head = Vec::new();
    while [GZIP, ZSTD].iter().any(|magic| magic.len() > head.len() && magic.starts_with(&head)) {
        let mut next = [0];
        match source.read(&mut next) {
            Ok(0) => break,
            Ok(_) => head.extend(next),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (gzip, zstd) = (head == GZIP, head == ZSTD);
    let all: Source = Box::new(Cursor::new(head).chain(source));
    Ok(match (gzip, zstd) {
        (true, _) => Kind::Gzip(MultiGzDecoder::new(all)),
        (_, true) => Kind::Zstd(zstd::stream::read::Decoder::with_buffer(all)?),
        _ => Kind::Plain(all),
    })
}

impl Read for Unpack {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Kind::Unread(source) = &mut self.0 {
            let Some(source) = source.take() else { return Ok(0) };
            self.0 = detect(source)?;
        }
        match &mut self.0 {
            Kind::Unread(_) => Ok(0),
            Kind::Plain(source) => source.read(buffer),
            Kind::Gzip(decoder) => decoder.read(buffer).map_err(|error| wrong("gzip", error)),
            Kind::Zstd(decoder) => decoder.read(buffer).map_err(|error| wrong("zstd", error)),
        }
    }
}

/// What is wrong with compressed data; errors of the system stay what they are.
fn wrong(format: &str, error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
        return error;
    }
    let text = match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("the {format} data is cut off"),
        _ => format!("the {format} data is damaged ({error})"),
    };
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zst(content: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Gives a byte at a time, as a slow pipe may.
    struct Slow(Cursor<Vec<u8>>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(1);
            self.0.read(&mut buffer[..length])
        }
    }

    fn unpack(stored: Vec<u8>) -> (Vec<u8>, io::Result<usize>, u64) {
        let (mut unpack, count) = Unpack::new(Slow(Cursor::new(stored)));
        let mut content = Vec::new();
        let ended = unpack.read_to_end(&mut content);
        (content, ended, count.bytes())
    }

    fn lines() -> Vec<u8> {
        (0..200).flat_map(|n| format!("cpu,host=h{n} v={}\n", n * 7919).into_bytes()).collect()
    }

    #[test]
    fn all_members_and_frames_are_read() {
        let (lines, half) = (lines(), lines().len() / 2);
        let (front, back) = lines.split_at(half);
        let twice = |pack: fn(&[u8]) -> Vec<u8>| [pack(front), pack(b""), pack(back)].concat();
        // A frame of something else, which readers pass over.
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], &zst(back)[..]].concat();
        let skipping = [zst(front), skipped].concat();
        for stored in [lines.clone(), gzip(&lines), twice(gzip), zst(&lines), twice(zst), skipping]
        {
            let length = stored.len() as u64;
            let (content, ended, count) = unpack(stored);
            ended.unwrap();
            assert!(content == lines);
            assert_eq!(count, length);
        }
    }

    #[test]
    fn what_looks_compressed_only_at_first_is_plain() {
        for text in [&b""[..], b"\x1f", b"(", b"(\xb5\x2f", b"( v=1\n", b"\x1fa v=1\n"] {
            let (content, ended, _) = unpack(text.to_vec());
            ended.unwrap();
            assert_eq!(content, text);
        }
    }

    /// Wherever it is cut, also within a second member: what comes out is the beginning, and then
    /// an error.
    #[test]
    fn data_that_is_cut_off_is_an_error() {
        let lines = lines();
        for pack in [gzip, zst] {
            let one = pack(&lines);
            let two = [one.clone(), one.clone()].concat();
            for length in (5..two.len()).filter(|length| *length != one.len()) {
                let (content, ended, _) = unpack(two[..length].to_vec());
                let error = ended.unwrap_err().to_string();
                assert!(error.ends_with("data is cut off"), "{length}: {error}");
                assert!([lines.clone(), lines.clone()].concat().starts_with(&content));
                assert!(length < one.len() || content.len() >= lines.len());
            }
        }
    }

    #[test]
    fn damaged_data_is_an_error() {
        let lines = lines();
        for pack in [gzip, zst] {
            let good = pack(&lines);
            for at in [good.len() / 2, good.len() - 2] {
                let mut bad = good.clone();
                bad[at] ^= 0x55;
                let (_, ended, _) = unpack(bad);
                let error = ended.unwrap_err().to_string();
                assert!(error.contains("data is "), "{error}");
            }
            let (content, ended, _) = unpack([pack(&lines), b"trailing".to_vec()].concat());
            assert!(content == lines);
            ended.unwrap_err();
        }
    }
}
