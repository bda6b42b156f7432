//! Erasing a person from every table: identity goes away, money stays under a pseudonym.
//!
//! Each step is one statement or a bounded piece, and can be repeated: whoever erases again finds what is left. What
//! tells who the person is (their row in `principals`) goes last.

use std::fmt::Write;

use serde::Serialize;

use super::import::marks;
use super::limits::entry;
use crate::domain::erasure::Erasure;
use crate::domain::ids::Timestamp;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::Scope;
use crate::ports::{DbError, Value};
use crate::store::{Change, Store, StoreError, as_text, integer, text};

/// Audit events that are rewritten at a time.
const PIECE: usize = 32;

/// How often a cap is deleted again because somebody else was faster.
const ATTEMPTS: u32 = 20;

/// Whether something is done, or only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Counted.
    Look,
    /// Done.
    Write,
}

/// How many rows of what were a person's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Erased {
    /// What is gone.
    pub deleted: Deleted,
    /// What goes by the pseudonym, or by no name at all.
    pub pseudonymized: Pseudonymized,
}

/// Rows that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Deleted {
    /// Who they are.
    pub principals: usize,
    /// Their groups, day by day.
    pub principal_groups: usize,
    /// Their own caps.
    pub spend_limits: usize,
    /// Alerts about their caps, sent or not.
    pub alerts: usize,
}

/// Rows that stay, without the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pseudonymized {
    /// Sessions, all of which have ended.
    pub sessions: usize,
    /// Sums and reservations.
    pub spend: usize,
    /// Changes of caps: of theirs, and those that they made.
    pub spend_limit_changes: usize,
    /// The copy of the audit trail.
    pub audit_events: usize,
}

impl Erased {
    /// Whether there was nothing of theirs.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether something goes by the pseudonym.
    pub fn needs_name(&self) -> bool {
        let Pseudonymized { spend, spend_limit_changes, audit_events, .. } = self.pseudonymized;
        spend + spend_limit_changes + audit_events > 0
    }
}

/// An act of erasing.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Who, and by which name afterwards.
    pub erasure: &'a Erasure<'a>,
    /// Who wants it.
    pub actor: &'a str,
    /// Whether it is done.
    pub act: Act,
    /// When.
    pub at: Timestamp,
}

/// The kinds of sums whose `principal` is a person.
const SUMS: &str = "'day', 'week', 'month', 'usage', 'imported_day', 'imported_week', 'imported_month'";

