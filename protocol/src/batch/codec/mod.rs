//! Encodings of single columns.
