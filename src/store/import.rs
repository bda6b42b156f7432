//! What another gateway has kept, taken over: caps, sums, people, memberships and changes (`sallyport import`).
//!
//! Everything may be imported again. Caps and people: what changed last counts, here or there. Sums: what was imported is
//! remembered beside the sum (`imported_day` beside `day`), so that a repetition adds only what has come since, and what
//! was spent here in between stays. How many requests a sum is of, nobody says: one. Memberships and changes are added
//! once.

use std::collections::{HashMap, HashSet};

use super::limits::{WRITTEN, entry};
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::spend::limit::Limit;
use crate::ports::Value;
use crate::store::{Recorded, Store, StoreError, as_text, integer, text};

/// What happens to rows that are not here yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are counted.
    Look,
    /// They are written.
    Write,
}

/// How many rows were what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Not here before.
    pub added: u64,
    /// Here before, and older.
    pub changed: u64,
    /// Here before, and the same.
    pub same: u64,
    /// Here before, and newer: what is here stays.
    pub kept: u64,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            added: self.added + other.added,
            changed: self.changed + other.changed,
            same: self.same + other.same,
            kept: self.kept + other.kept,
        }
    }
}

/// What somebody, or a pool, has spent in one period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Whose, and over what: `day`, `week` and `month` of a person, `pool` of a group.
    pub kind: &'static str,
    /// The person or group.
    pub principal: String,
    /// Which period, as [`Period::key`](crate::domain::spend::calendar::Period::key) names it.
    pub period: String,
    /// How much.
    pub spent: Money,
    /// When something was added last.
    pub at: Timestamp,
}

/// Somebody as they were last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Somebody {
    /// Subject.
    pub principal: String,
    /// E-mail address; empty when unknown.
    pub email: String,
    /// Name; empty when unknown.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
    /// When.
    pub at: Timestamp,
}

/// That somebody was in a group on a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Such as `2031-02-03`.
    pub day: String,
    /// Subject.
    pub principal: String,
    /// Group.
    pub group: String,
}

/// What is to be done about a row, after a look at the one that is here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Add,
    Change,
    Same,
    Keep,
}

impl Verdict {
    /// Of two versions, the later counts.
    fn by_time(here: Option<i64>, there: Timestamp) -> Self {
        match here.map(|here| here.cmp(&there.as_millis())) {
            None => Self::Add,
            Some(std::cmp::Ordering::Less) => Self::Change,
            Some(std::cmp::Ordering::Equal) => Self::Same,
            Some(std::cmp::Ordering::Greater) => Self::Keep,
        }
    }

    const fn is_written(self) -> bool {
        matches!(self, Self::Add | Self::Change)
    }
}

/// Counts verdicts, and keeps what is to be written.
fn sorted<T>(rows: &[T], judge: impl Fn(&T) -> Verdict) -> (Tally, Vec<&T>) {
    let mut tally = Tally::default();
    let mut wanted = Vec::new();
    for row in rows {
        let verdict = judge(row);
        match verdict {
            Verdict::Add => tally.added += 1,
            Verdict::Change => tally.changed += 1,
            Verdict::Same => tally.same += 1,
            Verdict::Keep => tally.kept += 1,
        }
        if verdict.is_written() {
            wanted.push(row);
        }
    }
    (tally, wanted)
}

