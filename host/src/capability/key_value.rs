//! spin:key-value ← SQLite.
//!
//! The table is the one that Spin's own SQLite store uses, so a file can move between the two.

use rusqlite::{OptionalExtension, params};
use wasmtime::component::{Accessor, FutureReader, Resource, StreamReader};

use super::Imports;
use super::bindings::spin::key_value::key_value::{Error, Host, HostStore, HostStoreWithStore, Store};
use super::database::{Database, Gone};
use crate::instance::Instance;
use crate::metrics;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS spin_key_value \
     (store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (store, key))";

/// The key-value stores of the component, by label.
#[derive(Debug, Default, Clone)]
pub(crate) struct KeyValueStores(Vec<(String, Database)>);

impl KeyValueStores {
    /// Adds the store `label` in the file at `path`.
    pub(crate) fn open(&mut self, label: &str, path: &std::path::Path) -> rusqlite::Result<()> {
        self.0.push((label.to_owned(), Database::open(path, TABLE)?));
        Ok(())
    }

    fn find(&self, label: &str) -> Option<u32> {
        let position = self.0.iter().position(|(known, _)| known == label)?;
        u32::try_from(position).ok()
    }

    fn get(&self, store: &Resource<Store>) -> (String, Database) {
        // A resource is made by `find` only.
        self.0[store.rep() as usize].clone()
    }
}

fn failed(error: &rusqlite::Error) -> Error {
    Error::Other(error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn gone(gone: Gone) -> Error {
    Error::Other(gone.to_string())
}

async fn measured<T>(
    work: impl Future<Output = Result<rusqlite::Result<T>, Gone>>,
) -> Result<rusqlite::Result<T>, Gone> {
    let since = tokio::time::Instant::now();
    let outcome = work.await;
    if let Some(metrics) = metrics::wanted() {
        metrics.store("key_value", since, matches!(outcome, Ok(Ok(_))));
    }
    outcome
}

impl Host for Instance {}

impl HostStore for Instance {}

fn at<T: Send>(accessor: &Accessor<T, Imports>, store: &Resource<Store>) -> (String, Database)
where
    Imports: for<'a> wasmtime::component::HasData<Data<'a> = &'a mut Instance>,
{
    accessor.with(|mut access| access.get().world.key_value.get(store))
}

impl<T: Send> HostStoreWithStore<T> for Imports {
    async fn drop(_: &Accessor<T, Self>, _: Resource<Store>) -> wasmtime::Result<()> {
        Ok(())
    }

    async fn open(accessor: &Accessor<T, Self>, label: String) -> wasmtime::Result<Result<Resource<Store>, Error>> {
        let found = accessor.with(|mut access| access.get().world.key_value.find(&label));
        Ok(found.map(Resource::new_own).ok_or(Error::NoSuchStore))
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        store: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        let (label, database) = at(accessor, &store);
        let read = database.run(move |connection| {
            connection
                .prepare_cached("SELECT value FROM spin_key_value WHERE store = ?1 AND key = ?2")?
                .query_row(params![label, key], |row| row.get(0))
                .optional()
        });
        Ok(measured(read).await.map_err(gone).and_then(|value| value.map_err(|error| failed(&error))))
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        store: Resource<Store>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let (label, database) = at(accessor, &store);
        let written = database.run(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO spin_key_value (store, key, value) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (store, key) DO UPDATE SET value = excluded.value",
                )?
                .execute(params![label, key, value])
        });
        Ok(measured(written).await.map_err(gone).and_then(|done| done.map(drop).map_err(|error| failed(&error))))
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        store: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        let (label, database) = at(accessor, &store);
        let deleted = database.run(move |connection| {
            connection
                .prepare_cached("DELETE FROM spin_key_value WHERE store = ?1 AND key = ?2")?
                .execute(params![label, key])
        });
        Ok(measured(deleted).await.map_err(gone).and_then(|done| done.map(drop).map_err(|error| failed(&error))))
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        store: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<bool, Error>> {
        let (label, database) = at(accessor, &store);
        let exists = database.run(move |connection| {
            connection
                .prepare_cached("SELECT 1 FROM spin_key_value WHERE store = ?1 AND key = ?2")?
                .exists(params![label, key])
        });
        Ok(measured(exists).await.map_err(gone).and_then(|exists| exists.map_err(|error| failed(&error))))
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        store: Resource<Store>,
    ) -> wasmtime::Result<(StreamReader<String>, FutureReader<Result<(), Error>>)> {
        let (label, database) = at(accessor, &store);
        let listed = database.run(move |connection| {
            connection
                .prepare_cached("SELECT key FROM spin_key_value WHERE store = ?1 ORDER BY key")?
                .query_map(params![label], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<String>>>()
        });
        let listed = listed.await.map_err(gone).and_then(|keys| keys.map_err(|error| failed(&error)));
        let (keys, outcome) = match listed {
            Ok(keys) => (keys, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        accessor.with(|mut access| {
            let keys = StreamReader::new(&mut access, keys)?;
            let outcome = FutureReader::new(&mut access, async move { wasmtime::error::Ok(outcome) })?;
            Ok((keys, outcome))
        })
    }
}
