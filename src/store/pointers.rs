//! Pointers: what all replicas hold to be current under a name. Changed by compare-and-set only.

use std::time::Duration;

use crate::domain::ids::Timestamp;
use crate::ports::Value;
use crate::store::{Store, StoreError, text};

/// By how much the clocks of replicas may differ.
const SKEW: Duration = Duration::from_mins(1);

impl Store<'_> {
    /// Points `name` at `target` if it points nowhere yet; returns where it points now.
    pub async fn point_first(&self, name: &str, target: &str, now: Timestamp) -> Result<String, StoreError> {
        self.run(
            "INSERT INTO pointers (name, target, changed_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
            &[Value::Text(name.to_owned()), Value::Text(target.to_owned()), Value::Integer(now.as_millis())],
        )
        .await?;
        Ok(self.pointer(name).await?.unwrap_or_default())
    }

    /// Points `name` from `from` to `to`; `false` if it no longer points at `from`.
    pub async fn point(&self, name: &str, from: &str, to: &str, now: Timestamp) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "UPDATE pointers SET target = $1, changed_at = $2 WHERE name = $3 AND target = $4 RETURNING name",
                &[
                    Value::Text(to.to_owned()),
                    Value::Integer(now.as_millis()),
                    Value::Text(name.to_owned()),
                    Value::Text(from.to_owned()),
                ],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Where `name` points.
    pub async fn pointer(&self, name: &str) -> Result<Option<String>, StoreError> {
        let rows = self.run("SELECT target FROM pointers WHERE name = $1", &[Value::Text(name.to_owned())]).await?;
        rows.into_iter().next().map(|mut row| text(&mut row, 0, "pointers", "target")).transpose()
    }

    /// Claims the task `name` if it was last claimed at or before `since`: one of several that ask at once gets it. A
    /// claim from the future was made by a clock that was wrong, and counts for nothing.
    pub async fn claim(&self, name: &str, since: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "INSERT INTO pointers (name, target, changed_at) VALUES ($1, '', $2) \
                 ON CONFLICT (name) DO UPDATE SET changed_at = CAST($2 AS BIGINT) \
                 WHERE pointers.changed_at <= CAST($3 AS BIGINT) OR pointers.changed_at > CAST($4 AS BIGINT) \
                 RETURNING name",
                &[
                    Value::Text(name.to_owned()),
                    Value::Integer(now.as_millis()),
                    Value::Integer(since.as_millis()),
                    Value::Integer(now.plus(SKEW).as_millis()),
                ],
            )
            .await?;
        Ok(!rows.is_empty())
    }
}
