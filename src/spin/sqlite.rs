//! Db ← spin:sqlite, the database labelled `default`.

use async_trait::async_trait;
use spin_sdk::sqlite::{Connection, Error, Value as SqliteValue};

use crate::ports::{Db, DbError, Dialect, Row, Value};

/// The component's default SQLite database.
pub(super) struct SpinSqlite;

#[async_trait(?Send)]
impl Db for SpinSqlite {
    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        let connection = Connection::open_default().await.map_err(error)?;
        // `$1` is a named parameter in SQLite; `?1` is the first one.
        let statement = statement.replace('$', "?");
        let result = connection.execute(statement, parameters.iter().map(parameter)).await.map_err(error)?;
        let rows = result.collect().await.map_err(error)?;
        Ok(rows.into_iter().map(|row| row.values.into_iter().map(value).collect()).collect())
    }

    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }
}

fn parameter(value: &Value) -> SqliteValue {
    match value {
        Value::Null => SqliteValue::Null,
        Value::Integer(integer) => SqliteValue::Integer(*integer),
        Value::Text(text) => SqliteValue::Text(text.clone()),
        Value::Bytes(bytes) => SqliteValue::Blob(bytes.clone()),
    }
}

fn value(value: SqliteValue) -> Value {
    match value {
        SqliteValue::Null => Value::Null,
        SqliteValue::Integer(integer) => Value::Integer(integer),
        // No column of ours is REAL; an expression that became one is read as a whole number.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        SqliteValue::Real(real) => Value::Integer(real as i64),
        SqliteValue::Text(text) => Value::Text(text),
        SqliteValue::Blob(bytes) => Value::Bytes(bytes),
    }
}

fn error(error: Error) -> DbError {
    match error {
        Error::Io(message) => DbError::Refused(message),
        other => DbError::Unavailable(other.to_string()),
    }
}
