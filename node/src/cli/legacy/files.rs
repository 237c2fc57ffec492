//! Where the hint segments of InfluxDB 0.11 lie: `hh/NODE/NUMBER`.
//!
//! Invariant: segments of a node come in the order of their numbers, which is the order in which
//! they were written; whatever is not a segment is told, since it may be hints all the same. Called
//! by `hints import`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// The queue of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    /// The node as that system numbered it; none for a directory with another name.
    pub(crate) node: Option<u64>,
    /// By number, ascending.
    pub(crate) files: Vec<File>,
}

/// What a directory has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// By node, ascending.
    pub(crate) queues: Vec<Queue>,
    /// What is no segment and no queue.
    pub(crate) strangers: Vec<PathBuf>,
}

/// Looks through `hh`, or the directory of one node in it.
pub(crate) fn find(directory: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    // A directory given as `.` has a name all the same.
    let name = directory.canonicalize()?.file_name().and_then(|name| number(name.to_str()?));
    let own = Queue { node: name, files: Vec::new() };
    let folders = read(directory, own, &mut found)?;
    let of_one_node = !found.queues.is_empty();
    for (node, path) in folders {
        // Folders beside segments are no nodes.
        if of_one_node {
            found.strangers.push(path);
            continue;
        }
        let queue = Queue { node: Some(node), files: Vec::new() };
        let deeper = read(&path, queue, &mut found)?;
        found.strangers.extend(deeper.into_iter().map(|(_, path)| path));
    }
    found.queues.sort_by_key(|queue| queue.node);
    found.strangers.sort();
    Ok(found)
}

/// Adds the segments of one directory as a queue; gives its directories with a number.
fn read(directory: &Path, mut queue: Queue, found: &mut Found) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut numbered = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let about = fs::metadata(&path)?;
        let name = path.file_name().and_then(|name| number(name.to_str()?));
        match name {
            Some(number) if about.is_dir() => numbered.push((number, path)),
            Some(number) if about.is_file() => {
                queue.files.push(File { number, path, bytes: about.len() });
            }
            _ => found.strangers.push(path),
        }
    }
    queue.files.sort_by(|a, b| (a.number, &a.path).cmp(&(b.number, &b.path)));
    if !queue.files.is_empty() {
        found.queues.push(queue);
    }
    Ok(numbered)
}

fn number(name: &str) -> Option<u64> {
    // What parses is a number; a sign is not.
    name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_come_by_number_and_nodes_too() {
        let root = tempfile::tempdir().unwrap();
        let hh = root.path().join("hh");
        for node in ["10", "9"] {
            fs::create_dir_all(hh.join(node)).unwrap();
            for number in 1..=12 {
                fs::write(hh.join(node).join(number.to_string()), [0; 3]).unwrap();
            }
        }
        fs::create_dir_all(hh.join("9/77")).unwrap();
        for stranger in ["9/+5", "9/notes", "lost"] {
            fs::write(hh.join(stranger), "").unwrap();
        }
        let found = find(&hh).unwrap();
        let nodes: Vec<_> = found.queues.iter().map(|queue| queue.node).collect();
        assert_eq!(nodes, [Some(9), Some(10)]);
        for queue in &found.queues {
            let numbers: Vec<u64> = queue.files.iter().map(|file| file.number).collect();
            assert_eq!(numbers, (1..=12).collect::<Vec<_>>());
        }
        let strangers = ["9/+5", "9/77", "9/notes", "lost"].map(|path| hh.join(path));
        assert_eq!(found.strangers, strangers);
        let one = find(&hh.join("9")).unwrap();
        assert_eq!(one.queues, found.queues[..1]);
        assert_eq!(one.strangers, strangers[..3]);
        assert_eq!(find(&root.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
