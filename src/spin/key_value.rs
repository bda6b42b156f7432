//! Key-value ← spin:key-value, the store labelled `default`.

use async_trait::async_trait;
use spin_sdk::key_value::{Error, Store};

use crate::ports::{KeyValue, KeyValueError};

/// The component's default store.
pub(super) struct SpinKeyValue;

#[async_trait(?Send)]
impl KeyValue for SpinKeyValue {
    async fn find(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Store::open_default().await.map_err(error)?.get(key).await.map_err(error)
    }

    async fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        Store::open_default().await.map_err(error)?.set(key, value).await.map_err(error)
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        Store::open_default().await.map_err(error)?.delete(key).await.map_err(error)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn error(error: Error) -> KeyValueError {
    KeyValueError(error.to_string())
}
