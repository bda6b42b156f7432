//! Spending: one statement before a request, which checks the caps and reserves, and one after it, which settles.
//!
//! A sum and what is reserved of it are one row, so that the database itself decides between requests that come at the
//! same moment: each adds its reservation on the condition that the row, as it is by then, has something left. Where
//! that condition fails, the whole statement does ([`GUARD`]), and is tried again with fresh eyes. Nothing here needs a
//! transaction of several statements, which Spin's databases do not offer in one round trip.

use crate::config::GroupLimitMode;
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::Scope;
use crate::domain::spend::verdict::{Gauge, Standing};
use crate::ports::{DbError, Row, Value};
use crate::store::{Store, StoreError, as_text, integer, limits, maybe_integer, padded_list, text};
use crate::stream::meter::Usage;

const TABLE: &str = "spend";

/// The constraint that fails when somebody was faster (`migrations/0004_spend.sql`).
pub(super) const GUARD: &str = "spend_guard";

/// How often a statement is tried again that somebody was faster than. Each failure means that another one succeeded.
const TRIES: usize = 8;

/// Who spends.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Subject; empty for a token without one, which no row has.
    pub subject: &'a str,
    /// Groups.
    pub groups: &'a [String],
}

/// A reservation that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its id, which no other has.
    pub id: &'a str,
    /// Who is to spend.
    pub caller: Caller<'a>,
    /// The most that the request is reckoned to cost.
    pub amount: Money,
    /// Which of several groups' caps counts.
    pub mode: GroupLimitMode,
    /// Now.
    pub at: Timestamp,
    /// When it ends by itself.
    pub until: Timestamp,
}

/// A reservation that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The caps of the caller, with what was settled before.
    pub gauges: Vec<Gauge>,
    /// The group whose pool pays.
    pub pool: Option<String>,
}

/// What a request came to.
#[derive(Debug, Clone, Copy)]
pub struct Settlement<'a> {
    /// The id of its reservation, or of one that could not be made; it is settled once.
    pub id: &'a str,
    /// Subject; counts where there is no reservation, as do `pool` and the periods of `at`.
    pub subject: &'a str,
    /// The group whose pool pays.
    pub pool: Option<&'a str>,
    /// How much.
    pub cost: Money,
    /// What was used.
    pub usage: &'a Usage,
    /// What the upstream calls the model.
    pub model: &'a str,
    /// The upstream's name.
    pub upstream: &'a str,
    /// The id of the sign-in; empty where sessions have none.
    pub session: &'a str,
    /// When.
    pub at: Timestamp,
}

/// A sum after a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// The person, or the group of a pool.
    pub principal: String,
    /// What it is counted over.
    pub period: Period,
    /// The name of that period.
    pub key: String,
    /// Whether it is a pool's.
    pub is_pool: bool,
    /// What was spent.
    pub spent: Money,
    /// The cap that the last reservation was held against.
    pub cap: Option<Money>,
    /// The type of the scope of that cap.
    pub source: &'static str,
}

/// A reservation, for the list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its id.
    pub id: String,
    /// `held` or `expired`.
    pub state: String,
    /// Whose.
    pub owner: String,
    /// The group whose pool was to pay; empty for none.
    pub pool: String,
    /// What was reserved.
    pub amount: Money,
    /// The day it was reserved on.
    pub day: String,
    /// When it ends, or ended.
    pub expires_at: Timestamp,
}

/// What the rows of a person are called in `spend.kind`, in the order of [`Period::ALL`].
pub(super) const KINDS: [&str; 3] = ["day", "week", "month"];

/// The columns that a reservation and a release write, in their order.
const COLUMNS: &str = "kind, principal, period, nanos, held, requests, updated_at, cap, source, state, owner, day, week, \
     month, pool, expires_at, guard";

/// What makes a row one.
const KEY: &str = "(kind, principal, period, model, upstream, session)";

