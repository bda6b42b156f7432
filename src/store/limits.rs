//! Caps and their audit list. A cap and the record of its change are written by one statement, or not at all: both are
//! rows of one table, and the statement holds only if the cap still has the version that the change was made from.

use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::{Limit, Pool, Scope};
use crate::ports::{Row, Value};
use crate::store::{Store, StoreError, as_text, integer, maybe_integer, text};

const TABLE: &str = "spend_limits";

/// The columns that [`limit`] reads, in its order.
pub(super) const COLUMNS: &str = "l.id, l.scope_type, l.scope_id, l.period, l.amount, l.pool_amount, l.pool_paused, \
     l.created_at, l.updated_at";
/// How many they are.
pub(super) const COLUMN_COUNT: usize = 9;

/// The columns of a new row, of a cap or of a change.
pub(super) const WRITTEN: &str = "entry, kind, version, is_deleted, id, scope_type, scope_id, period, amount, \
     pool_amount, pool_paused, created_at, updated_at, actor, action, before_image, after_image";

/// A cap as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The cap, or what it was before it was deleted.
    pub limit: Limit,
    /// Counts its changes.
    pub version: i64,
    /// Whether it is gone.
    pub is_deleted: bool,
    /// What its pool has spent in the month that was asked for.
    pub pool_spent: Money,
}

/// A change to be written.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The cap after the change, or the one that is deleted.
    pub limit: &'a Limit,
    /// Whether it is deleted.
    pub is_deletion: bool,
    /// The version that was read before; 0 for a cap that never was.
    pub from_version: i64,
    /// Who.
    pub actor: &'a str,
    /// `spend_limit.upsert` or `spend_limit.delete`.
    pub action: &'a str,
    /// What it was, JSON; empty for nothing.
    pub before: &'a str,
    /// What it is, JSON; empty for nothing.
    pub after: &'a str,
    /// When.
    pub at: Timestamp,
}

/// A change that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its place in the list.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// The cap's id.
    pub target: String,
    /// What the cap was, JSON; empty for nothing.
    pub before: String,
    /// What it is, JSON; empty for nothing.
    pub after: String,
}

/// Where a page lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge<'a> {
    /// At the beginning.
    First,
    /// After the cap with this id.
    After(&'a str),
    /// Directly before the cap with this id.
    Before(&'a str),
}

/// Which caps are listed.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Where.
    pub edge: Edge<'a>,
    /// At most so many.
    pub most: i64,
    /// Only with this type of scope.
    pub scope_type: Option<&'a str>,
    /// Pools are told for this month.
    pub month: &'a str,
}

