//! spin:sqlite ← SQLite.

use rusqlite::ErrorCode;
use rusqlite::types::{ToSqlOutput, ValueRef};
use sallyport::ports;
use wasmtime::component::{Accessor, FutureReader, Resource, StreamReader};

use super::Imports;
use super::bindings::spin::sqlite::sqlite::{
    Connection, Error, Host, HostConnection, HostConnectionWithStore, RowResult, Value,
};
use super::database::{Database, Gone};
use crate::console;
use crate::instance::Instance;
use crate::metrics;

/// The SQLite databases of the component, by name.
#[derive(Debug, Default, Clone)]
pub(crate) struct SqliteDatabases(Vec<(String, Database)>);

impl SqliteDatabases {
    /// Adds the database `name` in the file at `path`.
    pub(crate) fn open(&mut self, name: &str, path: &std::path::Path) -> rusqlite::Result<()> {
        self.0.push((name.to_owned(), Database::open(path, "")?));
        Ok(())
    }

    fn find(&self, name: &str) -> Option<u32> {
        let position = self.0.iter().position(|(known, _)| known == name)?;
        u32::try_from(position).ok()
    }

    fn get(&self, connection: &Resource<Connection>) -> Database {
        // A resource is made by `find` only.
        self.0[connection.rep() as usize].1.clone()
    }
}

/// One database, used by the command line itself.
pub(crate) struct Direct(Database);

impl Direct {
    /// The file at `path`, which is made if it is not there.
    pub(crate) fn open(path: &std::path::Path) -> rusqlite::Result<Self> {
        Database::open(path, "").map(Self)
    }

    /// The file at `path`, which must be there and is not changed.
    pub(crate) fn open_for_reading(path: &std::path::Path) -> rusqlite::Result<Self> {
        Database::open_for_reading(path).map(Self)
    }
}

#[async_trait::async_trait(?Send)]
impl ports::Db for Direct {
    async fn run(&self, statement: &str, parameters: &[ports::Value]) -> Result<Vec<ports::Row>, ports::DbError> {
        let statement = statement.replace('$', "?");
        let parameters = parameters.iter().map(own_parameter).collect();
        let outcome = self.0.run(move |connection| execute(connection, &statement, parameters)).await;
        let outcome = outcome.map_err(|gone| ports::DbError::Unavailable(gone.to_string()))?;
        let (_, rows) = outcome.map_err(|error| match failed(&error) {
            Error::Io(message) => ports::DbError::Refused(message),
            _ => ports::DbError::Unavailable(error.to_string()),
        })?;
        rows.into_iter().map(|row| row.values.into_iter().map(own_value).collect()).collect()
    }

    fn dialect(&self) -> ports::Dialect {
        ports::Dialect::Sqlite
    }
}

fn own_parameter(value: &ports::Value) -> Value {
    match value {
        ports::Value::Null => Value::Null,
        ports::Value::Integer(integer) => Value::Integer(*integer),
        ports::Value::Text(text) => Value::Text(text.clone()),
        ports::Value::Bytes(bytes) => Value::Blob(bytes.clone()),
    }
}

fn own_value(value: Value) -> Result<ports::Value, ports::DbError> {
    Ok(match value {
        Value::Null => ports::Value::Null,
        Value::Integer(integer) => ports::Value::Integer(integer),
        Value::Text(text) => ports::Value::Text(text),
        Value::Blob(bytes) => ports::Value::Bytes(bytes),
        Value::Real(_) => return Err(ports::DbError::Refused("a column is a floating-point number".to_owned())),
    })
}

/// Columns and rows of a statement.
type Table = (Vec<String>, Vec<RowResult>);

struct Parameter(Value);

impl rusqlite::ToSql for Parameter {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match &self.0 {
            Value::Integer(integer) => ToSqlOutput::Borrowed(ValueRef::Integer(*integer)),
            Value::Real(real) => ToSqlOutput::Borrowed(ValueRef::Real(*real)),
            Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Value::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
        })
    }
}