impl Store<'_> {
    /// Whether the schema is complete; nothing is applied.
    pub async fn is_current(&self) -> Result<bool, StoreError> {
        Ok(self.missing_migrations().await? == 0)
    }

    /// Sums. Negative differences are possible: the other gateway's word about its own past counts.
    pub async fn import_sums(&self, sums: &[Sum], mode: Mode) -> Result<Tally, StoreError> {
        let marker = |sum: &Sum| format!("imported_{}", sum.kind);
        let mut keys = Vec::new();
        for sum in sums {
            keys.extend([as_text(marker(sum)), as_text(&sum.principal), as_text(&sum.period)]);
        }
        let statement = format!(
            "SELECT kind, principal, period, nanos FROM spend WHERE (kind, principal, period) IN (VALUES {})",
            marks(sums.len(), &["", "", ""])
        );
        let mut known = HashMap::new();
        for mut row in self.run_for(sums, &statement, &keys).await? {
            let nanos = integer(&row, 3, "spend", "nanos")?;
            known.insert(key(&mut row, "spend")?, nanos);
        }
        let (tally, wanted) = sorted(sums, |sum| {
            match known.get(&[written(&marker(sum)), written(&sum.principal), written(&sum.period)]) {
                None => Verdict::Add,
                Some(nanos) if *nanos == sum.spent.as_nanos() => Verdict::Same,
                Some(_) => Verdict::Change,
            }
        });
        if mode == Mode::Write && !wanted.is_empty() {
            let statement = format!(
                "WITH v (kind, principal, period, nanos, at) AS (VALUES {}) \
                 INSERT INTO spend (kind, principal, period, nanos, held, requests, updated_at, source, state, owner, \
                 day, week, month, pool, expires_at, guard) \
                 SELECT v.kind, v.principal, v.period, v.nanos - COALESCE(m.nanos, 0), 0, 1, v.at, '', '', '', '', '', \
                 '', '', 0, 0 FROM v LEFT JOIN spend m ON m.kind = 'imported_' || v.kind \
                 AND m.principal = v.principal AND m.period = v.period \
                 UNION ALL SELECT 'imported_' || v.kind, v.principal, v.period, v.nanos, 0, 0, v.at, '', '', '', '', \
                 '', '', '', 0, 0 FROM v WHERE 1 = 1 \
                 ON CONFLICT (kind, principal, period, model, upstream, session) DO UPDATE SET \
                 nanos = CASE WHEN spend.kind LIKE 'imported%' THEN excluded.nanos ELSE spend.nanos + excluded.nanos \
                 END, requests = CASE WHEN spend.requests > 0 THEN spend.requests ELSE excluded.requests END, \
                 updated_at = CASE WHEN spend.updated_at > excluded.updated_at THEN spend.updated_at \
                 ELSE excluded.updated_at END",
                marks(wanted.len(), &["", "", "", "BIGINT", "BIGINT"])
            );
            let mut values = Vec::new();
            for sum in wanted {
                values.extend([
                    as_text(sum.kind),
                    as_text(&sum.principal),
                    as_text(&sum.period),
                    Value::Integer(sum.spent.as_nanos()),
                    Value::Integer(sum.at.as_millis()),
                ]);
            }
            self.run(&statement, &values).await?;
        }
        Ok(tally)
    }

    /// People as they were last seen.
    pub async fn import_people(&self, people: &[Somebody], mode: Mode) -> Result<Tally, StoreError> {
        let statement = format!(
            "SELECT principal, updated_at FROM principals WHERE principal IN (VALUES {})",
            marks(people.len(), &[""])
        );
        let keys: Vec<Value> = people.iter().map(|somebody| as_text(&somebody.principal)).collect();
        let mut known = HashMap::new();
        for mut row in self.run_for(people, &statement, &keys).await? {
            let at = integer(&row, 1, "principals", "updated_at")?;
            known.insert(text(&mut row, 0, "principals", "principal")?, at);
        }
        let judge =
            |somebody: &Somebody| Verdict::by_time(known.get(&written(&somebody.principal)).copied(), somebody.at);
        let (tally, wanted) = sorted(people, judge);
        if mode == Mode::Write && !wanted.is_empty() {
            let statement = format!(
                "INSERT INTO principals (principal, email, name, member_of, updated_at) VALUES {} \
                 ON CONFLICT (principal) DO UPDATE SET email = excluded.email, name = excluded.name, \
                 member_of = excluded.member_of, updated_at = excluded.updated_at \
                 WHERE principals.updated_at < excluded.updated_at",
                marks(wanted.len(), &["", "", "", "", "BIGINT"])
            );
            let mut values = Vec::new();
            for somebody in wanted {
                values.extend([
                    as_text(&somebody.principal),
                    as_text(&somebody.email),
                    as_text(&somebody.name),
                    as_text(serde_json::Value::from(somebody.groups.as_slice()).to_string()),
                    Value::Integer(somebody.at.as_millis()),
                ]);
            }
            self.run(&statement, &values).await?;
        }
        Ok(tally)
    }

    /// Memberships of days.
    pub async fn import_memberships(&self, memberships: &[Membership], mode: Mode) -> Result<Tally, StoreError> {
        const TABLE: &str = "principal_groups";
        let mut values = Vec::new();
        for Membership { day, principal, group } in memberships {
            values.extend([as_text(day), as_text(principal), as_text(group)]);
        }
        let marks = marks(memberships.len(), &["", "", ""]);
        let statement = format!(
            "SELECT day, principal, member_of FROM principal_groups WHERE (day, principal, member_of) IN (VALUES {marks})"
        );
        let mut known = HashSet::new();
        for mut row in self.run_for(memberships, &statement, &values).await? {
            known.insert(key(&mut row, TABLE)?);
        }
        let (tally, wanted) = sorted(memberships, |Membership { day, principal, group }| {
            let is_known = known.contains(&[written(day), written(principal), written(group)]);
            if is_known { Verdict::Same } else { Verdict::Add }
        });
        if mode == Mode::Write && !wanted.is_empty() {
            let statement = format!(
                "INSERT INTO principal_groups (day, principal, member_of) VALUES {marks} ON CONFLICT DO NOTHING"
            );
            self.run(&statement, &values).await?;
        }
        Ok(tally)
    }

    /// Caps. One that was deleted here stays so unless it was set there later; one that is here keeps its id.
    pub async fn import_limits(&self, limits: &[Limit], mode: Mode) -> Result<Tally, StoreError> {
        let statement = format!(
            "SELECT entry, updated_at FROM spend_limits WHERE entry IN (VALUES {})",
            marks(limits.len(), &[""])
        );
        let keys: Vec<Value> = limits.iter().map(|limit| as_text(entry(&limit.scope, limit.period))).collect();
        let mut known = HashMap::new();
        for mut row in self.run_for(limits, &statement, &keys).await? {
            let at = integer(&row, 1, "spend_limits", "updated_at")?;
            known.insert(text(&mut row, 0, "spend_limits", "entry")?, at);
        }
        let (tally, wanted) = sorted(limits, |limit| {
            Verdict::by_time(known.get(&written(&entry(&limit.scope, limit.period))).copied(), limit.updated_at)
        });
        if mode == Mode::Write && !wanted.is_empty() {
            let statement = format!(
                "INSERT INTO spend_limits ({WRITTEN}) SELECT v.entry, 'limit', 1, 0, v.id, v.scope_type, v.scope_id, \
                 v.period, NULLIF(v.amount, -1), NULLIF(v.pool_amount, -1), v.pool_paused, v.created_at, v.updated_at, 'import', \
                 'spend_limit.upsert', '', '' FROM \
                 (SELECT column1 AS entry, column2 AS id, column3 AS scope_type, column4 AS scope_id, \
                 column5 AS period, column6 AS amount, column7 AS pool_amount, column8 AS pool_paused, \
                 column9 AS created_at, column10 AS updated_at FROM (VALUES {}) AS w) v WHERE 1 = 1 \
                 ON CONFLICT (entry) DO UPDATE SET version = spend_limits.version + 1, is_deleted = 0, \
                 id = CASE WHEN spend_limits.is_deleted = 0 THEN spend_limits.id ELSE excluded.id END, \
                 created_at = CASE WHEN spend_limits.is_deleted = 0 THEN spend_limits.created_at \
                 ELSE excluded.created_at END, amount = excluded.amount, pool_amount = excluded.pool_amount, \
                 pool_paused = excluded.pool_paused, updated_at = excluded.updated_at, actor = excluded.actor, \
                 action = excluded.action \
                 WHERE spend_limits.kind = 'limit' AND spend_limits.updated_at < excluded.updated_at",
                marks(wanted.len(), &["", "", "", "", "", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT"])
            );
            let mut values = Vec::new();
            for limit in wanted {
                values.extend([
                    as_text(entry(&limit.scope, limit.period)),
                    as_text(&limit.id),
                    as_text(limit.scope.kind()),
                    as_text(limit.scope.id()),
                    as_text(limit.period.name()),
                    Value::Integer(limit.amount.unwrap_or(-1)),
                    Value::Integer(limit.pool.amount.unwrap_or(-1)),
                    Value::Integer(limit.pool.is_paused.into()),
                    Value::Integer(limit.created_at.as_millis()),
                    Value::Integer(limit.updated_at.as_millis()),
                ]);
            }
            self.run(&statement, &values).await?;
        }
        Ok(tally)
    }

    /// Changes of caps, for the audit list. Their `id` is the other gateway's; here they get new ones, in this order.
    pub async fn import_changes(&self, changes: &[Recorded], mode: Mode) -> Result<Tally, StoreError> {
        let name = |change: &Recorded| format!("imported#{}#{}#{}", change.id, change.at.as_millis(), change.target);
        let statement =
            format!("SELECT entry FROM spend_limits WHERE entry IN (VALUES {})", marks(changes.len(), &[""]));
        let keys: Vec<Value> = changes.iter().map(|change| as_text(name(change))).collect();
        let mut known = HashSet::new();
        for mut row in self.run_for(changes, &statement, &keys).await? {
            known.insert(text(&mut row, 0, "spend_limits", "entry")?);
        }
        let judge = |change: &Recorded| {
            if known.contains(&written(&name(change))) { Verdict::Same } else { Verdict::Add }
        };
        let (tally, wanted) = sorted(changes, judge);
        if mode == Mode::Write && !wanted.is_empty() {
            let statement = format!(
                "INSERT INTO spend_limits ({WRITTEN}) SELECT v.entry, 'change', 0, 0, v.target, '', '', '', \
                 CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), 0, v.at, v.at, v.actor, v.action, v.before_image, v.after_image FROM \
                 (SELECT column1 AS entry, column2 AS target, column3 AS at, column4 AS actor, column5 AS action, \
                 column6 AS before_image, column7 AS after_image FROM (VALUES {}) AS w) v WHERE 1 = 1 \
                 ON CONFLICT (entry) DO NOTHING",
                marks(wanted.len(), &["", "", "BIGINT", "", "", "", ""])
            );
            let mut values = Vec::new();
            for change in wanted {
                values.extend([
                    as_text(name(change)),
                    as_text(&change.target),
                    Value::Integer(change.at.as_millis()),
                    as_text(&change.actor),
                    as_text(&change.action),
                    as_text(&change.before),
                    as_text(&change.after),
                ]);
            }
            self.run(&statement, &values).await?;
        }
        Ok(tally)
    }

    /// Runs a look-up of `rows`, of which there must be some.
    async fn run_for<T>(
        &self,
        rows: &[T],
        statement: &str,
        keys: &[Value],
    ) -> Result<Vec<crate::ports::Row>, StoreError> {
        if rows.is_empty() { Ok(Vec::new()) } else { self.run(statement, keys).await }
    }
}

/// `count` rows of placeholders; a column's type is named where a database could not know it.
pub(super) fn marks(count: usize, types: &[&str]) -> String {
    let mut number = 0;
    let mut mark = |kind: &&str| {
        number += 1;
        if kind.is_empty() { format!("CAST(${number} AS TEXT)") } else { format!("CAST(${number} AS {kind})") }
    };
    let mut row = || format!("({})", types.iter().map(&mut mark).collect::<Vec<_>>().join(", "));
    (0..count).map(|_| row()).collect::<Vec<_>>().join(", ")
}

/// The first three columns.
fn key(row: &mut crate::ports::Row, table: &'static str) -> Result<[String; 3], StoreError> {
    Ok([text(row, 0, table, "key")?, text(row, 1, table, "key")?, text(row, 2, table, "key")?])
}

/// As [`as_text`] writes it.
fn written(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
