//! Tokens that were exchanged: each works once, on all replicas together.

use crate::domain::service_identity::Once;
use crate::ports::Value;
use crate::store::{Store, StoreError};

impl Store<'_> {
    /// Remembers a token; `false` if it was remembered before. Of several exchanges at once, one gets `true`.
    ///
    /// A row outlives the token, so a digest that is there is that of a token that could still be accepted, or of one
    /// that the next sweep takes away; neither works again.
    pub async fn use_subject_token(&self, once: &Once) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "INSERT INTO subject_tokens (digest, expires_at) VALUES ($1, $2) \
                 ON CONFLICT (digest) DO NOTHING RETURNING digest",
                &[Value::Text(once.digest.clone()), Value::Integer(once.until.as_millis())],
            )
            .await?;
        Ok(!rows.is_empty())
    }
}
