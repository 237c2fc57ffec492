//! What `write` reads: a file or standard input, unpacked, from its beginning or from a mark.
//!
//! Invariant: an input is gone on with only if all bytes before the mark are those that were loaded,
//! which is checked by reading them; so a file may be renamed, unpacked, or have grown at its end.

use std::{
    fs::File,
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

use super::{
    state::Mark,
    unpack::{BLOCK, Stored, Unpack},
};
use crate::cli::fail::Fail;

/// The input, and its size where it is known.
pub(crate) struct Input {
    pub(crate) source: Box<dyn Read + Send>,
    /// For people.
    pub(crate) name: String,
    /// Bytes of it as it is stored, compressed or not.
    pub(crate) size: Option<u64>,
    /// Bytes of those that have been read.
    pub(crate) stored: Stored,
    /// Where it is read from.
    pub(crate) mark: Mark,
    /// Of all bytes before the mark.
    pub(crate) hash: Xxh3,
}

/// What stands behind a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    Nothing,
    More,
}

impl Input {
    /// Opens a file, or standard input for none and `-`.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self, Fail> {
        let Some(path) = file.filter(|path| *path != Path::new("-")) else {
            return Ok(Self::of(io::stdin(), "standard input".to_owned(), None));
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
        Ok(Self::of(file, path.display().to_string(), size))
    }

    fn of(source: impl Read + Send + 'static, name: String, size: Option<u64>) -> Self {
        let (source, stored) = Unpack::new(source);
        let (mark, hash) = (Mark::start(), Xxh3::new());
        Self { source: Box::new(source), name, size, stored, mark, hash }
    }

    /// Reads past what has been loaded, from the beginning, and looks whether there is more.
    pub(crate) fn skip(&mut self, to: &Mark) -> Result<Behind, String> {
        let failed = |error: io::Error| format!("cannot read {}: {error}", self.name);
        let mut block = vec![0; BLOCK];
        let mut left = to.offset;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            let some = read(&mut self.source, block.get_mut(..most).unwrap_or_default());
            match some.map_err(failed)? {
                0 => return Err(format!("{} has fewer lines than were loaded", self.name)),
                length => {
                    self.hash.update(block.get(..length).unwrap_or_default());
                    left -= length as u64;
                }
            }
        }
        if self.hash.digest() != to.hash {
            return Err(format!("{} is not what was loaded", self.name));
        }
        self.mark = to.clone();
        let mut next = [0];
        if read(&mut self.source, &mut next).map_err(failed)? == 0 {
            return Ok(Behind::Nothing);
        }
        if to.open {
            // The line that was loaded as the last one has become longer.
            return Err(format!("{} has grown within the line that was its last", self.name));
        }
        let source = std::mem::replace(&mut self.source, Box::new(io::empty()));
        self.source = Box::new(Cursor::new(next).chain(source));
        Ok(Behind::More)
    }
}

/// Reads some bytes, however often it is interrupted.
pub(crate) fn read(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> Input {
        Input::of(Cursor::new(text.as_bytes().to_vec()), "x".to_owned(), None)
    }

    fn mark(text: &str) -> Mark {
        let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
        let line = text.lines().count() + 1;
        Mark {
            offset: text.len() as u64,
            line,
            hash,
            open: !text.is_empty() && !text.ends_with('\n'),
        }
    }

    #[test]
    fn the_same_input_goes_on_behind_the_mark() {
        let mut same = input("a v=1\nb v=2\n");
        assert_eq!(same.skip(&mark("a v=1\n")), Ok(Behind::More));
        let mut rest = String::new();
        same.source.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), same.mark.line), ("b v=2\n", 2));
        assert_eq!(input("a v=1\n").skip(&mark("a v=1\n")), Ok(Behind::Nothing));
        assert_eq!(input("a v=1").skip(&mark("a v=1")), Ok(Behind::Nothing));
        assert_eq!(input("").skip(&Mark::start()), Ok(Behind::Nothing));
        assert_eq!(input("a").skip(&Mark::start()), Ok(Behind::More));
    }

    #[test]
    fn another_input_is_refused() {
        let refused = |text: &str, loaded: &str| input(text).skip(&mark(loaded)).unwrap_err();
        assert_eq!(refused("a v=2\nb v=2\n", "a v=1\n"), "x is not what was loaded");
        assert_eq!(refused("a v=", "a v=1\n"), "x has fewer lines than were loaded");
        assert!(refused("a v=12\n", "a v=1").contains("has grown within"));
    }
}