impl Store<'_> {
    /// The cap of `scope` over `period`, also one that was deleted.
    pub async fn find_limit(&self, scope: &Scope, period: Period) -> Result<Option<Stored>, StoreError> {
        let statement = format!("SELECT {COLUMNS}, l.version, l.is_deleted, 0 FROM spend_limits l WHERE l.entry = $1");
        let rows = self.run(&statement, &[as_text(entry(scope, period))]).await?;
        rows.into_iter().next().map(stored).transpose()
    }

    /// The cap with this id; its pool is told for `month`.
    pub async fn limit_by_id(&self, id: &str, month: &str) -> Result<Option<Stored>, StoreError> {
        let statement = format!(
            "SELECT {COLUMNS}, l.version, l.is_deleted, {POOL_SPENT} FROM spend_limits l \
             WHERE l.id = $1 AND l.kind = 'limit' AND l.is_deleted = 0"
        );
        let rows = self.run(&statement, &[as_text(id), as_text(month)]).await?;
        rows.into_iter().next().map(stored).transpose()
    }

    /// Caps in the order of their creation. `None` if the page's cap does not exist.
    pub async fn limits(&self, page: Page<'_>) -> Result<Option<Vec<Stored>>, StoreError> {
        let (comparison, order) = if matches!(page.edge, Edge::Before(_)) { ("<", "DESC") } else { (">", "ASC") };
        let from = match page.edge {
            Edge::First => (i64::MIN, 0),
            Edge::After(id) | Edge::Before(id) => match self.place_of(id).await? {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        let statement = format!(
            "SELECT {COLUMNS}, l.version, l.is_deleted, {POOL_SPENT} FROM spend_limits l \
             WHERE l.kind = 'limit' AND l.is_deleted = 0 AND ($1 = '' OR l.scope_type = $1) \
             AND (l.created_at {comparison} $3 OR (l.created_at = $3 AND l.seq {comparison} $4)) \
             ORDER BY l.created_at {order}, l.seq {order} LIMIT $5"
        );
        let rows = self
            .run(
                &statement,
                &[
                    as_text(page.scope_type.unwrap_or_default()),
                    as_text(page.month),
                    Value::Integer(from.0),
                    Value::Integer(from.1),
                    Value::Integer(page.most),
                ],
            )
            .await?;
        let mut limits = rows.into_iter().map(stored).collect::<Result<Vec<_>, _>>()?;
        if order == "DESC" {
            limits.reverse();
        }
        Ok(Some(limits))
    }

    async fn place_of(&self, id: &str) -> Result<Option<(i64, i64)>, StoreError> {
        let statement = "SELECT created_at, seq FROM spend_limits WHERE id = $1 AND kind = 'limit' AND is_deleted = 0";
        let rows = self.run(statement, &[as_text(id)]).await?;
        let place = |row: &Row| Ok((integer(row, 0, TABLE, "created_at")?, integer(row, 1, TABLE, "seq")?));
        rows.first().map(place).transpose()
    }

    /// Writes a change and its record. `false`, with nothing written, if somebody else was faster.
    pub async fn change_limit(&self, change: Change<'_>) -> Result<bool, StoreError> {
        let limit = change.limit;
        let entry = entry(&limit.scope, limit.period);
        let version = change.from_version + 1;
        let statement = format!(
            "INSERT INTO spend_limits ({WRITTEN}) VALUES \
             ($1, 'limit', $3, $4, $5, $6, $7, $8, NULLIF(CAST($9 AS BIGINT), -1), \
             NULLIF(CAST($10 AS BIGINT), -1), $11, $12, $13, $14, $15, '', ''), \
             ($2, 'change', $3, $4, $5, $6, $7, $8, NULLIF(CAST($9 AS BIGINT), -1), \
             NULLIF(CAST($10 AS BIGINT), -1), $11, $12, $13, $14, $15, $16, $17) \
             ON CONFLICT (entry) DO UPDATE SET version = excluded.version, is_deleted = excluded.is_deleted, \
             id = excluded.id, amount = excluded.amount, pool_amount = excluded.pool_amount, \
             pool_paused = excluded.pool_paused, created_at = excluded.created_at, \
             updated_at = excluded.updated_at, actor = excluded.actor, action = excluded.action \
             WHERE spend_limits.kind = 'limit' AND spend_limits.version = excluded.version - 1 \
             RETURNING seq"
        );
        let rows = self
            .run(
                &statement,
                &[
                    as_text(&entry),
                    as_text(format!("{entry}#{version}")),
                    Value::Integer(version),
                    Value::Integer(change.is_deletion.into()),
                    as_text(&limit.id),
                    as_text(limit.scope.kind()),
                    as_text(limit.scope.id()),
                    as_text(limit.period.name()),
                    Value::Integer(limit.amount.unwrap_or(-1)),
                    Value::Integer(limit.pool.amount.unwrap_or(-1)),
                    Value::Integer(limit.pool.is_paused.into()),
                    Value::Integer(limit.created_at.as_millis()),
                    Value::Integer(change.at.as_millis()),
                    as_text(change.actor),
                    as_text(change.action),
                    as_text(change.before),
                    as_text(change.after),
                ],
            )
            .await?;
        Ok(rows.len() == 2)
    }

    /// Changes, newest first, older than the one with the id `before`.
    pub async fn limit_changes(&self, before: i64, most: i64) -> Result<Vec<Recorded>, StoreError> {
        let rows = self
            .run(
                "SELECT seq, updated_at, actor, action, id, before_image, after_image FROM spend_limits \
                 WHERE kind = 'change' AND seq < $1 ORDER BY seq DESC LIMIT $2",
                &[Value::Integer(before), Value::Integer(most)],
            )
            .await?;
        rows.into_iter()
            .map(|mut row| {
                Ok(Recorded {
                    id: integer(&row, 0, TABLE, "seq")?,
                    at: Timestamp::from_millis(integer(&row, 1, TABLE, "updated_at")?),
                    actor: text(&mut row, 2, TABLE, "actor")?,
                    action: text(&mut row, 3, TABLE, "action")?,
                    target: text(&mut row, 4, TABLE, "id")?,
                    before: text(&mut row, 5, TABLE, "before_image")?,
                    after: text(&mut row, 6, TABLE, "after_image")?,
                })
            })
            .collect()
    }

    /// The caps of the organization, of all groups, and of these people.
    pub async fn limits_of(&self, principals: &[String]) -> Result<Vec<Limit>, StoreError> {
        let (list, parameters) = super::padded_list(1, principals);
        let statement = format!(
            "SELECT {COLUMNS} FROM spend_limits l WHERE l.kind = 'limit' AND l.is_deleted = 0 \
             AND (l.scope_type <> 'user' OR l.scope_id IN ({list}))"
        );
        self.run(&statement, &parameters).await?.into_iter().map(|mut row| limit(&mut row, 0)).collect()
    }
}

/// What the pool of the cap `l` has spent in the month `$2`.
const POOL_SPENT: &str = "COALESCE((SELECT s.nanos FROM spend s WHERE s.kind = 'pool' AND s.principal = l.scope_id \
     AND s.period = $2 AND l.scope_type = 'rbac_group'), 0)";

pub(super) fn entry(scope: &Scope, period: Period) -> String {
    format!("{}:{}:{}", scope.kind(), scope.id(), period.name())
}

fn stored(mut row: Row) -> Result<Stored, StoreError> {
    Ok(Stored {
        limit: limit(&mut row, 0)?,
        version: integer(&row, COLUMN_COUNT, TABLE, "version")?,
        is_deleted: integer(&row, COLUMN_COUNT + 1, TABLE, "is_deleted")? != 0,
        pool_spent: Money::from_nanos(integer(&row, COLUMN_COUNT + 2, TABLE, "nanos")?),
    })
}

/// The cap in [`COLUMNS`], the first of which is at `at`.
pub(super) fn limit(row: &mut Row, at: usize) -> Result<Limit, StoreError> {
    let scope_type = text(row, at + 1, TABLE, "scope_type")?;
    let scope = Scope::new(&scope_type, text(row, at + 2, TABLE, "scope_id")?);
    let period = Period::parse(&text(row, at + 3, TABLE, "period")?);
    Ok(Limit {
        id: text(row, at, TABLE, "id")?,
        scope: scope.ok_or(StoreError::Inconsistent { table: TABLE, column: "scope_type" })?,
        period: period.ok_or(StoreError::Inconsistent { table: TABLE, column: "period" })?,
        amount: maybe_integer(row, at + 4, TABLE, "amount")?,
        pool: Pool {
            amount: maybe_integer(row, at + 5, TABLE, "pool_amount")?,
            is_paused: integer(row, at + 6, TABLE, "pool_paused")? != 0,
        },
        created_at: Timestamp::from_millis(integer(row, at + 7, TABLE, "created_at")?),
        updated_at: Timestamp::from_millis(integer(row, at + 8, TABLE, "updated_at")?),
    })
}
