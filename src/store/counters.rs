//! Fixed-window counters: a use is counted and judged in one statement.

use std::time::Duration;

use crate::config::RateLimit;
use crate::domain::ids::Timestamp;
use crate::ports::Value;
use crate::store::{Store, StoreError, integer};

/// How far the clocks of two replicas may be apart, and how late a statement may come, without ending a window.
const CLOCKS_DIFFER: Duration = Duration::from_mins(1);

impl Store<'_> {
    /// Counts one use under `name`. `Some` if that is one too many: how long until the window ends. A
    /// window that ends much later than one that begins now was begun by a clock that was wrong, and is over.
    pub async fn count(&self, name: &str, limit: RateLimit, now: Timestamp) -> Result<Option<Duration>, StoreError> {
        let rows = self
            .run(
                "INSERT INTO counters (name, uses, expires_at) VALUES ($1, 1, $2) \
                 ON CONFLICT (name) DO UPDATE SET \
                 uses = CASE WHEN counters.expires_at <= CAST($3 AS BIGINT) OR counters.expires_at > CAST($4 AS BIGINT) \
                 THEN 1 ELSE counters.uses + 1 END, \
                 expires_at = CASE WHEN counters.expires_at <= CAST($3 AS BIGINT) OR counters.expires_at > CAST($4 AS BIGINT) \
                 THEN CAST($2 AS BIGINT) ELSE counters.expires_at END \
                 RETURNING uses, expires_at",
                &[
                    Value::Text(name.to_owned()),
                    Value::Integer(now.plus(limit.window).as_millis()),
                    Value::Integer(now.as_millis()),
                    Value::Integer(now.plus(limit.window).plus(CLOCKS_DIFFER).as_millis()),
                ],
            )
            .await?;
        let row = rows.first().ok_or(StoreError::Inconsistent { table: "counters", column: "uses" })?;
        let uses = integer(row, 0, "counters", "uses")?;
        let ends = Timestamp::from_millis(integer(row, 1, "counters", "expires_at")?);
        Ok((uses > i64::from(limit.max)).then(|| ends.since(now)))
    }

    /// Ends the window of `name` that ends at `until`, before its time.
    pub async fn end_window(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        let statement = "DELETE FROM counters WHERE name = $1 AND expires_at = $2";
        self.run(statement, &[Value::Text(name.to_owned()), Value::Integer(until.as_millis())]).await.map(drop)
    }
}
