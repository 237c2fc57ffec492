//! Digests equal those of a naive model.
