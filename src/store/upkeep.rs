//! Upkeep: rows that are over go away, a bounded number at a time, after somebody's response (no daemon).

use std::time::Duration;

use crate::domain::ids::Timestamp;
use crate::domain::spend::calendar;
use crate::ports::Value;
use crate::store::{Store, StoreError};

/// How often a sweep is due. Rows that are over are ignored anyway (auth contract §5.5).
const EVERY: Duration = Duration::from_secs(30);

/// One bounded statement per table; what remains waits for the next sweep.
const SWEEPS: &[&str] = &[
    "DELETE FROM device_grants WHERE device_hash IN \
     (SELECT device_hash FROM device_grants WHERE expires_at <= $1 ORDER BY expires_at LIMIT 500)",
    "DELETE FROM counters WHERE name IN \
     (SELECT name FROM counters WHERE expires_at <= $1 ORDER BY expires_at LIMIT 500)",
    "DELETE FROM sessions WHERE id IN \
     (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT 500)",
    // Nobody may ask again any more (`rotation::GRACE`).
    "UPDATE sessions SET answer = '' WHERE id IN (SELECT id FROM sessions \
     WHERE answer <> '' AND refreshed_at <= CAST($1 AS BIGINT) - 30000 ORDER BY refreshed_at LIMIT 500)",
    "DELETE FROM subject_tokens WHERE digest IN \
     (SELECT digest FROM subject_tokens WHERE expires_at <= $1 ORDER BY expires_at LIMIT 500)",
];

/// One row for each request of the last minutes: bounded as well, but by as much as a busy gateway does in thirty seconds.
const SETTLED_SWEEP: &str = "DELETE FROM spend WHERE kind = 'hold' AND principal IN \
     (SELECT principal FROM spend WHERE kind = 'hold' AND state IN ('settled', 'released') AND updated_at < $1 LIMIT 50000)";

/// For how long the id of a request that was settled is remembered, so that it is not settled again.
const SETTLED_FOR: Duration = Duration::from_mins(10);

/// How long spending is remembered: `admin.spend_retention_months`, `audit_retention_days`, `identity_retention_days`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Sums that nothing was added to since then go away.
    pub spend: Timestamp,
    /// Changes of caps before then go away.
    pub audit: Timestamp,
    /// People who were not seen since then, and memberships of days before, go away.
    pub identity: Timestamp,
}

impl Store<'_> {
    /// Deletes some of what is over, if a sweep is due and nobody else does it. Returns whether it did.
    pub async fn sweep(&self, now: Timestamp, retention: Option<Retention>) -> Result<bool, StoreError> {
        let every = i64::try_from(EVERY.as_millis()).unwrap_or(i64::MAX);
        let due = Timestamp::from_millis(now.as_millis().saturating_sub(every));
        if !self.claim("sweep", due, now).await? {
            return Ok(false);
        }
        for statement in SWEEPS {
            self.run(statement, &[Value::Integer(now.as_millis())]).await?;
        }
        if let Some(retention) = retention {
            self.expire_holds(now).await?;
            let settled = now.as_millis().saturating_sub(i64::try_from(SETTLED_FOR.as_millis()).unwrap_or(i64::MAX));
            self.run(SETTLED_SWEEP, &[Value::Integer(settled)]).await?;
            self.forget(retention).await?;
        }
        Ok(true)
    }

    /// Deletes a bounded number of rows that are older than `retention` wants.
    async fn forget(&self, retention: Retention) -> Result<(), StoreError> {
        let day = calendar::day(calendar::date(retention.identity));
        for (statement, bound) in [
            (
                "DELETE FROM spend WHERE updated_at IN \
                 (SELECT updated_at FROM spend WHERE updated_at < $1 ORDER BY updated_at LIMIT 500)",
                Value::Integer(retention.spend.as_millis()),
            ),
            (
                "DELETE FROM alerts WHERE id IN \
                 (SELECT id FROM alerts WHERE created_at < $1 ORDER BY created_at LIMIT 500)",
                Value::Integer(retention.spend.as_millis()),
            ),
            (
                "DELETE FROM spend_limits WHERE seq IN (SELECT seq FROM spend_limits \
                 WHERE kind = 'change' AND updated_at < $1 ORDER BY updated_at LIMIT 500)",
                Value::Integer(retention.audit.as_millis()),
            ),
            (
                "DELETE FROM principals WHERE principal IN \
                 (SELECT principal FROM principals WHERE updated_at < $1 ORDER BY updated_at LIMIT 500)",
                Value::Integer(retention.identity.as_millis()),
            ),
            (
                "DELETE FROM principal_groups WHERE (day, principal) IN \
                 (SELECT day, principal FROM principal_groups WHERE day < $1 ORDER BY day LIMIT 500)",
                Value::Text(day),
            ),
        ] {
            self.run(statement, &[bound]).await?;
        }
        Ok(())
    }
}
