//! The key-value store in SQL: with PostgreSQL, replicas share signing keys and cached documents as they share the rest.
//!
//! The table is made when something is first kept: whoever needs a key may be the first to use the database.

use async_trait::async_trait;

use crate::ports::{Db, DbError, Dialect, KeyValue, KeyValueError, Row, Value};
use crate::store::migrate::one_at_a_time;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS key_value (name TEXT PRIMARY KEY, value BYTEA NOT NULL)";

/// A key-value store in `db`.
pub struct SqlKeyValue<D>(D);

impl<D: Db> SqlKeyValue<D> {
    /// In the table `key_value` of `db`.
    pub const fn new(db: D) -> Self {
        Self(db)
    }

    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, KeyValueError> {
        let mut outcome = self.0.run(statement, parameters).await;
        if let Err(DbError::Refused(_)) = outcome {
            // If there cannot be a table, the statement says so again.
            let _ = match self.0.dialect() {
                Dialect::Sqlite => self.0.run(TABLE, &[]).await,
                Dialect::Postgres => self.0.run(&one_at_a_time(TABLE), &[]).await,
            };
            outcome = self.0.run(statement, parameters).await;
        }
        outcome.map_err(|error| KeyValueError(error.to_string()))
    }
}

/// Whether there is no table yet, which is not the only reason for a refusal.
const HAS_TABLE: [(Dialect, &str); 2] = [
    (Dialect::Sqlite, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'key_value'"),
    (
        Dialect::Postgres,
        "SELECT 1 FROM information_schema.tables WHERE table_name = 'key_value' \
         AND table_schema = ANY (current_schemas(false))",
    ),
];

#[async_trait(?Send)]
impl<D: Db> KeyValue for SqlKeyValue<D> {
    /// Looking makes no table.
    async fn find(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let statement = "SELECT value FROM key_value WHERE name = $1";
        let parameters = [Value::Text(key.to_owned())];
        let mut found = self.0.run(statement, &parameters).await;
        if let Err(DbError::Refused(_)) = found {
            let dialect = self.0.dialect();
            let look = HAS_TABLE.iter().find(|(of, _)| *of == dialect).map_or("", |(_, statement)| statement);
            if self.0.run(look, &[]).await.is_ok_and(|rows| rows.is_empty()) {
                return Ok(None);
            }
            // Another instance may have made it between the two statements. Else this one says so again.
            found = self.0.run(statement, &parameters).await;
        }
        let rows = found.map_err(|error| KeyValueError(error.to_string()))?;
        match rows.into_iter().next().and_then(|row| row.into_iter().next()) {
            None => Ok(None),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(KeyValueError(format!("{key} does not hold bytes"))),
        }
    }

    async fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        let statement = "INSERT INTO key_value (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        self.run(statement, &[Value::Text(key.to_owned()), Value::Bytes(value.to_vec())]).await.map(drop)
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.run("DELETE FROM key_value WHERE name = $1", &[Value::Text(key.to_owned())]).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;
    use crate::testing::{TestPostgres, TestSqlite};

    fn keeps_what_it_is_given(store: &impl KeyValue) {
        block_on(async {
            assert_eq!(store.find("a").await, Ok(None));
            assert_eq!(store.find("a").await, Ok(None), "looking makes no table");
            store.set("a", &[0, 1, 255]).await.expect("it is kept");
            store.set("b", b"other").await.expect("it is kept");
            store.set("a", &[2]).await.expect("it is replaced");
            assert_eq!(store.find("a").await, Ok(Some(vec![2])));
            store.delete("a").await.expect("it is deleted");
            store.delete("a").await.expect("it need not be there");
            assert_eq!(store.find("a").await, Ok(None));
            assert_eq!(store.find("b").await, Ok(Some(b"other".to_vec())));
        });
    }

    #[test]
    fn values_are_kept_replaced_and_deleted_in_both_databases() {
        keeps_what_it_is_given(&SqlKeyValue::new(TestSqlite::new()));
        if let Some((postgres, _)) = TestPostgres::fresh() {
            keeps_what_it_is_given(&SqlKeyValue::new(postgres));
        }
    }

    #[test]
    fn instances_that_make_the_table_at_the_same_moment_all_keep_what_they_were_given() {
        let Some((postgres, schema)) = TestPostgres::fresh() else { return };
        for round in 0..10 {
            block_on(postgres.run("DROP TABLE IF EXISTS key_value", &[])).expect("there is no table");
            let barrier = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for instance in 0..8_u8 {
                    let (schema, barrier) = (&schema, &barrier);
                    scope.spawn(move || {
                        let store = SqlKeyValue::new(TestPostgres::open(schema).expect("PostgreSQL"));
                        barrier.wait();
                        let name = format!("{round}-{instance}");
                        assert_eq!(block_on(store.find(&name)), Ok(None), "whether there is a table or not");
                        block_on(store.set(&name, &[instance])).expect("it is kept");
                    });
                }
            });
            let kept = block_on(postgres.run("SELECT name FROM key_value", &[])).expect("rows");
            assert_eq!(kept.len(), 8);
        }
    }
}
