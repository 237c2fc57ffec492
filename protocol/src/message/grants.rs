//! What clients have been granted, from any node.
//!
//! Invariant: who is no admin learns only of what holds for itself. Nodes answer from their own map.

use serde::{Deserialize, Serialize};

use crate::id::MetaIndex;

/// Asks for the grants of all clients, or of the asking one if it is no admin. Op `0x0024`, on its own
/// stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// The answer is of a map at or beyond this index.
    pub meta_index: MetaIndex,
}

/// The payload is the postcard of a list of [`ClientGrants`](crate::grant::ClientGrants), ascending by
/// client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantList {
    /// The index of the map.
    pub index: MetaIndex,
}