fn execute(connection: &rusqlite::Connection, statement: &str, parameters: Vec<Value>) -> rusqlite::Result<Table> {
    let mut statement = connection.prepare_cached(statement)?;
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let mut found = statement.query(rusqlite::params_from_iter(parameters.into_iter().map(Parameter)))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let values = (0..columns.len()).map(|index| Ok(value(row.get_ref(index)?)));
        rows.push(RowResult { values: values.collect::<rusqlite::Result<_>>()? });
    }
    Ok((columns, rows))
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// A fault of the statement is told as `io`, as Spin does; a database that cannot work is told as something else.
fn failed(error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::DatabaseFull,
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::CannotOpen
            | ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::ReadOnly
            | ErrorCode::OutOfMemory,
        ) => {
            console::warn(&format!("SQLite: {error}"));
            Error::InvalidConnection
        }
        _ => Error::Io(error.to_string()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn gone(gone: Gone) -> Error {
    console::error(&format!("SQLite: {gone}"));
    Error::InvalidConnection
}

impl Host for Instance {}

impl HostConnection for Instance {}

impl<T: Send> HostConnectionWithStore<T> for Imports {
    async fn drop(_: &Accessor<T, Self>, _: Resource<Connection>) -> wasmtime::Result<()> {
        Ok(())
    }

    async fn open_async(
        accessor: &Accessor<T, Self>,
        database: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        let found = accessor.with(|mut access| access.get().world.sqlite.find(&database));
        Ok(found.map(Resource::new_own).ok_or(Error::NoSuchDatabase))
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<(Vec<String>, StreamReader<RowResult>, FutureReader<Result<(), Error>>), Error>> {
        let database = accessor.with(|mut access| access.get().world.sqlite.get(&connection));
        let since = tokio::time::Instant::now();
        let executed = database.run(move |connection| execute(connection, &statement, parameters)).await;
        if let Some(metrics) = metrics::wanted() {
            metrics.store("sqlite", since, matches!(executed, Ok(Ok(_))));
        }
        let (columns, rows) = match executed.map_err(gone).and_then(|table| table.map_err(|error| failed(&error))) {
            Ok(table) => table,
            Err(error) => return Ok(Err(error)),
        };
        accessor.with(|mut access| {
            let rows = StreamReader::new(&mut access, rows)?;
            let outcome = FutureReader::new(&mut access, async { wasmtime::error::Ok(Ok(())) })?;
            Ok(Ok((columns, rows, outcome)))
        })
    }

    async fn last_insert_rowid_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
    ) -> wasmtime::Result<i64> {
        let database = accessor.with(|mut access| access.get().world.sqlite.get(&connection));
        Ok(database.run(rusqlite::Connection::last_insert_rowid).await?)
    }

    async fn changes_async(accessor: &Accessor<T, Self>, connection: Resource<Connection>) -> wasmtime::Result<u64> {
        let database = accessor.with(|mut access| access.get().world.sqlite.get(&connection));
        Ok(database.run(rusqlite::Connection::changes).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn values_of_every_type_come_back_as_they_went_in() {
        let directory = std::env::temp_dir().join(format!("sallyport-sqlite-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for temporary files");
        let path = directory.join("values.db");
        let database = Database::open(&path, "CREATE TABLE IF NOT EXISTS t (a, b, c, d, e)").expect("a database");
        let values = || {
            vec![
                Value::Integer(i64::MIN),
                Value::Real(1.5),
                Value::Text("grüße".to_owned()),
                Value::Blob(vec![0, 255]),
                Value::Null,
            ]
        };
        let inserted = database
            .run(move |connection| {
                execute(connection, "INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5) RETURNING *", values())
            })
            .await
            .expect("the thread lives")
            .expect("the statement is valid");
        assert_eq!(inserted.0, ["a", "b", "c", "d", "e"]);
        assert_eq!(format!("{:?}", inserted.1[0].values), format!("{:?}", values()));
        let refused = database.run(|connection| execute(connection, "SELECT nonsense", Vec::new())).await;
        assert!(matches!(failed(&refused.expect("the thread lives").expect_err("no such column")), Error::Io(_)));
        std::fs::remove_dir_all(directory).expect("the directory is ours");
    }
}
