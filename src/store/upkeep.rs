//! Upkeep: rows that are over go away, a bounded number at a time, after somebody's response (no daemon).

use std::time::Duration;

use crate::domain::ids::Timestamp;
use crate::domain::spend::calendar;
use crate::ports::Value;
use crate::store::{Store, StoreError};

/// How often a sweep is due. Rows that are over are ignored anyway (auth contract §5.5).
const EVERY: Duration = Duration::from_secs(30);

/// Rows that one statement deletes, about.
const PIECE: usize = 500;

/// Statements that one sweep runs per table, at most: 40 pieces each 30 s are 666 rows a second, more than any of the
/// tables grows by. What remains waits for the next sweep.
const PIECES: usize = 40;

/// One bounded statement per table whose rows know when they are over.
const SWEEPS: &[&str] = &[
    "DELETE FROM device_grants WHERE device_hash IN \
     (SELECT device_hash FROM device_grants WHERE expires_at <= $1 ORDER BY expires_at LIMIT 500)",
    "DELETE FROM counters WHERE name IN \
     (SELECT name FROM counters WHERE expires_at <= $1 ORDER BY expires_at LIMIT 500)",
    "DELETE FROM sessions WHERE id IN \
     (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT 500)",
    // Nobody may ask again any more (`rotation::GRACE` and `rotation::KEPT`).
    "UPDATE sessions SET answer = '' WHERE id IN (SELECT id FROM sessions \
     WHERE answer <> '' AND refreshed_at <= CAST($1 AS BIGINT) - 30000 \
     AND (claimed_until >= 0 OR refreshed_at <= CAST($1 AS BIGINT) - 86400000) ORDER BY refreshed_at LIMIT 500)",
    "DELETE FROM subject_tokens WHERE digest IN \
     (SELECT digest FROM subject_tokens WHERE expires_at <= $1 ORDER BY expires_at LIMIT 500)",
    // Of upstreams that nobody has asked for a day: perhaps there are none of that name any more.
    "DELETE FROM breakers WHERE (upstream, model) IN (SELECT upstream, model FROM breakers \
     WHERE open_until <= CAST($1 AS BIGINT) - 86400000 ORDER BY open_until LIMIT 500)",
];

/// One row for each request of the last minutes: bounded as well, but by as much as a busy gateway does in thirty seconds.
const SETTLED_SWEEP: &str = "DELETE FROM spend WHERE kind = 'hold' AND principal IN \
     (SELECT principal FROM spend WHERE kind = 'hold' AND state IN ('settled', 'released') AND updated_at < $1 LIMIT 2000)";

/// For how long the id of a request that was settled is remembered, so that it is not settled again.
const SETTLED_FOR: Duration = Duration::from_mins(10);

/// The copy of the audit trail, for as long as the operator wants it.
const AUDIT_COPY: &str = "DELETE FROM audit_events WHERE seq IN \
     (SELECT seq FROM audit_events WHERE at < $1 ORDER BY at LIMIT 500)";

/// What upkeep did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Tables, and how many of their rows were deleted.
    pub deleted: Vec<(&'static str, usize)>,
    /// Reservations that were taken back because nobody told their end.
    pub expired: usize,
}

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
    /// Deletes some of what is over, if a sweep is due and nobody else does it. Returns what it deleted if it did. Audit events
    /// from before `audit_copy` go as well.
    pub async fn sweep(
        &self,
        now: Timestamp,
        audit_copy: Timestamp,
        retention: Option<Retention>,
    ) -> Result<Option<Swept>, StoreError> {
        let every = i64::try_from(EVERY.as_millis()).unwrap_or(i64::MAX);
        let due = Timestamp::from_millis(now.as_millis().saturating_sub(every));
        if !self.claim("sweep", due, now).await? {
            return Ok(None);
        }
        self.delete(now, audit_copy, retention, PIECES).await.map(Some)
    }

    /// Deletes all of what is over, whoever else does it.
    pub async fn sweep_all(
        &self,
        now: Timestamp,
        audit_copy: Timestamp,
        retention: Option<Retention>,
    ) -> Result<Swept, StoreError> {
        self.delete(now, audit_copy, retention, usize::MAX).await
    }

    async fn delete(
        &self,
        now: Timestamp,
        audit_copy: Timestamp,
        retention: Option<Retention>,
        pieces: usize,
    ) -> Result<Swept, StoreError> {
        let over = |statement: &&'static str| (*statement, Value::Integer(now.as_millis()));
        let mut statements: Vec<(&'static str, Value)> = SWEEPS.iter().map(over).collect();
        statements.push((AUDIT_COPY, Value::Integer(audit_copy.as_millis())));
        let mut swept = Swept::default();
        if let Some(retention) = retention {
            let day = calendar::day(calendar::date(retention.identity));
            let settled = now.as_millis().saturating_sub(i64::try_from(SETTLED_FOR.as_millis()).unwrap_or(i64::MAX));
            swept.expired = self.expire_holds(now).await?;
            let [spend, alerts, changes, principals, groups] = FORGET;
            statements.extend([
                (SETTLED_SWEEP, Value::Integer(settled)),
                (spend, Value::Integer(retention.spend.as_millis())),
                (alerts, Value::Integer(retention.spend.as_millis())),
                (changes, Value::Integer(retention.audit.as_millis())),
                (principals, Value::Integer(retention.identity.as_millis())),
                (groups, Value::Text(day)),
            ]);
        }
        for (statement, bound) in statements {
            let is_deletion = statement.starts_with("DELETE FROM ");
            let table = statement.split_whitespace().nth(2).unwrap_or_default();
            let counted = format!("{statement} RETURNING 1");
            let mut deleted = 0;
            for _ in 0..pieces {
                let rows = self.run(&counted, std::slice::from_ref(&bound)).await?.len();
                deleted += rows;
                if rows < PIECE {
                    break;
                }
            }
            if is_deletion {
                swept.deleted.push((table, deleted));
            }
        }
        Ok(swept)
    }
}

/// What is forgotten with `admin`: sums, alerts, changes of caps, people, memberships.
const FORGET: [&str; 5] = [
    "DELETE FROM spend WHERE updated_at IN \
     (SELECT updated_at FROM spend WHERE updated_at < $1 ORDER BY updated_at LIMIT 500)",
    "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE created_at < $1 ORDER BY created_at LIMIT 500)",
    "DELETE FROM spend_limits WHERE seq IN (SELECT seq FROM spend_limits \
     WHERE kind = 'change' AND updated_at < $1 ORDER BY updated_at LIMIT 500)",
    "DELETE FROM principals WHERE principal IN \
     (SELECT principal FROM principals WHERE updated_at < $1 ORDER BY updated_at LIMIT 500)",
    "DELETE FROM principal_groups WHERE (day, principal) IN \
     (SELECT day, principal FROM principal_groups WHERE day < $1 ORDER BY day LIMIT 500)",
];