impl Store<'_> {
    /// Erases a person whose sessions have ended.
    pub async fn erase(&self, order: Order<'_>) -> Result<Erased, StoreError> {
        let emails = self.emails_of(order.erasure.subject).await?;
        let spend_limits = self.erase_caps(order).await?;
        // What would be deleted would be recorded first.
        let records = if order.act == Act::Look { spend_limits } else { 0 };
        let pseudonymized = Pseudonymized {
            spend_limit_changes: records + self.erase_from_changes(order).await?,
            spend: self.erase_from_sums(order).await?,
            audit_events: self.erase_from_audit(order, &emails).await?,
            sessions: self.erase_from_sessions(order).await?,
        };
        let subject = [as_text(order.erasure.subject)];
        let alert = [json_field("user_id", order.erasure.subject)];
        let deleted = Deleted {
            spend_limits,
            alerts: self.erase_rows(order, "alerts", "REPLACE(body, $1, '') <> body", &alert).await?,
            principal_groups: self.erase_rows(order, "principal_groups", "principal = $1", &subject).await?,
            principals: self.erase_rows(order, "principals", "principal = $1", &subject).await?,
        };
        Ok(Erased { deleted, pseudonymized })
    }

    /// The addresses by which this person is known.
    async fn emails_of(&self, subject: &str) -> Result<Vec<String>, StoreError> {
        let statement = "SELECT email FROM principals WHERE principal = $1 AND email <> '' \
             UNION SELECT email FROM sessions WHERE subject = $1 AND email <> ''";
        let rows = self.run(statement, &[as_text(subject)]).await?;
        rows.into_iter().map(|mut row| text(&mut row, 0, "principals", "email")).collect()
    }

    /// Deletes their caps, each with its record, and then what remembers that there were any.
    async fn erase_caps(&self, order: Order<'_>) -> Result<usize, StoreError> {
        let scope = Scope::User(order.erasure.subject.to_owned());
        let mut caps = 0;
        for period in Period::ALL {
            for _ in 0..ATTEMPTS {
                let stored = self.find_limit(&scope, period).await?.filter(|stored| !stored.is_deleted);
                let Some(stored) = stored else { break };
                let change = Change {
                    limit: &stored.limit,
                    is_deletion: true,
                    from_version: stored.version,
                    actor: order.actor,
                    action: "spend_limit.delete",
                    before: &stored.limit.to_image().to_string(),
                    after: "",
                    at: order.at,
                };
                if order.act == Act::Look || self.change_limit(change).await? {
                    caps += 1;
                    break;
                }
            }
        }
        Ok(caps)
    }

    /// The list of changes: their caps, and what they changed as an administrator.
    async fn erase_from_changes(&self, order: Order<'_>) -> Result<usize, StoreError> {
        let erasure = order.erasure;
        let condition = "(scope_type = 'user' AND scope_id = $1) OR actor = $2 OR (kind = 'change' \
             AND (REPLACE(before_image, $3, '') <> before_image OR REPLACE(after_image, $3, '') <> after_image))";
        let find = [as_text(erasure.subject), as_text(erasure.actor()), json_field("user_id", erasure.subject)];
        if order.act == Act::Look {
            return self.found("spend_limits", &format!("kind = 'change' AND ({condition})"), &find).await;
        }
        // The name of an entry is made of the scope's; only its end stays. Both databases count characters.
        let scope = Scope::User(erasure.subject.replace('\0', "\u{fffd}"));
        let end = entry(&scope, Period::Daily).chars().count() - Period::Daily.name().len();
        let end = Value::Integer(i64::try_from(end).unwrap_or(i64::MAX));
        let mut parameters = find.to_vec();
        parameters.extend([
            as_text(erasure.pseudonym),
            as_text(erasure.actor_afterwards()),
            json_field("user_id", erasure.pseudonym),
            end,
        ]);
        let is_theirs = "scope_type = 'user' AND scope_id = $1";
        let statement = format!(
            "UPDATE spend_limits SET entry = CASE WHEN {is_theirs} THEN 'user:' || CAST($4 AS TEXT) || \
             SUBSTR(entry, CAST(CAST($7 AS BIGINT) AS INTEGER)) ELSE entry END, \
             scope_id = CASE WHEN {is_theirs} THEN $4 ELSE scope_id END, \
             actor = CASE WHEN actor = $2 THEN $5 ELSE actor END, \
             before_image = REPLACE(before_image, $3, $6), after_image = REPLACE(after_image, $3, $6) \
             WHERE {condition} RETURNING kind"
        );
        let mut changes = 0;
        for mut row in self.run(&statement, &parameters).await? {
            changes += usize::from(text(&mut row, 0, "spend_limits", "kind")? == "change");
        }
        // What remembers the version of a cap that is gone: nobody will ask for one of this name again.
        let memory = "DELETE FROM spend_limits WHERE kind = 'limit' AND is_deleted = 1 AND scope_type = 'user' \
             AND scope_id = $1";
        self.run(memory, &[as_text(erasure.pseudonym)]).await?;
        Ok(changes)
    }

    /// Sums and reservations in one statement, so that a settlement at the same moment comes before or after it
    /// ([`super::spend`]). Sign-ins get numbers: their ids are in the audit trail.
    async fn erase_from_sums(&self, order: Order<'_>) -> Result<usize, StoreError> {
        let condition = |table: &str| {
            format!(
                "(({table}.kind IN ({SUMS}) AND {table}.principal = $1) \
                 OR ({table}.kind = 'hold' AND {table}.owner = $1))"
            )
        };
        let subject = as_text(order.erasure.subject);
        if order.act == Act::Look {
            return self.found("spend", &condition("spend"), &[subject]).await;
        }
        let statement = format!(
            "WITH n AS (SELECT d.session, CASE WHEN d.session = '' THEN '' ELSE CAST($2 AS TEXT) || '-' || \
             CAST(ROW_NUMBER() OVER (ORDER BY CASE WHEN d.session = '' THEN 1 ELSE 0 END, d.session) AS TEXT) END \
             AS stand_in \
             FROM (SELECT DISTINCT s.session FROM spend s WHERE {}) d) \
             UPDATE spend SET principal = CASE WHEN spend.kind = 'hold' THEN spend.principal ELSE $2 END, \
             owner = CASE WHEN spend.owner = $1 THEN $2 ELSE spend.owner END, session = n.stand_in \
             FROM n WHERE n.session = spend.session AND {} RETURNING spend.kind",
            condition("s"),
            condition("spend"),
        );
        let rows = self.run_guarded(&statement, &[subject, as_text(order.erasure.pseudonym)]).await?;
        let rows = rows.ok_or_else(|| DbError::Unavailable("too many settle at once".to_owned()))?;
        Ok(rows.len())
    }

    /// The copy of the audit trail, from its beginning, piece by piece.
    async fn erase_from_audit(&self, order: Order<'_>, emails: &[String]) -> Result<usize, StoreError> {
        let erasure = order.erasure;
        let mut find = vec![as_text(erasure.subject), json_text(erasure.subject), json_text(&erasure.actor())];
        let mut condition = "sub = $1 OR REPLACE(entry, $2, '') <> entry OR REPLACE(entry, $3, '') <> entry".to_owned();
        for email in emails {
            find.push(as_text(email));
            let mark = find.len();
            // Writing to a string cannot fail.
            let _ = write!(condition, " OR LOWER(email) = LOWER(${mark}) OR REPLACE(entry, ${mark}, '') <> entry");
        }
        find.push(Value::Integer(0));
        let place = find.len();
        let statement = format!(
            "SELECT seq, entry FROM audit_events WHERE seq > ${place} AND ({condition}) ORDER BY seq LIMIT {PIECE}"
        );
        let mut rewritten = 0;
        loop {
            let (mut last, mut values) = (None, Vec::new());
            for mut row in self.run(&statement, &find).await? {
                let seq = integer(&row, 0, "audit_events", "seq")?;
                last = Some(seq);
                let Some(fields) = erasure.without_person(&text(&mut row, 1, "audit_events", "entry")?, emails) else {
                    continue;
                };
                let field = |name: &str| as_text(fields.get(name).and_then(|value| value.as_str()).unwrap_or_default());
                let (sub, email) = (field("sub"), field("email"));
                values.extend([
                    Value::Integer(seq),
                    sub,
                    email,
                    as_text(serde_json::Value::Object(fields).to_string()),
                ]);
            }
            let Some(last) = last else { return Ok(rewritten) };
            find[place - 1] = Value::Integer(last);
            let count = values.len() / 4;
            rewritten += count;
            if order.act == Act::Write && count > 0 {
                let statement = format!(
                    "UPDATE audit_events SET sub = v.sub, email = v.email, entry = v.entry FROM \
                     (SELECT column1 AS seq, column2 AS sub, column3 AS email, column4 AS entry \
                     FROM (VALUES {}) AS w) v WHERE audit_events.seq = v.seq",
                    marks(count, &["BIGINT", "", "", ""])
                );
                self.run(&statement, &values).await?;
            }
        }
    }

    /// What says that a session has ended stays until none of its tokens could pass; whose it was does not.
    async fn erase_from_sessions(&self, order: Order<'_>) -> Result<usize, StoreError> {
        let subject = as_text(order.erasure.subject);
        if order.act == Act::Look {
            return self.found("sessions", "subject = $1", &[subject]).await;
        }
        let statement = "UPDATE sessions SET ended_at = COALESCE(ended_at, $2), answer = '', subject = '', email = '', \
             name = '', created_from = '', refreshed_from = '', client = '' WHERE subject = $1 RETURNING id";
        Ok(self.run(statement, &[subject, Value::Integer(order.at.as_millis())]).await?.len())
    }

    /// Deletes, or counts, the rows of `table` that `condition` finds.
    async fn erase_rows(
        &self,
        order: Order<'_>,
        table: &str,
        condition: &str,
        parameters: &[Value],
    ) -> Result<usize, StoreError> {
        match order.act {
            Act::Look => self.found(table, condition, parameters).await,
            Act::Write => {
                let statement = format!("DELETE FROM {table} WHERE {condition} RETURNING 1");
                Ok(self.run(&statement, parameters).await?.len())
            }
        }
    }

    async fn found(&self, table: &str, condition: &str, parameters: &[Value]) -> Result<usize, StoreError> {
        let statement = format!("SELECT COUNT(*) FROM {table} WHERE {condition}");
        let rows = self.run(&statement, parameters).await?;
        let count = rows.first().map_or(Ok(0), |row| integer(row, 0, "erasure", "count"))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }
}

/// `value` as JSON has it, quotes and all, as it stands in what is kept.
fn json_text(value: &str) -> Value {
    as_text(serde_json::Value::from(value.replace('\0', "\u{fffd}")).to_string())
}

/// `"name":value`, as this gateway writes JSON.
fn json_field(name: &str, value: &str) -> Value {
    as_text(format!("\"{name}\":{}", serde_json::Value::from(value.replace('\0', "\u{fffd}"))))
}