/// Cents as nano-dollars; a cap beyond nine billion dollars is none that could be reached.
fn nanos_of(cents: &str) -> String {
    format!("CASE WHEN {cents} > 900000000000 THEN 9000000000000000000 ELSE {cents} * 10000000 END")
}

impl Store<'_> {
    /// All that the verdict over `caller` needs.
    pub async fn standing(&self, caller: Caller<'_>, now: Timestamp) -> Result<Standing, StoreError> {
        let (list, groups) = padded_list(5, caller.groups);
        let columns = limits::COLUMNS;
        let mine = of_caller("$1", &list);
        let statement = format!(
            "SELECT 'limit', {columns}, COALESCE((SELECT p.nanos FROM spend p WHERE p.kind = 'pool' \
             AND p.principal = l.scope_id AND p.period = $4 AND l.scope_type = 'rbac_group'), 0) \
             FROM spend_limits l WHERE {mine} \
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

    /// Checks every cap of the caller and reserves, in one statement. `None`, with nothing written, if a cap or all
    /// pools are used up by what is settled and what others have reserved.
    pub async fn reserve(&self, wanted: Wanted<'_>) -> Result<Option<Granted>, StoreError> {
        let (list, groups) = padded_list(9, wanted.caller.groups);
        let mut parameters = vec![as_text(wanted.caller.subject)];
        parameters.extend(Period::ALL.map(|period| as_text(period.key(wanted.at))));
        parameters.extend([
            as_text(wanted.id),
            Value::Integer(wanted.amount.as_nanos()),
            Value::Integer(wanted.at.as_millis()),
            Value::Integer(wanted.until.as_millis()),
        ]);
        parameters.extend(groups);
        let statement = reservation(&list, wanted.mode);
        let rows = self.run_guarded(&statement, &parameters).await?;
        granted(rows.unwrap_or_default(), wanted.at)
    }

    /// Turns a reservation into what the request really cost, also nothing: adds it to the day, the week, the month and
    /// the pool that it was reserved in, and to the rows of the reports. What has no reservation is added to the
    /// periods of its end. Whatever happens, an id is settled once: the second time changes nothing and returns nothing.
    pub async fn settle(&self, settlement: Settlement<'_>) -> Result<Vec<Sum>, StoreError> {
        let count = |tokens: u64| Value::Integer(i64::try_from(tokens.min(MOST_TOKENS)).unwrap_or(0));
        let usage = settlement.usage;
        let mut parameters = vec![as_text(settlement.id), as_text(settlement.subject)];
        parameters.extend(Period::ALL.map(|period| as_text(period.key(settlement.at))));
        parameters.extend([
            as_text(settlement.pool.unwrap_or_default()),
            Value::Integer(settlement.cost.as_nanos()),
            Value::Integer(settlement.at.as_millis()),
            as_text(shortened(settlement.model)),
            as_text(shortened(settlement.upstream)),
            as_text(shortened(settlement.session)),
            count(usage.input_tokens),
            count(usage.output_tokens),
            count(usage.cache_read_input_tokens),
            count(usage.cache_creation_input_tokens),
            count(usage.web_search_requests),
        ]);
        let rows = self.run_guarded(&settling(), &parameters).await?;
        let rows = rows.ok_or_else(|| DbError::Unavailable("too many settle at once".to_owned()))?;
        rows.into_iter().filter_map(|row| sum(row).transpose()).collect()
    }

    /// Gives a reservation back: its request costs nothing. Says whether there was one.
    pub async fn release(&self, id: &str, at: Timestamp) -> Result<bool, StoreError> {
        self.give_back(id, "released", Timestamp::from_millis(i64::MAX), at).await
    }

    /// Takes back what requests have reserved whose end nobody told, a bounded number of them; returns how many. What
    /// they really cost is added when it is told after all.
    pub async fn expire_holds(&self, at: Timestamp) -> Result<usize, StoreError> {
        let over = "SELECT principal FROM spend WHERE kind = 'hold' AND state = 'held' AND expires_at <= $1 \
             ORDER BY expires_at LIMIT 500";
        let mut expired = 0;
        for mut row in self.run(over, &[Value::Integer(at.as_millis())]).await? {
            let id = text(&mut row, 0, TABLE, "principal")?;
            expired += usize::from(self.give_back(&id, "expired", at, at).await?);
        }
        Ok(expired)
    }

    /// Reservations in `state` with ids after `after`, in the order of their ids.
    pub async fn holds(&self, state: &str, after: &str, most: i64) -> Result<Vec<Hold>, StoreError> {
        let statement = "SELECT principal, state, owner, pool, cap, day, expires_at FROM spend \
             WHERE kind = 'hold' AND state = $1 AND principal > $2 ORDER BY principal LIMIT $3";
        let rows = self.run(statement, &[as_text(state), as_text(after), Value::Integer(most)]).await?;
        let hold = |mut row: Row| {
            Ok(Hold {
                id: text(&mut row, 0, TABLE, "principal")?,
                state: text(&mut row, 1, TABLE, "state")?,
                owner: text(&mut row, 2, TABLE, "owner")?,
                pool: text(&mut row, 3, TABLE, "pool")?,
                amount: Money::from_nanos(integer(&row, 4, TABLE, "cap")?),
                day: text(&mut row, 5, TABLE, "day")?,
                expires_at: Timestamp::from_millis(integer(&row, 6, TABLE, "expires_at")?),
            })
        };
        rows.into_iter().map(hold).collect()
    }

    async fn give_back(&self, id: &str, state: &str, over: Timestamp, at: Timestamp) -> Result<bool, StoreError> {
        let parameters =
            [as_text(id), as_text(state), Value::Integer(over.as_millis()), Value::Integer(at.as_millis())];
        let rows = self.run_guarded(&giving_back(), &parameters).await?;
        Ok(rows.is_some_and(|rows| !rows.is_empty()))
    }

    /// Runs a statement again that somebody was faster than; `None` when that goes on and on.
    pub(super) async fn run_guarded(
        &self,
        statement: &str,
        parameters: &[Value],
    ) -> Result<Option<Vec<Row>>, StoreError> {
        for _ in 0..TRIES {
            match self.run(statement, parameters).await {
                Ok(rows) => return Ok(Some(rows)),
                Err(StoreError::Db(DbError::Refused(message))) if is_race(&message) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }
}

/// Whether a refusal says that somebody was faster: the guard, or PostgreSQL's deadlock (`40P01`) and serialization
/// (`40001`) failures.
pub(super) fn is_race(message: &str) -> bool {
    [GUARD, "40P01", "40001", "deadlock detected"].iter().any(|sign| message.contains(sign))
}

/// No answer is believed to have more of one kind of tokens.
const MOST_TOKENS: u64 = 10_000_000_000;

/// Names are kept to this length: an upstream's answer says that a model exists, not that its name is short.
fn shortened(name: &str) -> &str {
    let mut end = name.len().min(256);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// Which caps `l` are those of the person `subject`, of the groups in `list`, and of the organization.
fn of_caller(subject: &str, list: &str) -> String {
    format!(
        "l.kind = 'limit' AND l.is_deleted = 0 AND ((l.scope_type = 'organization' AND l.scope_id = '') \
         OR (l.scope_type = 'user' AND l.scope_id = {subject}) \
         OR (l.scope_type = 'rbac_group' AND l.scope_id IN ({list})))"
    )
}

/// `$1` subject, `$2` to `$4` day, week and month, `$5` id, `$6` amount, `$7` now, `$8` end, then groups.
///
/// c: the caps of the caller, of each period the one that counts first ([`super::limits`] has the rule in Rust:
/// `domain::spend::limit::effective`). b: the three sums and their caps. p: the pools that count; q: the one that pays.
/// g: one row if nothing is used up.
fn reservation(groups: &str, mode: GroupLimitMode) -> String {
    let (nulls, direction) = match mode {
        GroupLimitMode::Min => (1, "ASC"),
        GroupLimitMode::Max => (-1, "DESC"),
    };
    let mine = of_caller("$1", groups);
    let (cap, pool_cap) = (nanos_of("c.amount"), nanos_of("c.pool_amount"));
    let sum = |kind: &str| {
        format!(
            "SELECT b.kind, v.sub, b.period, 0, v.amount, 0, v.at, b.cap, b.source, '', '', '', '', '', '', 0, 0 \
             FROM g CROSS JOIN v CROSS JOIN b WHERE b.kind = '{kind}'"
        )
    };
    format!(
        "WITH v AS (SELECT CAST($1 AS TEXT) AS sub, CAST($2 AS TEXT) AS day, CAST($3 AS TEXT) AS week, \
         CAST($4 AS TEXT) AS month, CAST($5 AS TEXT) AS id, CAST($6 AS BIGINT) AS amount, CAST($7 AS BIGINT) AS at, \
         CAST($8 AS BIGINT) AS until), \
         c AS (SELECT l.period, l.scope_type, l.scope_id, l.amount, l.pool_amount, l.pool_paused, ROW_NUMBER() OVER \
         (PARTITION BY l.period ORDER BY CASE l.scope_type WHEN 'user' THEN 1 WHEN 'rbac_group' THEN 2 ELSE 3 END, \
         CASE WHEN l.amount IS NULL THEN {nulls} ELSE 0 END, l.amount {direction}, l.scope_id) AS place \
         FROM spend_limits l WHERE {mine}), \
         k AS (SELECT 'day' AS kind, day AS period, 'daily' AS name FROM v \
         UNION ALL SELECT 'week', week, 'weekly' FROM v UNION ALL SELECT 'month', month, 'monthly' FROM v), \
         b AS (SELECT k.kind, k.period, {cap} AS cap, COALESCE(c.scope_type, '') AS source, \
         COALESCE(s.nanos + s.held, 0) AS used FROM k LEFT JOIN c ON c.period = k.name AND c.place = 1 \
         LEFT JOIN spend s ON s.kind = k.kind AND s.principal = $1 AND s.period = k.period), \
         p AS (SELECT c.scope_id, {pool_cap} AS cap, COALESCE(s.nanos + s.held, 0) AS used \
         FROM c LEFT JOIN spend s ON s.kind = 'pool' AND s.principal = c.scope_id AND s.period = $4 \
         WHERE c.period = 'monthly' AND c.scope_type = 'rbac_group' AND c.pool_amount IS NOT NULL \
         AND c.pool_paused = 0), \
         q AS (SELECT p.scope_id, p.cap FROM p WHERE p.used < p.cap ORDER BY p.cap DESC, p.scope_id LIMIT 1), \
         g AS (SELECT 1 AS granted WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.used >= b.cap) \
         AND (NOT EXISTS (SELECT 1 FROM p) OR EXISTS (SELECT 1 FROM q))) \
         INSERT INTO spend ({COLUMNS}) {} UNION ALL {} UNION ALL {} \
         UNION ALL SELECT 'pool', q.scope_id, v.month, 0, v.amount, 0, v.at, q.cap, 'group_pool', '', '', '', '', '', \
         '', 0, 0 FROM g CROSS JOIN v CROSS JOIN q \
         UNION ALL SELECT 'hold', v.id, '', 0, v.amount, 0, v.at, v.amount, '', 'held', v.sub, v.day, v.week, v.month, \
         COALESCE((SELECT q.scope_id FROM q), ''), v.until, 0 FROM g CROSS JOIN v WHERE 1 = 1 \
         ON CONFLICT {KEY} DO UPDATE SET held = spend.held + excluded.held, cap = excluded.cap, \
         source = excluded.source, updated_at = excluded.updated_at, \
         guard = CASE WHEN excluded.kind = 'hold' OR spend.nanos + spend.held >= excluded.cap THEN -1 ELSE 0 END \
         RETURNING kind, principal, nanos, cap, source, period",
        sum("day"),
        sum("week"),
        sum("month"),
    )
}

/// `$1` id, `$2` subject, `$3` to `$5` day, week and month, `$6` pool, `$7` cost, `$8` now, `$9` model, `$10` upstream,
/// `$11` session, `$12` to `$16` counts.
///
/// h: the reservation, or what stands in for one that was never made. Its row is written last, on the condition that it
/// still is as it was seen: of two settlements at the same moment one fails, and then sees that there is nothing to do.
fn settling() -> String {
    let row = |kind: &str, principal: &str, period: &str, what: &str| {
        format!(
            "SELECT '{kind}', {principal}, {period}, {what}, v.cost, {held}, 1, {tokens}, v.at, CAST(NULL AS BIGINT), \
             {state}, '', '', '', '', 0, 0 FROM h CROSS JOIN v",
            held = if kind == "usage" { "0" } else { "0 - h.held" },
            tokens =
                if kind == "usage" { "v.input, v.output, v.cache_read, v.cache_write, v.searches" } else { NO_TOKENS },
            state = if kind == "hold" { "h.state, 'settled', h.owner" } else { "'', '', ''" },
        )
    };
    let nobody = "'', '', ''";
    format!(
        "WITH v AS (SELECT CAST($2 AS TEXT) AS sub, CAST($3 AS TEXT) AS day, CAST($4 AS TEXT) AS week, \
         CAST($5 AS TEXT) AS month, CAST($6 AS TEXT) AS pool, CAST($7 AS BIGINT) AS cost, CAST($8 AS BIGINT) AS at, \
         CAST($9 AS TEXT) AS model, CAST($10 AS TEXT) AS upstream, CAST($11 AS TEXT) AS session, \
         CAST($12 AS BIGINT) AS input, CAST($13 AS BIGINT) AS output, CAST($14 AS BIGINT) AS cache_read, \
         CAST($15 AS BIGINT) AS cache_write, CAST($16 AS BIGINT) AS searches, CAST($1 AS TEXT) AS id), \
         h AS (SELECT s.owner, s.day, s.week, s.month, s.pool, s.held, s.state FROM spend s WHERE s.kind = 'hold' \
         AND s.principal = $1 AND s.state IN ('held', 'expired') \
         UNION ALL SELECT v.sub, v.day, v.week, v.month, v.pool, CAST(0 AS BIGINT), 'new' FROM v \
         WHERE NOT EXISTS (SELECT 1 FROM spend s WHERE s.kind = 'hold' AND s.principal = $1)) \
         INSERT INTO spend (kind, principal, period, model, upstream, session, nanos, held, requests, input_tokens, \
         output_tokens, cache_read_tokens, cache_write_tokens, web_searches, updated_at, cap, source, state, owner, \
         day, week, month, pool, expires_at, guard) {} UNION ALL {} UNION ALL {} UNION ALL {} WHERE h.pool <> '' \
         UNION ALL {} UNION ALL {} WHERE 1 = 1 \
         ON CONFLICT {KEY} DO UPDATE SET nanos = spend.nanos + excluded.nanos, held = spend.held + excluded.held, \
         requests = spend.requests + excluded.requests, input_tokens = spend.input_tokens + excluded.input_tokens, \
         output_tokens = spend.output_tokens + excluded.output_tokens, \
         cache_read_tokens = spend.cache_read_tokens + excluded.cache_read_tokens, \
         cache_write_tokens = spend.cache_write_tokens + excluded.cache_write_tokens, \
         web_searches = spend.web_searches + excluded.web_searches, updated_at = excluded.updated_at, \
         state = excluded.state, \
         guard = {UNCHANGED} RETURNING kind, principal, nanos, cap, source, period",
        row("day", "h.owner", "h.day", nobody),
        row("week", "h.owner", "h.week", nobody),
        row("month", "h.owner", "h.month", nobody),
        row("pool", "h.pool", "h.month", nobody),
        row("usage", "h.owner", "h.day", "v.model, v.upstream, v.session"),
        row("hold", "v.id", "''", nobody),
    )
}

const NO_TOKENS: &str = "0, 0, 0, 0, 0";

/// Fails where a reservation is not as it was seen: somebody else has ended it, or its owner goes by another name.
const UNCHANGED: &str = "CASE WHEN excluded.kind = 'hold' \
     AND (spend.state <> excluded.source OR spend.owner <> excluded.owner) THEN -1 ELSE 0 END";

/// `$1` id, `$2` the state it gets, `$3` only if it ended by then, `$4` now.
fn giving_back() -> String {
    let row = |kind: &str, principal: &str, period: &str| {
        let state = if kind == "hold" { "h.state, v.state, h.owner" } else { "'', '', ''" };
        format!(
            "SELECT '{kind}', {principal}, {period}, 0, 0 - h.held, 0, v.at, CAST(NULL AS BIGINT), {state}, '', '', \
             '', '', 0, 0 FROM h CROSS JOIN v"
        )
    };
    format!(
        "WITH v AS (SELECT CAST($2 AS TEXT) AS state, CAST($4 AS BIGINT) AS at), \
         h AS (SELECT s.principal, s.owner, s.day, s.week, s.month, s.pool, s.held, s.state FROM spend s \
         WHERE s.kind = 'hold' AND s.principal = $1 AND s.state = 'held' AND s.expires_at <= $3) \
         INSERT INTO spend ({COLUMNS}) {} UNION ALL {} UNION ALL {} UNION ALL {} WHERE h.pool <> '' \
         UNION ALL {} WHERE 1 = 1 \
         ON CONFLICT {KEY} DO UPDATE SET held = spend.held + excluded.held, updated_at = excluded.updated_at, \
         state = excluded.state, \
         guard = {UNCHANGED} RETURNING kind",
        row("day", "h.owner", "h.day"),
        row("week", "h.owner", "h.week"),
        row("month", "h.owner", "h.month"),
        row("pool", "h.pool", "h.month"),
        row("hold", "h.principal", "''"),
    )
}

/// The reservation that these rows are; none is none.
fn granted(rows: Vec<Row>, at: Timestamp) -> Result<Option<Granted>, StoreError> {
    if rows.is_empty() {
        return Ok(None);
    }
    let mut granted = Granted { gauges: Vec::new(), pool: None };
    for row in rows {
        let Some(sum) = sum(row)? else { continue };
        if sum.is_pool {
            granted.pool = Some(sum.principal);
        } else if let Some(cap) = sum.cap {
            let Sum { period, spent, source, .. } = sum;
            granted.gauges.push(Gauge { period, cap: cap.whole_cents(), spent, resets: period.end(at), source });
        }
    }
    granted.gauges.sort_by_key(|gauge| gauge.period);
    Ok(Some(granted))
}

/// The sum in `kind, principal, nanos, cap, source, period`; nothing for other rows.
fn sum(mut row: Row) -> Result<Option<Sum>, StoreError> {
    let kind = text(&mut row, 0, TABLE, "kind")?;
    let is_pool = kind == "pool";
    let period = match KINDS.iter().position(|known| *known == kind) {
        Some(index) => Period::ALL[index],
        None if is_pool => Period::Monthly,
        None => return Ok(None),
    };
    let source = text(&mut row, 4, TABLE, "source")?;
    Ok(Some(Sum {
        principal: text(&mut row, 1, TABLE, "principal")?,
        period,
        key: text(&mut row, 5, TABLE, "period")?,
        is_pool,
        spent: Money::from_nanos(integer(&row, 2, TABLE, "nanos")?),
        cap: maybe_integer(&row, 3, TABLE, "cap")?.map(Money::from_nanos),
        source: if is_pool {
            "group_pool"
        } else {
            Scope::new(&source, String::new()).map_or("", |scope| scope.kind())
        },
    }))
}
