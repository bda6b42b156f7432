//! Device grants: every transition is one conditional statement, so two of them at once cannot both succeed.

use crate::domain::device_grant::{GrantId, LIFETIME, PACE, Polled, State};
use crate::domain::ids::Timestamp;
use crate::domain::user_code::UserCode;
use crate::ports::{Row, Value};
use crate::store::{Store, StoreError, integer, text};

const TABLE: &str = "device_grants";

/// A grant that begins.
#[derive(Debug, Clone, Copy)]
pub struct NewGrant<'a> {
    /// Its name.
    pub id: &'a GrantId,
    /// What the person will type.
    pub user_code: &'a UserCode,
    /// What is kept of it, sealed.
    pub sealed: &'a str,
}

impl Store<'_> {
    /// Begins a grant that waits for [`LIFETIME`]. `false` if another grant has the user code.
    pub async fn begin_grant(&self, grant: NewGrant<'_>, now: Timestamp) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "INSERT INTO device_grants \
                 (device_hash, user_code, state, sealed, expires_at, polled_at, polled_early) \
                 VALUES ($1, $2, 'pending', $3, $4, 0, 0) ON CONFLICT DO NOTHING RETURNING device_hash",
                &[id(grant.id), code(grant.user_code), sealed(grant.sealed), time(now.plus(LIFETIME))],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// The grant that waits under `user_code`.
    pub async fn find_waiting_grant(
        &self,
        user_code: &UserCode,
        now: Timestamp,
    ) -> Result<Option<GrantId>, StoreError> {
        let rows = self
            .run(
                "SELECT device_hash FROM device_grants WHERE user_code = $1 AND state = 'pending' AND expires_at > $2",
                &[code(user_code), time(now)],
            )
            .await?;
        rows.into_iter().next().map(|mut row| grant_id(&mut row)).transpose()
    }

    /// Whether the grant still waits for a decision.
    pub async fn is_waiting(&self, grant: &GrantId, now: Timestamp) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "SELECT 1 FROM device_grants WHERE device_hash = $1 AND state = 'pending' AND expires_at > $2",
                &[id(grant), time(now)],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Approves a waiting grant with `tokens`, sealed, which then wait for [`LIFETIME`]. `false` if it was decided
    /// before, or is over.
    pub async fn approve_grant(&self, grant: &GrantId, tokens: &str, now: Timestamp) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "UPDATE device_grants SET state = 'approved', sealed = $1, expires_at = $2 \
                 WHERE device_hash = $3 AND state = 'pending' AND expires_at > $4 RETURNING device_hash",
                &[sealed(tokens), time(now.plus(LIFETIME)), id(grant), time(now)],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Marks a waiting grant as failed. `false` if it was decided before, or is over.
    pub async fn fail_grant(&self, grant: &GrantId, now: Timestamp) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "UPDATE device_grants SET state = 'failed', expires_at = $1 \
                 WHERE device_hash = $2 AND state = 'pending' AND expires_at > $3 RETURNING device_hash",
                &[time(now.plus(LIFETIME)), id(grant), time(now)],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Denies the grant that waits under `user_code`; returns what is kept of it, sealed.
    pub async fn deny_grant(&self, user_code: &UserCode, now: Timestamp) -> Result<Option<String>, StoreError> {
        let rows = self
            .run(
                "UPDATE device_grants SET state = 'denied', expires_at = $1 \
                 WHERE user_code = $2 AND state = 'pending' AND expires_at > $3 RETURNING sealed",
                &[time(now.plus(LIFETIME)), code(user_code), time(now)],
            )
            .await?;
        rows.into_iter().next().map(|mut row| text(&mut row, 0, TABLE, "sealed")).transpose()
    }

    /// A device polls: a decided grant is redeemed, a waiting one notes the poll unless it is early. `None` if the
    /// grant is unknown, over or already redeemed. Of several polls at once, one redeems.
    pub async fn poll_grant(&self, grant: &GrantId, now: Timestamp) -> Result<Option<Polled>, StoreError> {
        // Every expression on the right-hand side sees the row as it was.
        let rows = self
            .run(
                "UPDATE device_grants SET \
                 redeemed_at = CASE WHEN state = 'pending' THEN redeemed_at ELSE CAST($1 AS BIGINT) END, \
                 polled_early = CASE WHEN polled_at > CAST($2 AS BIGINT) THEN 1 ELSE 0 END, \
                 polled_at = CASE WHEN polled_at > CAST($2 AS BIGINT) THEN polled_at ELSE CAST($1 AS BIGINT) END \
                 WHERE device_hash = $3 AND expires_at > $4 AND redeemed_at IS NULL \
                 RETURNING state, sealed, polled_early",
                &[time(now), time(before(now)), id(grant), time(now)],
            )
            .await?;
        rows.into_iter().next().map(polled).transpose()
    }
}

/// A poll after this instant makes another one early.
fn before(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.as_millis().saturating_sub(i64::try_from(PACE.as_millis()).unwrap_or(i64::MAX)))
}

fn polled(mut row: Row) -> Result<Polled, StoreError> {
    let state = text(&mut row, 0, TABLE, "state")?;
    let state = State::parse(&state).ok_or(StoreError::Inconsistent { table: TABLE, column: "state" })?;
    Ok(Polled {
        state,
        sealed: text(&mut row, 1, TABLE, "sealed")?,
        is_early: integer(&row, 2, TABLE, "polled_early")? == 1,
    })
}

fn grant_id(row: &mut Row) -> Result<GrantId, StoreError> {
    Ok(GrantId::stored(text(row, 0, TABLE, "device_hash")?))
}

fn id(id: &GrantId) -> Value {
    Value::Text(id.as_str().to_owned())
}

fn code(code: &UserCode) -> Value {
    Value::Text(code.as_str().to_owned())
}

fn sealed(sealed: &str) -> Value {
    Value::Text(sealed.to_owned())
}

const fn time(at: Timestamp) -> Value {
    Value::Integer(at.as_millis())
}
