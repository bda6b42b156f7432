//! Memory: SQL written once for SQLite and PostgreSQL, over [`Db`], and what instances keep of things that can go stale.
//!
//! One file per aggregate. A method is one unit of atomicity, nearly always one statement. The schema is looked after
//! by the first statement of an instance, so that a database that is down stops only requests that need it.

mod alerts;
mod audit_events;
mod breakers;
pub mod cache;
mod counters;
mod device_grants;
mod erasure;
mod identities;
pub mod import;
pub mod key_ring;
pub mod key_value;
mod limits;
mod migrate;
mod pointers;
mod reports;
mod sessions;
mod spend;
mod subject_tokens;
mod upkeep;
mod usage;

use std::cell::Cell;

use crate::ports::{Db, DbError, Row, Value};

pub use alerts::{DueAlert, NewAlert};
pub use audit_events::{AuditPage, AuditQuery, AuditRow, BATCH, KeptEvent};
pub use breakers::OpenBreaker;
pub use device_grants::NewGrant;
pub use erasure::{Act, Erased, Order};
pub use identities::{Identity, Seen};
pub use limits::{Change, Edge, Page, Recorded, Stored};
pub use reports::{CostQuery, CostRow, PrincipalRow, PrincipalsQuery};
pub use sessions::{EndedSession, NewSession, Refreshed, SessionRow, SessionsQuery};
pub use spend::{Caller, Granted, Hold, Settlement, Sum, Wanted};
pub use upkeep::{Retention, Swept};
pub use usage::{Dimension, UsageQuery, UsageRow};

/// A database as the gateway uses it.
#[derive(Clone, Copy)]
pub struct Store<'a> {
    db: &'a dyn Db,
    /// Whether this instance has seen the schema complete.
    is_migrated: &'a Cell<bool>,
}

/// Why the store has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A row holds what no code of ours writes.
    #[error("impossible value in {table}.{column}")]
    Inconsistent {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
    },
}

impl<'a> Store<'a> {
    /// The store in `db`; `is_migrated` is remembered for the life of an instance.
    pub const fn new(db: &'a dyn Db, is_migrated: &'a Cell<bool>) -> Self {
        Self { db, is_migrated }
    }

    /// Whether the database answers and has the schema.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.run("SELECT 1", &[]).await.map(drop)
    }

    /// Runs one statement, after making sure of the schema.
    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, StoreError> {
        if !self.is_migrated.get() {
            self.migrate().await?;
        }
        let outcome = self.db.run(statement, parameters).await;
        if let Err(DbError::Refused(message)) = &outcome
            && !spend::is_race(message)
        {
            // The database may have been exchanged for an empty one: look again next time.
            self.is_migrated.set(false);
        }
        Ok(outcome?)
    }
}

/// The text in `column`, or an inconsistency.
fn text(row: &mut Row, index: usize, table: &'static str, column: &'static str) -> Result<String, StoreError> {
    match row.get_mut(index) {
        Some(Value::Text(text)) => Ok(std::mem::take(text)),
        _ => Err(StoreError::Inconsistent { table, column }),
    }
}

/// The number in `column`, or an inconsistency.
fn integer(row: &Row, index: usize, table: &'static str, column: &'static str) -> Result<i64, StoreError> {
    match row.get(index) {
        Some(Value::Integer(integer)) => Ok(*integer),
        _ => Err(StoreError::Inconsistent { table, column }),
    }
}

/// `first`, `first + 1`, … as placeholders of a list; there are a power of two of them, the last value repeated, so that
/// few different statements exist.
fn padded_list(first: usize, values: &[String]) -> (String, Vec<Value>) {
    let count = values.len().max(1).next_power_of_two();
    let last = values.last().map_or("", String::as_str);
    let padded = (0..count).map(|index| as_text(values.get(index).map_or(last, String::as_str)));
    let marks: Vec<String> = (first..first + count).map(|number| format!("${number}")).collect();
    (marks.join(", "), padded.collect())
}

/// The number in `column` unless it is NULL.
fn maybe_integer(
    row: &Row,
    index: usize,
    table: &'static str,
    column: &'static str,
) -> Result<Option<i64>, StoreError> {
    match row.get(index) {
        Some(Value::Null) => Ok(None),
        _ => integer(row, index, table, column).map(Some),
    }
}

/// A text parameter. PostgreSQL refuses U+0000, which must not make spending unknown: it becomes U+FFFD.
fn as_text(text: impl Into<String>) -> Value {
    let text: String = text.into();
    Value::Text(if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text })
}

#[cfg(test)]
mod breaker_tests;
#[cfg(test)]
mod erasure_tests;
#[cfg(test)]
mod import_tests;
#[cfg(test)]
mod report_tests;
#[cfg(test)]
mod reservation_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod soak_tests;
#[cfg(test)]
mod spend_tests;
#[cfg(test)]
mod tests;
