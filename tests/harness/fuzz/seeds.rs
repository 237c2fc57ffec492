//! Inputs to begin with: the vectors of `SPEC.md`, and the corpus in the repository.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::BytesMut;
use quorate_protocol::{
    frame::{Frame, FrameCodec},
    hash::series_hash,
};
use tokio_util::codec::Decoder;

use super::Target;

#[path = "../../../protocol/tests/spec/mod.rs"]
mod document;

fn folder(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target.name)
}

/// All of them.
///
/// # Panics
/// If there are hardly any, or a file cannot be read.
#[must_use]
pub fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    let entries = fs::read_dir(folder("corpus", target)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    inputs.extend(files.iter().map(|file| fs::read(file).unwrap()));
    assert!(inputs.len() > 2, "{}: no corpus", target.name);
    inputs
}

/// Writes those that are no files in `fuzz/seeds/TARGET/`, where libFuzzer can read them.
///
/// # Panics
/// If they cannot be written.
pub fn write(target: &Target) {
    let folder = folder("seeds", target);
    fs::create_dir_all(&folder).unwrap();
    for seed in (target.seeds)() {
        fs::write(folder.join(format!("{:016x}", series_hash(&seed))), seed).unwrap();
    }
}

/// The bytes of all vectors of these kinds.
pub(super) fn vectors(kinds: &[&str]) -> Vec<Vec<u8>> {
    kinds.iter().flat_map(|kind| document::vectors(kind)).map(|vector| vector.bytes).collect()
}

/// The op and the body of each whole frame.
///
/// # Panics
/// If the document has none.
#[must_use]
pub fn bodies() -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for vector in vectors(&["frame"]) {
        let mut buffer = BytesMut::from(&vector[..]);
        while let Ok(Some(frame)) = FrameCodec::default().decode(&mut buffer) {
            let Frame { op, body, .. } = frame;
            bodies.push([&op.to_le_bytes()[..], &body].concat());
        }
    }
    bodies
}

/// Lines, good and bad.
pub(super) fn lines() -> Vec<Vec<u8>> {
    let mut texts = vec![
        b"cpu,host=a,dc=x value=1,load=2i,up=t,name=\"a b\" 1700000000000000000\n".to_vec(),
        b"m\\ x,t\\,a=b\\=c f=\"q\\\"q\" 1\n# note\n\nm v=1u\n".to_vec(),
        b"m v=1e308,w=-0.,x=.5 -9223372036854775806\nm v=\"\xff\xfe\"\n".to_vec(),
    ];
    for vector in document::all_vectors() {
        if vector.kind.starts_with("line") {
            texts.push(vector.bytes);
            texts.extend(vector.entries.into_iter().map(|(_, value)| value.into_bytes()));
        }
    }
    texts
}

/// The file of settings, as it is and with every setting set, and a small one.
pub(super) fn settings() -> Vec<Vec<u8>> {
    let file = include_str!("../../../node/node.toml");
    let spelt: String = file
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let small = "data = \"d\"\ndurability = \"interval(50ms)\"\n[drain]\nrate_limit = 5\n";
    vec![file.into(), spelt.into(), small.into()]
}
