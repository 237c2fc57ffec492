//! Names of fields by id, for rows that carry ids only.
//!
//! Invariant: a field's name never changes, so a name once seen stays right; a field that is newer
//! than the map at hand is looked up in a newer one. Used by `series`.

use std::collections::HashMap;

use bytes::Bytes;
use quorate_client::Client;
use quorate_protocol::id::FieldId;

/// The names known so far.
pub(crate) struct FieldNames {
    client: Client,
    database: String,
    names: HashMap<FieldId, Bytes>,
}

impl FieldNames {
    /// The names in the client's map.
    pub(crate) fn new(client: &Client, database: &str) -> Self {
        let mut names =
            Self { client: client.clone(), database: database.to_owned(), names: HashMap::new() };
        names.refresh();
        names
    }

    fn refresh(&mut self) {
        if let Some(database) = self.client.map().database_named(&self.database) {
            let fields = database.measurements.iter().flat_map(|measurement| &measurement.fields);
            self.names.extend(fields.map(|field| (field.id, field.name.clone())));
        }
    }

    /// The name of a field.
    pub(crate) fn get(&mut self, field: FieldId) -> Option<Bytes> {
        if !self.names.contains_key(&field) {
            self.refresh();
        }
        self.names.get(&field).cloned()
    }
}
