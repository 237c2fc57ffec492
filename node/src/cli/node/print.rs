//! `quorate node --print-config`: every setting with its meaning and its value, as a file that
//! `--config` reads.
//!
//! Invariant: what is printed is what the types say. Names and values come out of the configuration
//! itself, meanings out of the sources of its types; a test holds both against each other, and against
//! `node/node.toml`.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::super::fail::Fail;
use crate::NodeConfig;

const HEAD: &str = "\
# Settings of a Quorate node, for 'quorate node --config FILE'.
#
# A line that begins with '#' and a name says what holds if nothing is set: take the '#' away to
# set something else. Unknown names are refused. Flags of the command line win over this file.
# SIGHUP makes a node read it again: [drain] counts at once, the rest after a restart.
";

/// Columns of a line of text.
const WIDTH: usize = 96;

/// Tables of the file, by name: the type, and the source that it stands in.
const TABLES: [(&str, &str, &str); 11] = [
    ("transport", "TransportConfig", include_str!("../../../../client/src/config/transport.rs")),
    (
        "certificates",
        "CertificatesConfig",
        include_str!("../../../../client/src/config/certificates.rs"),
    ),
    ("limits", "LimitsConfig", include_str!("../../limits/config.rs")),
    ("journal", "JournalConfig", include_str!("../../journal/config.rs")),
    ("shard", "Config", include_str!("../../shard/config.rs")),
    ("feed", "FeedConfig", include_str!("../../feed/config.rs")),
    ("handoff", "HandoffConfig", include_str!("../../handoff/config.rs")),
    ("drain", "DrainConfig", include_str!("../../handoff/drain/config.rs")),
    ("meta", "MetaConfig", include_str!("../../meta/config.rs")),
    ("leaving", "LeavingConfig", include_str!("../../leaving.rs")),
    ("http_limits", "HttpConfig", include_str!("../../http/config.rs")),
];

/// What to write for settings that are none by default.
const EXAMPLES: [(&str, &str); 3] =
    [("advertise", "\"n1.example.org:7100\""), ("http", "\"127.0.0.1:7101\""), ("zone", "\"a\"")];

/// The file for a configuration: what differs from the defaults is set, the rest is said.
pub(super) fn print(config: &NodeConfig) -> Result<String, Fail> {
    let table = |config: &NodeConfig| Table::try_from(config).map_err(Fail::failed);
    let (values, defaults) = (table(config)?, table(&NodeConfig::default())?);
    let mut out = HEAD.to_owned();
    let source = include_str!("../../config.rs");
    for (name, docs) in fields(source, "NodeConfig") {
        if TABLES.iter().any(|(table, ..)| *table == name) {
            continue;
        }
        setting(&mut out, name, &docs, values.get(name), defaults.get(name));
    }
    for (table, kind, source) in TABLES {
        let inner = |all: &Table| all.get(table).and_then(Value::as_table).cloned();
        let (values, defaults) =
            (inner(&values).unwrap_or_default(), inner(&defaults).unwrap_or_default());
        out.push('\n');
        text(&mut out, &docs_before(source, &format!("pub struct {kind} {{")));
        let _ = writeln!(out, "[{table}]");
        for (name, docs) in fields(source, kind) {
            setting(&mut out, name, &docs, values.get(name), defaults.get(name));
        }
    }
    Ok(out)
}

fn setting(
    out: &mut String,
    name: &str,
    docs: &str,
    value: Option<&Value>,
    default: Option<&Value>,
) {
    out.push('\n');
    text(out, docs);
    let set = if value == default { "#" } else { "" };
    let example = || EXAMPLES.iter().find(|(of, _)| *of == name).map_or("", |(_, value)| value);
    let value = value.map_or_else(|| example().to_owned(), literal);
    let _ = writeln!(out, "{set}{name} = {value}");
}

/// A value as TOML has it. Settings are numbers, words and switches.
fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let mut quoted = String::from("\"");
            for sign in text.chars() {
                match sign {
                    '"' | '\\' => quoted.extend(['\\', sign]),
                    sign if sign.is_control() => {
                        let _ = write!(quoted, "\\u{:04x}", u32::from(sign));
                    }
                    sign => quoted.push(sign),
                }
            }
            quoted + "\""
        }
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(switch) => switch.to_string(),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => String::new(),
    }
}

