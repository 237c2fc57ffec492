//! Grants: in which databases a client may do what its certificate allows.
//!
//! Pure. Invariants: a grant never gives what the certificate lacks; an entry that has become empty
//! stays and allows nothing, so that taking the last grant away opens no door. Kept in the cluster map
//! of nodes, judged by nodes for every request that touches a database.

use serde::{Deserialize, Serialize};

use crate::id::DatabaseId;

/// The entry that holds for every client without one of its own. No client can have this name.
pub const OTHERS: &str = "*";
/// Entries that a cluster may have.
pub const MAX_CLIENTS: usize = 10_000;
/// Databases that all entries together may name; the list of them fits in a frame.
pub const MAX_GRANTS: usize = 100_000;

/// What may be done in a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Query, export, subscribe, compare replicas.
    pub read: bool,
    /// Write.
    pub write: bool,
}

impl Access {
    /// Nothing.
    pub const NONE: Self = Self { read: false, write: false };
    /// Everything that can be granted.
    pub const ALL: Self = Self { read: true, write: true };
    /// Reading alone.
    pub const READ: Self = Self { read: true, write: false };
    /// Writing alone.
    pub const WRITE: Self = Self { read: false, write: true };

    /// What either allows.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self { read: self.read || other.read, write: self.write || other.write }
    }

    /// What this allows and the other does not.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self { read: self.read && !other.read, write: self.write && !other.write }
    }

    /// What both allow.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { read: self.read && other.read, write: self.write && other.write }
    }

    /// Whether this allows all that the other does.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        other.without(self).is_none()
    }

    /// Whether nothing is allowed.
    #[must_use]
    pub const fn is_none(self) -> bool {
        !self.read && !self.write
    }
}

/// What a client may do in one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseGrant {
    /// The database.
    pub database: DatabaseId,
    /// Not nothing.
    pub access: Access,
}

/// All grants of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientGrants {
    /// The name in its certificate, or [`OTHERS`].
    pub client: String,
    /// In every database, those included that are made later.
    pub all: Access,
    /// In single databases, ascending by id.
    pub databases: Vec<DatabaseGrant>,
}

impl ClientGrants {
    /// An entry that allows nothing.
    #[must_use]
    pub fn nothing(client: &str) -> Self {
        Self { client: client.to_owned(), all: Access::NONE, databases: Vec::new() }
    }

    /// What is allowed in a database.
    #[must_use]
    pub fn access(&self, database: DatabaseId) -> Access {
        self.single(database).with(self.all)
    }

    /// What is granted for a database by name.
    #[must_use]
    pub fn single(&self, database: DatabaseId) -> Access {
        let at = self.databases.binary_search_by_key(&database, |grant| grant.database);
        let found = at.ok().and_then(|at| self.databases.get(at));
        found.map_or(Access::NONE, |grant| grant.access)
    }

    /// Grants exactly this in a database, whatever it was.
    pub fn set(&mut self, database: DatabaseId, access: Access) {
        let at = self.databases.binary_search_by_key(&database, |grant| grant.database);
        match at {
            Ok(at) if access.is_none() => drop(self.databases.remove(at)),
            Ok(at) => self.databases[at].access = access,
            Err(_) if access.is_none() => {}
            Err(at) => self.databases.insert(at, DatabaseGrant { database, access }),
        }
    }
}

/// Of which grants something is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GrantScope {
    /// The one for the database of this name.
    Database(String),
    /// The one for all databases; those for single ones stay.
    AllDatabases,
    /// All of them.
    Everything,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_allows_what_it_says_of_a_database_and_of_all() {
        let (one, two) = (DatabaseId(1), DatabaseId(2));
        let mut grants = ClientGrants::nothing("app");
        assert_eq!(grants.access(one), Access::NONE);
        grants.set(two, Access::WRITE);
        grants.set(one, Access::READ);
        assert_eq!(grants.databases.iter().map(|it| it.database).collect::<Vec<_>>(), [one, two]);
        assert_eq!((grants.access(one), grants.access(two)), (Access::READ, Access::WRITE));
        grants.all = Access::READ;
        assert_eq!((grants.access(one), grants.access(two)), (Access::READ, Access::ALL));
        assert_eq!(grants.access(DatabaseId(3)), Access::READ);
        grants.set(two, Access::NONE);
        assert_eq!((grants.databases.len(), grants.access(two)), (1, Access::READ));
    }

    #[test]
    fn access_is_a_set_of_two() {
        let all = [Access::NONE, Access::READ, Access::WRITE, Access::ALL];
        for a in all {
            for b in all {
                assert_eq!(a.without(b).with(a.and(b)), a);
                assert_eq!(a.covers(b), a.with(b) == a);
            }
        }
    }
}
