//! Reads the test vectors out of `SPEC.md`, for the tests of every crate (they include this file by
//! its path).
//!
//! Invariant: nothing in the document is passed over in silence. A fence, head or line of another
//! form, a kind without vectors and an entry that is not there are all panics.

// Compiled into several test crates, none of which uses all of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::{fmt::Debug, path::Path, str::FromStr};

/// One fenced block: its head, its `key: value` lines but `hex`, and the bytes of its `hex` lines.
#[derive(Clone, Debug)]
pub struct Vector {
    pub name: String,
    pub kind: String,
    pub entries: Vec<(String, String)>,
    pub bytes: Vec<u8>,
}

impl Vector {
    /// The values of `key`, in order.
    pub fn all(&self, key: &str) -> Vec<&str> {
        let entries = self.entries.iter().filter(|(found, _)| found == key);
        entries.map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of `key`.
    pub fn one(&self, key: &str) -> &str {
        match self.all(key)[..] {
            [value] => value,
            ref other => panic!("{}: {} values of {key}", self.name, other.len()),
        }
    }

    /// The only value of `key`, read as a `T`.
    pub fn number<T: FromStr<Err: Debug>>(&self, key: &str) -> T {
        let value = self.one(key);
        let read = value.parse();
        read.unwrap_or_else(|error| panic!("{}: {key}: {value}: {error:?}", self.name))
    }
}

/// The bytes of a text of hexadecimal digits; white space between them says nothing.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits = text.chars().filter(|c| !c.is_whitespace());
    let digits: Vec<u32> = digits.map(|c| c.to_digit(16).expect("a digit")).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte at the end of {text}");
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The whole document.
pub fn document() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join("SPEC.md")).unwrap()
}

/// All vectors of the document, in its order.
pub fn all_vectors() -> Vec<Vector> {
    let document = document();
    let mut lines = document.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(head) = line.strip_prefix("```vector") else {
            continue;
        };
        let head = head.strip_prefix(" name=").and_then(|head| head.split_once(" kind="));
        let (name, kind) = head.unwrap_or_else(|| panic!("the head of a vector: {line}"));
        let (mut entries, mut hex) = (Vec::new(), String::new());
        loop {
            let line = lines.next().unwrap_or_else(|| panic!("{name} has no end"));
            if line == "```" {
                break;
            }
            match line.split_once(": ") {
                Some(("hex", digits)) => hex += digits,
                Some((key, value)) => entries.push((key.to_owned(), value.to_owned())),
                None => panic!("{name}: {line}"),
            }
        }
        found.push(Vector {
            name: name.to_owned(),
            kind: kind.to_owned(),
            entries,
            bytes: unhex(&hex),
        });
    }
    found
}

/// The vectors of a kind, at least one.
pub fn vectors(kind: &str) -> Vec<Vector> {
    let mut found = all_vectors();
    found.retain(|vector| vector.kind == kind);
    assert!(!found.is_empty(), "no vectors of kind {kind}");
    found
}

/// The only vector of this kind and name.
pub fn vector(kind: &str, name: &str) -> Vector {
    let mut found = vectors(kind);
    found.retain(|vector| vector.name == name);
    assert_eq!(found.len(), 1, "vectors {name} of kind {kind}");
    found.remove(0)
}
