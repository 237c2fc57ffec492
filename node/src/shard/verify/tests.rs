//! Verifications: what is whole passes, and each kind of damage is told by its name.
