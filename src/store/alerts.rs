//! Alerts that are to be sent: made once for each threshold and period, sent by one replica at a time.

use std::time::Duration;

use crate::domain::ids::Timestamp;
use crate::ports::{Row, Value};
use crate::store::{Store, StoreError, as_text, integer, text};

const TABLE: &str = "alerts";

/// After how many attempts a receiver is given up: the pauses between them add up to more than a day.
const ATTEMPTS: i64 = 12;

/// The first pause; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// A new alert.
#[derive(Debug, Clone, Copy)]
pub struct NewAlert<'a> {
    /// A digest of receiver, threshold, sum and period.
    pub id: &'a str,
    /// Where it goes.
    pub webhook: &'a str,
    /// The type of scope that its receiver asked for.
    pub scope: &'a str,
    /// JSON.
    pub body: &'a str,
    /// Now.
    pub at: Timestamp,
}

/// An alert that this replica is to send now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueAlert {
    /// Its id.
    pub id: String,
    /// Where it goes.
    pub webhook: String,
    /// The type of scope that its receiver asked for.
    pub scope: String,
    /// JSON.
    pub body: String,
    /// Which attempt this is, from 1.
    pub attempt: i64,
}

impl Store<'_> {
    /// Keeps an alert that is to be sent. `false` if it was kept before, by whomever.
    pub async fn add_alert(&self, alert: NewAlert<'_>) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "INSERT INTO alerts (id, webhook, scope, body, state, attempts, created_at, next_try) \
                 VALUES ($1, $2, $3, $4, 'due', 0, $5, $5) ON CONFLICT (id) DO NOTHING RETURNING attempts",
                &[
                    as_text(alert.id),
                    as_text(alert.webhook),
                    as_text(alert.scope),
                    as_text(alert.body),
                    Value::Integer(alert.at.as_millis()),
                ],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Some alerts that are due, in the order in which they are.
    pub async fn due_alerts(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        let statement = "SELECT id FROM alerts WHERE state = 'due' AND next_try <= $1 ORDER BY next_try LIMIT 20";
        let rows = self.run(statement, &[Value::Integer(now.as_millis())]).await?;
        rows.into_iter().map(|mut row| text(&mut row, 0, TABLE, "id")).collect()
    }

    /// Takes the alert for one attempt; nobody else gets it before the next one is due. `None` if somebody was faster.
    pub async fn claim_alert(&self, id: &str, now: Timestamp) -> Result<Option<DueAlert>, StoreError> {
        let first = i64::try_from(FIRST_PAUSE.as_millis()).unwrap_or(i64::MAX);
        // 30 seconds, 1 minute, 2 minutes, …: a shift in both databases.
        let rows = self
            .run(
                "UPDATE alerts SET attempts = attempts + 1, \
                 next_try = CAST($2 AS BIGINT) + CAST($3 AS BIGINT) * (CAST(1 AS BIGINT) << CAST(attempts AS INTEGER)) \
                 WHERE id = $1 AND state = 'due' AND next_try <= $2 \
                 RETURNING id, webhook, scope, body, attempts",
                &[as_text(id), Value::Integer(now.as_millis()), Value::Integer(first)],
            )
            .await?;
        let due = |mut row: Row| {
            Ok(DueAlert {
                id: text(&mut row, 0, TABLE, "id")?,
                webhook: text(&mut row, 1, TABLE, "webhook")?,
                scope: text(&mut row, 2, TABLE, "scope")?,
                body: text(&mut row, 3, TABLE, "body")?,
                attempt: integer(&row, 4, TABLE, "attempts")?,
            })
        };
        rows.into_iter().next().map(due).transpose()
    }

    /// The alert has arrived.
    pub async fn alert_sent(&self, id: &str) -> Result<(), StoreError> {
        self.run("UPDATE alerts SET state = 'sent' WHERE id = $1", &[as_text(id)]).await.map(drop)
    }

    /// An attempt failed; after the last one the alert is given up, which is returned.
    pub async fn alert_failed(&self, alert: &DueAlert) -> Result<bool, StoreError> {
        if alert.attempt < ATTEMPTS {
            return Ok(false);
        }
        self.run("UPDATE alerts SET state = 'given_up' WHERE id = $1", &[as_text(&alert.id)]).await?;
        Ok(true)
    }
}
