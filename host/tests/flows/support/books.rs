//! The books of a gateway, read past it: what its database holds, whichever that is.

use std::path::PathBuf;

use rusqlite::types::ValueRef;

use super::{PATIENCE, Postgres, Site};

/// A database to look into.
pub(crate) enum Books<'a> {
    Sqlite(PathBuf),
    Postgres(&'a Postgres),
}

impl<'a> Books<'a> {
    /// Those of `site`, which keeps them in `database` or else in its own directory.
    pub(crate) fn of(site: &Site, database: Option<&'a Postgres>) -> Self {
        database.map_or_else(|| Self::Sqlite(site.state().join("sqlite.db")), Self::Postgres)
    }

    /// What `sql`, which both databases understand, finds: one line for each row, columns separated by `|`.
    pub(crate) fn query(&self, sql: &str) -> String {
        match self {
            Self::Postgres(database) => database.query(sql).expect("an answer"),
            Self::Sqlite(path) => {
                let database = rusqlite::Connection::open(path).expect("a database");
                database.busy_timeout(PATIENCE).expect("a timeout");
                let mut statement = database.prepare(sql).expect("a statement");
                let columns = statement.column_count();
                let mut rows = statement.query([]).expect("rows");
                let mut lines = Vec::new();
                while let Some(row) = rows.next().expect("a row") {
                    let cell = |column| match row.get_ref(column).expect("a column") {
                        ValueRef::Null => String::new(),
                        ValueRef::Integer(integer) => integer.to_string(),
                        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                        other => panic!("{other:?}"),
                    };
                    lines.push((0..columns).map(cell).collect::<Vec<_>>().join("|"));
                }
                lines.join("\n")
            }
        }
    }

    /// The one number that `sql` finds.
    pub(crate) fn number(&self, sql: &str) -> u64 {
        let found = self.query(sql);
        found.parse().unwrap_or_else(|error| panic!("{error}: {sql}: {found:?}"))
    }
}
