//! Aggregates equal those of the rows that a scan yields.