/// Words as comments.
fn text(out: &mut String, docs: &str) {
    let mut column = usize::MAX / 2;
    for word in docs.split_whitespace() {
        if column + word.len() >= WIDTH {
            out.push_str(if column > WIDTH * 2 { "#" } else { "\n#" });
            column = 1;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.len();
    }
    if !docs.is_empty() {
        out.push('\n');
    }
}

/// The public fields of a type, with what stands before them.
fn fields<'a>(source: &'a str, kind: &str) -> Vec<(&'a str, String)> {
    let begin = format!("pub struct {kind} {{\n");
    let Some((_, body)) = source.split_once(&begin) else { return Vec::new() };
    let body = body.split("\n}\n").next().unwrap_or_default();
    let (mut fields, mut docs) = (Vec::new(), String::new());
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            docs.push_str(text);
        } else if let Some(field) = line.strip_prefix("pub ") {
            let name = field.split(':').next().unwrap_or_default();
            fields.push((name, plain(&std::mem::take(&mut docs))));
        }
    }
    fields
}

/// What stands before a line, attributes left out.
fn docs_before(source: &str, line: &str) -> String {
    let before = source.split(line).next().unwrap_or_default();
    let mut lines: Vec<&str> = before
        .lines()
        .rev()
        .skip_while(|line| line.starts_with("#["))
        .map_while(|line| line.strip_prefix("///"))
        .collect();
    lines.reverse();
    plain(&lines.concat())
}

/// Text without the marks that documentation has.
fn plain(docs: &str) -> String {
    docs.replace(['`', '['], "").replace(']', "").replace("crate::", "").replace("Self::", "")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn keys(table: &Table) -> BTreeSet<&str> {
        table.keys().map(String::as_str).collect()
    }

    #[test]
    fn every_setting_has_a_meaning_and_nothing_else_is_printed() {
        let all = Table::try_from(NodeConfig::default()).unwrap();
        let top = fields(include_str!("../../config.rs"), "NodeConfig");
        let mut names: BTreeSet<&str> = top.iter().map(|(name, _)| *name).collect();
        for (name, docs) in top {
            assert!(!docs.is_empty(), "{name} says nothing");
        }
        // Those that are none by default are not in the table.
        for (name, _) in EXAMPLES {
            assert!(names.remove(name), "{name} is no setting");
        }
        assert_eq!(names, keys(&all));
        for (table, kind, source) in TABLES {
            let inner = all[table].as_table().unwrap();
            let fields = fields(source, kind);
            for (name, docs) in &fields {
                assert!(docs.len() > 10, "{table}.{name} says nothing");
            }
            let names: BTreeSet<&str> = fields.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, keys(inner), "{table}");
        }
        let tables = all.values().filter(|value| value.is_table()).count();
        assert_eq!(tables, TABLES.len());
    }

    /// The file with everything set that it says.
    fn spelt_out(file: &str) -> String {
        let set = |line: &str| {
            let name = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '\n']));
            name.unwrap_or(line).to_owned() + "\n"
        };
        file.lines().map(set).collect()
    }

    #[test]
    fn what_is_printed_is_what_is_read() {
        let default = NodeConfig::default();
        let printed = print(&default).unwrap();
        assert!(toml::from_str::<NodeConfig>(&printed).unwrap().differences(&default).is_empty());
        let mut read: NodeConfig = toml::from_str(&spelt_out(&printed)).unwrap();
        assert_eq!(read.http.take().unwrap().port(), 7101);
        (read.advertise, read.zone) = (None, None);
        assert!(read.differences(&default).is_empty());
        assert_eq!(read.drain, default.drain);

        let mut other = NodeConfig::default();
        (other.zone, other.data) = (Some("a \"b\" \\".to_owned()), "/var/lib/quorate".into());
        (other.limits.queries, other.transport.max_mtu) = (7, 1_300);
        other.drain.rate_limit += 1;
        let printed = print(&other).unwrap();
        let read: NodeConfig = toml::from_str(&printed).unwrap();
        assert!(read.differences(&other).is_empty(), "{:?}", read.differences(&other));
        assert_eq!(read.drain, other.drain);
        assert!(printed.contains("\nqueries = 7\n") && printed.contains("\n#peer_queries = 32\n"));
    }

    #[test]
    fn the_file_in_the_repository_is_what_is_printed() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("node.toml");
        let printed = print(&NodeConfig::default()).unwrap();
        if std::env::var_os("QUORATE_UPDATE").is_some() {
            std::fs::write(&file, &printed).unwrap();
        }
        let there = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            there == printed,
            "node/node.toml is out of date: 'quorate node --print-config' makes it"
        );
    }
}
