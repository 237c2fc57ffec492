//! The canonical line of a point, and of a row read back.
//!
//! Invariant: parsing a canonical line gives the same series key, field names, types, bits and
//! time; two equal points have equal lines. Called by [`super::Point::to_line`], `export`, the
//! `lp` output of queries and dry runs.

use std::io::Write;

use super::ValueRef;

/// Appends `key fields time`, without a newline. `fields` come sorted bytewise by (unescaped) name.
pub fn write_line<'a>(
    out: &mut Vec<u8>,
    key: &[u8],
    fields: impl IntoIterator<Item = (&'a [u8], ValueRef<'a>)>,
    time: i64,
) {
    out.extend_from_slice(key);
    let mut separator = b' ';
    for (name, value) in fields {
        out.push(separator);
        write_field_name(out, name);
        out.push(b'=');
        write_value(out, value);
        separator = b',';
    }
    // Writing to a Vec cannot fail.
    let _ = write!(out, " {time}");
}

/// Appends a field's name, escaped. A quote needs it only where a backslash would escape it.
pub fn write_field_name(out: &mut Vec<u8>, name: &[u8]) {
    let mut previous = 0;
    for &byte in name {
        if matches!(byte, b',' | b' ' | b'=') || (byte == b'"' && previous == b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
        previous = byte;
    }
}

/// Appends a value with the suffix or quotes that tell its type.
pub fn write_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    // Writing to a Vec cannot fail.
    let _ = match value {
        ValueRef::Float(value) => write_float(out, value),
        ValueRef::Integer(value) => write!(out, "{value}i"),
        ValueRef::Unsigned(value) => write!(out, "{value}u"),
        ValueRef::Boolean(value) => write!(out, "{value}"),
        ValueRef::String(value) => {
            out.push(b'"');
            for &byte in value {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
            out.push(b'"');
            Ok(())
        }
    };
}

/// The shortest digits that read back equal, as a plain decimal where that stays short.
fn write_float(out: &mut Vec<u8>, value: f64) -> std::io::Result<()> {
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-5..1e17).contains(&magnitude) {
        write!(out, "{value}")
    } else {
        write!(out, "{value:e}")
    }
}
