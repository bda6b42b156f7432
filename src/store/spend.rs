//! Spending: one statement before a request, which returns everything the verdict needs, and one after it, which adds to
//! the day, the week, the month, and the pool.

use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::verdict::Standing;
use crate::ports::Value;
use crate::store::{Store, StoreError, as_text, integer, limits, padded_list, text};

const TABLE: &str = "spend";

/// Who spends.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Subject; empty for a token without one, which no row has.
    pub subject: &'a str,
    /// Groups.
    pub groups: &'a [String],
}

/// What a request adds.
#[derive(Debug, Clone, Copy)]
pub struct Addition<'a> {
    /// Subject.
    pub subject: &'a str,
    /// The group whose pool pays.
    pub pool: Option<&'a str>,
    /// How much.
    pub cost: Money,
    /// When.
    pub at: Timestamp,
}

/// What the rows of a person are called in `spend.kind`, in the order of [`Period::ALL`].
pub(super) const KINDS: [&str; 3] = ["day", "week", "month"];

impl Store<'_> {
    /// All that the verdict over `caller` needs.
    pub async fn standing(&self, caller: Caller<'_>, now: Timestamp) -> Result<Standing, StoreError> {
        let (list, groups) = padded_list(5, caller.groups);
        let columns = limits::COLUMNS;
        let statement = format!(
            "SELECT 'limit', {columns}, COALESCE((SELECT p.nanos FROM spend p WHERE p.kind = 'pool' \
             AND p.principal = l.scope_id AND p.period = $4 AND l.scope_type = 'rbac_group'), 0) \
             FROM spend_limits l WHERE l.kind = 'limit' AND l.is_deleted = 0 \
             AND ((l.scope_type = 'organization' AND l.scope_id = '') OR (l.scope_type = 'user' AND l.scope_id = $1) \
             OR (l.scope_type = 'rbac_group' AND l.scope_id IN ({list}))) \
             UNION ALL SELECT s.kind, '', '', '', '', CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), 0, 0, 0, s.nanos \
             FROM spend s WHERE s.principal = $1 AND ((s.kind = 'day' AND s.period = $2) \
             OR (s.kind = 'week' AND s.period = $3) OR (s.kind = 'month' AND s.period = $4))"
        );
        let mut parameters = vec![as_text(caller.subject)];
        parameters.extend(Period::ALL.map(|period| as_text(period.key(now))));
        parameters.extend(groups);
        let mut standing = Standing::default();
        for mut row in self.run(&statement, &parameters).await? {
            let kind = text(&mut row, 0, TABLE, "kind")?;
            let nanos = Money::from_nanos(integer(&row, limits::COLUMN_COUNT + 1, TABLE, "nanos")?);
            if let Some(index) = KINDS.iter().position(|known| *known == kind) {
                standing.spent[index] = nanos;
                continue;
            }
            let limit = limits::limit(&mut row, 1)?;
            if limit.pool.amount.is_some() {
                standing.pools.push((limit.scope.id().to_owned(), nanos));
            }
            standing.limits.push(limit);
        }
        Ok(standing)
    }

    /// Adds what a request cost, also nothing: the rows are there afterwards.
    pub async fn add_spend(&self, addition: Addition<'_>) -> Result<(), StoreError> {
        let mut statement = "INSERT INTO spend (kind, principal, period, nanos, updated_at) VALUES \
             ('day', $1, $2, $5, $6), ('week', $1, $3, $5, $6), ('month', $1, $4, $5, $6)"
            .to_owned();
        let mut parameters = vec![as_text(addition.subject)];
        parameters.extend(Period::ALL.map(|period| as_text(period.key(addition.at))));
        parameters.push(Value::Integer(addition.cost.as_nanos()));
        parameters.push(Value::Integer(addition.at.as_millis()));
        if let Some(pool) = addition.pool {
            statement.push_str(", ('pool', $7, $4, $5, $6)");
            parameters.push(as_text(pool));
        }
        statement.push_str(
            " ON CONFLICT (kind, principal, period) DO UPDATE SET nanos = spend.nanos + excluded.nanos, \
             updated_at = excluded.updated_at",
        );
        self.run(&statement, &parameters).await.map(drop)
    }
}
