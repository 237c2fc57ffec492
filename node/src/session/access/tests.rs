//! The table against the specification, and what it comes to for each kind of certificate.

use bytes::Bytes;
use quorate_certs::Roles;
use quorate_protocol::id::MetaIndex;

use super::*;
use crate::spec::{document, vectors};

/// The cells of the rows of the document whose first cell is accepted.
fn rows(section: &str, first: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let document = document();
    let begin = document.find(section).unwrap();
    let level = section.split(' ').next().unwrap();
    let text = &document[begin + section.len()..];
    let end = text.find(&format!("\n{level} ")).unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| line.starts_with("| "));
    let cells = lines.map(|line| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().replace('`', "")).collect::<Vec<_>>()
    });
    cells.filter(|cells| first(&cells[0])).collect()
}

fn who(who: Who) -> &'static str {
    match who {
        Who::Everybody => "everybody",
        Who::Client(Role::Admin) => "admin, node",
        Who::Client(Role::Write) => "write, node",
        Who::Client(Role::Read) => "read, node",
        Who::Any => "read, write, node",
        Who::Nodes => "node",
        Who::Nobody => "nobody",
        Who::ByChange => "as the change",
        Who::Client(_) => panic!("no client has this role"),
    }
}

fn grant(grant: Grant) -> &'static str {
    match grant {
        Grant::None => "",
        Grant::Shard => "its shard",
        Grant::Database => "its database",
        Grant::All => "all",
    }
}

#[test]
fn the_table_of_ops_is_the_one_of_the_specification() {
    let hex = |cell: &str| u16::from_str_radix(cell.strip_prefix("0x")?, 16).ok();
    let spec = rows("\n## 5. Ops", |first| hex(first).is_some());
    let mut spec: Vec<_> = spec
        .iter()
        .map(|cells| (hex(&cells[0]).unwrap(), &cells[1][..], &cells[3][..], &cells[4][..]))
        .collect();
    // The session itself answers these two, and nobody can ask for the last one.
    for (op, name) in [(0x0001, "Hello"), (0x0003, "Cancel")] {
        let at = spec.iter().position(|row| *row == (op, name, "everybody", ""));
        spec.remove(at.unwrap_or_else(|| panic!("{name}")));
    }
    assert_eq!(spec.pop().map(|row| row.0), Some(0xffff));
    let code = OPS.iter().map(|it| (it.number, it.name, who(it.who), grant(it.grant)));
    assert_eq!(code.collect::<Vec<_>>(), spec);
}

#[test]
fn the_table_of_changes_is_the_one_of_the_specification() {
    let numbered = |cell: &str| {
        let (number, name) = cell.split_once(' ')?;
        Some((number.parse::<u16>().ok()?, name.to_owned()))
    };
    let spec = rows("\n### Commands", |first| numbered(first).is_some());
    let spec: Vec<_> = spec
        .iter()
        .map(|cells| (numbered(&cells[0]).unwrap(), &cells[2][..], &cells[3][..]))
        .collect();
    let code =
        CHANGES.iter().map(|it| ((it.number, it.name.to_owned()), who(it.who), grant(it.grant)));
    assert_eq!(code.collect::<Vec<_>>(), spec);
    // And every change that there is has its row: each has a vector, named after it.
    for vector in vectors("change").iter().filter(|vector| vector.name != "change-unknown") {
        let camel = vector.name.split('-').skip(1).map(|word| {
            let (first, rest) = word.split_at(1);
            first.to_uppercase() + rest
        });
        let row = &CHANGES[usize::from(vector.bytes[0])];
        assert_eq!(row.name, camel.collect::<String>());
    }
}

#[test]
fn a_role_is_enough_for_what_the_table_says_and_for_nothing_else() {
    let client = |role| Identity::client("c", "n", Roles::from_iter([role])).unwrap();
    let who = [
        client(Role::Read),
        client(Role::Write),
        client(Role::Admin),
        Identity::node("c", "n").unwrap(),
    ];
    for (rule, expected) in [
        (Who::Everybody, [true, true, true, true]),
        (Who::Any, [true, true, true, true]),
        (READ, [true, false, true, true]),
        (WRITE, [false, true, true, true]),
        (ADMIN, [false, false, true, true]),
        (Who::Nodes, [false, false, false, true]),
        (Who::Nobody, [false; 4]),
    ] {
        let found = who.each_ref().map(|who| rule.permits(who).is_ok());
        assert_eq!(found, expected, "{rule:?}");
    }
    let propose = Propose { deadline_ms: 1, forwarded: false, after: MetaIndex(0) };
    let garbage = Frame::new(1, &propose, Bytes::from_static(&[0xff; 3])).unwrap();
    assert!(matches!(allowed(&garbage, &who[3]), Err(Denied::Body(_))));
    let unknown = Frame { op: 0x7777, ..garbage };
    assert!(matches!(allowed(&unknown, &who[3]), Err(Denied::Unknown(0x7777))));
}
