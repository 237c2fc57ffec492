//! The four ways to show rows: table, csv, json, line protocol.
//!
//! Invariant: pieces are shown as they come, in flat memory; the order is theirs.

use bytes::Bytes;
use clap::ValueEnum;
use quorate_protocol::point::{ValueRef, key::SeriesName};
use serde_json::{Map, Number, Value, json};

use crate::cli::{
    fail::Fail,
    output::Output,
    series::Series,
    table::{Table, WIDTH, pack},
    time::format_time,
};

/// How to show rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One table per series
    Table,
    /// Comma-separated values with one header line
    Csv,
    /// One JSON object per line
    Json,
    /// Line protocol
    Lp,
}

/// Shows pieces of series.
pub(crate) struct Formatter {
    format: Format,
    out: Output,
    /// Names of the fields a row of CSV has, sorted.
    fields: Vec<Bytes>,
    last_key: Bytes,
    buffer: Vec<u8>,
}

impl Formatter {
    /// `fields`: all that can occur, sorted bytewise.
    pub(crate) fn new(format: Format, fields: Vec<Bytes>) -> Result<Self, Fail> {
        let mut out = Output::new();
        if format == Format::Csv {
            let names = fields.iter().map(|name| csv(&String::from_utf8_lossy(name)));
            let header: Vec<String> = ["time", "measurement", "tags"]
                .map(str::to_owned)
                .into_iter()
                .chain(names)
                .collect();
            out.line(&header.join(","))?;
        }
        Ok(Self { format, out, fields, last_key: Bytes::new(), buffer: Vec::new() })
    }

    /// Shows a piece.
    pub(crate) fn show(&mut self, series: &Series) -> Result<(), Fail> {
        match self.format {
            Format::Lp => {
                self.buffer.clear();
                series.write_lines(&mut self.buffer);
                self.out.bytes(&self.buffer)
            }
            Format::Json => self.json(series),
            Format::Csv => self.csv(series),
            Format::Table => self.table(series),
        }
    }

    /// Shows the rest; nothing may follow.
    pub(crate) fn finish(mut self) -> Result<(), Fail> {
        self.out.flush()
    }

    fn json(&mut self, series: &Series) -> Result<(), Fail> {
        let name = SeriesName::parse(&series.key);
        let measurement = String::from_utf8_lossy(&name.measurement).into_owned();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let tags: Map<String, Value> =
            name.tags.iter().map(|(key, value)| (text(key), text(value).into())).collect();
        for (row, time) in series.times.iter().enumerate() {
            let columns = series.columns.iter();
            let fields: Map<String, Value> = columns
                .filter_map(|column| Some((text(&column.name), json_value(column.get(row)?))))
                .collect();
            self.out.json(&json!({
                "time": time, "measurement": measurement, "tags": tags, "fields": fields,
            }))?;
        }
        Ok(())
    }

    fn csv(&mut self, series: &Series) -> Result<(), Fail> {
        let name = SeriesName::parse(&series.key);
        let measurement = csv(&String::from_utf8_lossy(&name.measurement));
        let tags = csv(&tags_of(&series.key));
        for (row, time) in series.times.iter().enumerate() {
            let mut line = format!("{time},{measurement},{tags}");
            for field in &self.fields {
                line.push(',');
                let column = series.columns.iter().find(|column| column.name == field);
                if let Some(value) = column.and_then(|column| column.get(row)) {
                    line.push_str(&csv(&plain(value)));
                }
            }
            self.out.line(&line)?;
        }
        Ok(())
    }

    fn table(&mut self, series: &Series) -> Result<(), Fail> {
        if series.key != self.last_key {
            if !self.last_key.is_empty() {
                self.out.line("")?;
            }
            self.out.line(&String::from_utf8_lossy(&series.key))?;
            self.last_key = series.key.clone();
        }
        let names = series.columns.iter().map(|c| format!(">{}", String::from_utf8_lossy(&c.name)));
        let header: Vec<String> = std::iter::once("time".to_owned()).chain(names).collect();
        let mut table = Table::new(&header);
        for (row, time) in series.times.iter().enumerate() {
            let values = series.columns.iter().map(|c| c.get(row).map(plain).unwrap_or_default());
            table.row(std::iter::once(format_time(*time)).chain(values));
        }
        if table.natural_width() <= WIDTH {
            return self.out.bytes(table.render().as_bytes());
        }
        // Too many fields for columns: each row as a paragraph.
        for (row, time) in series.times.iter().enumerate() {
            self.out.line(&format_time(*time))?;
            let fields = series.columns.iter().filter_map(|column| {
                let name = String::from_utf8_lossy(&column.name);
                column.get(row).map(|value| format!("{name}={}", plain(value)))
            });
            self.out.bytes(pack(fields, "  ").as_bytes())?;
        }
        Ok(())
    }
}

/// What follows the measurement in a key.
fn tags_of(key: &[u8]) -> String {
    let measurement = quorate_protocol::point::key::measurement_of(key);
    let tags = key.get(measurement.len() + 1..).unwrap_or_default();
    String::from_utf8_lossy(tags).into_owned()
}

/// A value without type suffix or quotes.
fn plain(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Float(value) => value.to_string(),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Unsigned(value) => value.to_string(),
        ValueRef::Boolean(value) => value.to_string(),
        ValueRef::String(value) => String::from_utf8_lossy(value).into_owned(),
    }
}

fn json_value(value: ValueRef<'_>) -> Value {
    match value {
        // Stored floats are finite.
        ValueRef::Float(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
        ValueRef::Integer(value) => value.into(),
        ValueRef::Unsigned(value) => value.into(),
        ValueRef::Boolean(value) => value.into(),
        ValueRef::String(value) => String::from_utf8_lossy(value).into_owned().into(),
    }
}

/// A CSV cell, quoted if it has to be.
fn csv(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_needed() {
        assert_eq!(csv("plain"), "plain");
        assert_eq!(csv("a,b \"c\""), "\"a,b \"\"c\"\"\"");
    }

    #[test]
    fn values_keep_their_type_in_json() {
        assert_eq!(json_value(ValueRef::Float(1.0)).to_string(), "1.0");
        assert_eq!(json_value(ValueRef::Integer(-1)).to_string(), "-1");
        assert_eq!(json_value(ValueRef::Unsigned(u64::MAX)).to_string(), u64::MAX.to_string());
        assert_eq!(json_value(ValueRef::String(b"x\"y")).to_string(), "\"x\\\"y\"");
        assert_eq!(tags_of(b"cpu,host=a,region=b"), "host=a,region=b");
        assert_eq!(tags_of(b"cpu"), "");
    }
}
