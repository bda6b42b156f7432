//! Db ← spin:postgres.

use async_trait::async_trait;
use spin_sdk::pg::{Connection, DbValue, Error, ParameterValue, PgError};

use crate::ports::{Db, DbError, Dialect, Row, Value};

/// A PostgreSQL database at an address; the host pools connections.
pub(super) struct SpinPostgres {
    address: String,
}

impl SpinPostgres {
    pub(super) fn new(address: String) -> Self {
        Self { address }
    }
}

#[async_trait(?Send)]
impl Db for SpinPostgres {
    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        let connection = Connection::open(self.address.as_str()).await.map_err(error)?;
        let parameters: Vec<ParameterValue> = parameters.iter().map(parameter).collect();
        let mut result = connection.query(statement, parameters).await.map_err(error)?;
        let mut rows = Vec::new();
        while let Some(row) = result.rows().next().await {
            rows.push(row.into_iter().map(value).collect::<Result<Row, DbError>>()?);
        }
        result.result().await.map_err(error)?;
        Ok(rows)
    }

    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }
}

fn parameter(value: &Value) -> ParameterValue {
    match value {
        Value::Null => ParameterValue::DbNull,
        Value::Integer(integer) => ParameterValue::Int64(*integer),
        Value::Text(text) => ParameterValue::Str(text.clone()),
        Value::Bytes(bytes) => ParameterValue::Binary(bytes.clone()),
    }
}

fn value(value: DbValue) -> Result<Value, DbError> {
    Ok(match value {
        DbValue::DbNull => Value::Null,
        DbValue::Boolean(boolean) => Value::Integer(i64::from(boolean)),
        DbValue::Int16(integer) => Value::Integer(integer.into()),
        DbValue::Int32(integer) => Value::Integer(integer.into()),
        DbValue::Int64(integer) => Value::Integer(integer),
        DbValue::Str(text) => Value::Text(text),
        DbValue::Binary(bytes) => Value::Bytes(bytes),
        _ => return Err(DbError::Refused("a column has a type that the gateway does not use".to_owned())),
    })
}

fn error(error: Error) -> DbError {
    match error {
        Error::PgError(PgError::ConnectionFailed(message) | PgError::Other(message)) => DbError::Unavailable(message),
        other => DbError::Refused(other.to_string()),
    }
}
