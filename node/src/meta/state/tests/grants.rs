//! What grants come to, in the order in which they are given and taken.

use quorate_protocol::grant::{
    Access, ClientGrants, DatabaseGrant, GrantScope, MAX_CLIENTS, OTHERS,
};

use super::*;

const ONE: DatabaseId = DatabaseId(1);
const TWO: DatabaseId = DatabaseId(2);

fn grant(client: &str, database: Option<&str>, access: Access) -> Change {
    Change::Grant { client: client.to_owned(), database: database.map(str::to_owned), access }
}

fn revoke(client: &str, scope: GrantScope, access: Access) -> Change {
    Change::Revoke { client: client.to_owned(), scope, access }
}

fn single(database: &str) -> GrantScope {
    GrantScope::Database(database.to_owned())
}

/// A cluster with the databases `db` (1) and `two` (2).
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.apply(create("two", spec(0, 0))), Outcome::Database(TWO));
    cluster
}

impl Cluster {
    /// What limits a client in both databases, and in one that is made later; none if nothing does.
    fn access(&self, client: &str) -> Option<[Access; 3]> {
        let limits = self.map.limits(client)?;
        Some([ONE, TWO, DatabaseId(99)].map(|database| limits.access(database)))
    }

    fn done(&mut self, change: Change) {
        assert_eq!(self.apply(change), Outcome::Done);
    }

    fn refuses(&mut self, change: Change, code: Code) {
        assert_eq!(self.refused(change), code);
    }
}

#[test]
fn the_first_grant_limits_a_client_to_it_and_others_to_nothing() {
    let mut cluster = cluster();
    assert_eq!(cluster.access("app"), None, "its certificate decides");
    cluster.done(grant("app", Some("db"), Access::READ));
    assert_eq!(cluster.access("app"), Some([Access::READ, Access::NONE, Access::NONE]));
    cluster.done(grant("app", Some("db"), Access::WRITE));
    cluster.done(grant("app", None, Access::READ));
    assert_eq!(cluster.access("app"), Some([Access::ALL, Access::READ, Access::READ]));
    assert_eq!(cluster.access("other"), None);
    // Those without an entry have a common one, if there is one.
    cluster.done(grant(OTHERS, Some("two"), Access::WRITE));
    assert_eq!(cluster.access("other"), Some([Access::NONE, Access::WRITE, Access::NONE]));
    assert_eq!(cluster.access("app"), Some([Access::ALL, Access::READ, Access::READ]));
    cluster.done(Change::ForgetGrants { client: "app".to_owned() });
    assert_eq!(cluster.access("app"), cluster.access("other"));
    cluster.done(Change::ForgetGrants { client: OTHERS.to_owned() });
    assert_eq!((cluster.access("app"), cluster.map.grants.len()), (None, 0));
}

#[test]
fn taking_the_last_grant_away_opens_no_door() {
    let mut cluster = cluster();
    cluster.done(grant("app", Some("db"), Access::ALL));
    cluster.done(revoke("app", single("db"), Access::WRITE));
    assert_eq!(cluster.access("app"), Some([Access::READ, Access::NONE, Access::NONE]));
    cluster.done(revoke("app", single("db"), Access::READ));
    assert_eq!(cluster.access("app"), Some([Access::NONE; 3]));
    // Neither does dropping its only database, nor another one of that name.
    cluster.done(grant("app", Some("db"), Access::ALL));
    cluster.done(grant("app", Some("two"), Access::READ));
    cluster.done(Change::DropDatabase { name: "db".to_owned() });
    assert_eq!(cluster.access("app"), Some([Access::NONE, Access::READ, Access::NONE]));
    assert_eq!(cluster.apply(create("db", spec(0, 0))), Outcome::Database(DatabaseId(3)));
    assert!(cluster.map.limits("app").unwrap().access(DatabaseId(3)).is_none());
}

#[test]
fn everything_can_be_taken_at_once_whatever_held_before() {
    let mut cluster = cluster();
    // Of somebody whose certificate decided, a part of it is left.
    cluster.done(revoke("app", GrantScope::Everything, Access::WRITE));
    assert_eq!(cluster.access("app"), Some([Access::READ; 3]));
    cluster.done(revoke("app", GrantScope::Everything, Access::ALL));
    assert_eq!(cluster.access("app"), Some([Access::NONE; 3]));
    // Of somebody for whom the common entry held, of that one.
    cluster.done(grant(OTHERS, Some("db"), Access::ALL));
    cluster.done(revoke("eve", GrantScope::Everything, Access::WRITE));
    assert_eq!(cluster.access("eve"), Some([Access::READ, Access::NONE, Access::NONE]));
    // Of all that are not named.
    cluster.done(revoke(OTHERS, GrantScope::Everything, Access::ALL));
    assert_eq!(cluster.access("anybody"), Some([Access::NONE; 3]));
    assert_eq!(cluster.access("eve"), Some([Access::READ, Access::NONE, Access::NONE]));
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut cluster = cluster();
    for client in ["", "a b", "**", "a/b", &"a".repeat(65)] {
        cluster.refuses(grant(client, None, Access::ALL), Code::Invalid);
        cluster.refuses(Change::ForgetGrants { client: client.to_owned() }, Code::Invalid);
    }
    cluster.refuses(grant("app", None, Access::NONE), Code::Invalid);
    cluster.refuses(grant("app", Some("three"), Access::ALL), Code::DatabaseNotFound);
    // A certificate's rights in one database alone cannot be taken away, nor those in all but one.
    cluster.refuses(revoke("app", single("db"), Access::ALL), Code::Invalid);
    cluster.refuses(revoke("app", GrantScope::AllDatabases, Access::ALL), Code::Invalid);
    cluster.done(grant("app", None, Access::READ));
    cluster.refuses(revoke("app", single("db"), Access::READ), Code::Invalid);
    cluster.refuses(revoke("app", single("three"), Access::READ), Code::DatabaseNotFound);
    cluster.done(grant("app", Some("db"), Access::WRITE));
    cluster.done(revoke("app", GrantScope::AllDatabases, Access::ALL));
    assert_eq!(cluster.access("app"), Some([Access::WRITE, Access::NONE, Access::NONE]));
}

#[test]
fn entries_are_bounded() {
    let mut cluster = cluster();
    let entry = |n| Arc::new(ClientGrants::nothing(&format!("c{n:05}")));
    cluster.map.grants = (0..MAX_CLIENTS).map(entry).collect();
    cluster.refuses(grant("new", None, Access::ALL), Code::LimitExceeded);
    cluster.refuses(revoke("new", GrantScope::Everything, Access::ALL), Code::LimitExceeded);
    cluster.done(grant("c00007", Some("db"), Access::ALL));
    let read = |n| DatabaseGrant { database: DatabaseId(n), access: Access::READ };
    Arc::make_mut(&mut cluster.map.grants[9]).databases.extend((1..=100_000).map(read));
    cluster.refuses(grant("c00007", Some("two"), Access::ALL), Code::LimitExceeded);
    cluster.done(grant("c00007", Some("db"), Access::ALL));
    cluster.done(grant("c00007", None, Access::ALL));
}
