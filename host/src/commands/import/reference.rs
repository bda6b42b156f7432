//! The reference gateway's database, schema 8 (inference contract §13.5): what is in it, and what its rows mean here.
//!
//! Rows come as JSON with times in milliseconds and money in nano-dollars: the server converts both exactly, whatever the
//! types of its columns.

use sallyport::domain::ids::Timestamp;
use sallyport::domain::money::Money;
use sallyport::domain::spend::calendar::Period;
use sallyport::domain::spend::limit::{Limit, Pool, Scope};
use sallyport::store::import::{Membership, Mode, Somebody, Sum, Tally};
use sallyport::store::{Recorded, Store, StoreError};
use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::{Client, IsolationLevel, Portal, Transaction};

use crate::commands::Faults;

/// The number of migrations that a database of the reference 2.1.329 has.
pub(super) const SCHEMA: i64 = 8;

/// What is imported, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Caps,
    Spend,
    Pools,
    People,
    Memberships,
    Changes,
}

/// A table, and the columns that are read of it.
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    /// Columns that hold times.
    times: &'static [&'static str],
    /// Columns that become other things than what they are: name and SQL over the row `t`.
    computed: &'static [(&'static str, &'static str)],
    order: &'static str,
}

/// Exact, because the text of a double is. What is no number becomes null; what is too large, the largest.
const NANOS: &str = "CASE WHEN t.cents::text IN ('NaN', 'Infinity', '-Infinity') THEN NULL \
                     ELSE GREATEST(LEAST(round(t.cents::text::numeric * 10000000), 9223372036854775807), 0)::bigint END";

impl Part {
    pub(super) const ALL: [Self; 6] =
        [Self::Caps, Self::Spend, Self::Pools, Self::People, Self::Memberships, Self::Changes];

    /// What it is called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Caps => "caps",
            Self::Spend => "spend",
            Self::Pools => "spend of pools",
            Self::People => "identities",
            Self::Memberships => "memberships",
            Self::Changes => "audit rows",
        }
    }

    const fn table(self) -> Table {
        match self {
            Self::Caps => Table {
                name: "spend_limits",
                columns: &[
                    "id",
                    "scope_type",
                    "scope_id",
                    "amount",
                    "period",
                    "created_at",
                    "updated_at",
                    "pooled_limit_enabled",
                    "pooled_monthly_credit_limit",
                ],
                times: &["created_at", "updated_at"],
                computed: &[
                    ("id", "t.id::text"),
                    ("amount", "t.amount::bigint"),
                    ("pooled_monthly_credit_limit", "round(t.pooled_monthly_credit_limit::numeric)::bigint"),
                ],
                order: "t.created_at, t.id",
            },
            Self::Spend => Table {
                name: "spend",
                columns: &["principal", "period", "cents", "updated_at"],
                times: &["updated_at"],
                computed: &[("nanos", NANOS)],
                order: "t.principal, t.period",
            },
            Self::Pools => Table {
                name: "pooled_spend",
                columns: &["rbac_group_id", "period", "cents"],
                times: &[],
                computed: &[("nanos", NANOS)],
                order: "t.rbac_group_id, t.period",
            },
            Self::People => Table {
                name: "principal_emails",
                columns: &["principal", "email", "name", "groups", "updated_at"],
                times: &["updated_at"],
                computed: &[],
                order: "t.principal",
            },
            Self::Memberships => Table {
                name: "principal_groups",
                columns: &["day", "principal", "groups"],
                times: &[],
                computed: &[("day", "t.day::text")],
                order: "t.day, t.principal",
            },
            Self::Changes => Table {
                name: "admin_audit",
                columns: &["id", "at", "actor", "action", "target", "before", "after"],
                times: &["at"],
                computed: &[],
                order: "t.id",
            },
        }
    }

    /// Rows as they mean something here; `skip` is told why others do not.
    pub(super) fn parse(self, rows: &[String], skip: &mut dyn FnMut(String)) -> Result<Batch, Faults> {
        Ok(match self {
            Self::Caps => Batch::Caps(parsed(self, rows, |row: LimitRow| row.meaning(), skip)?),
            Self::Spend => Batch::Sums(parsed(self, rows, |row: SpendRow| row.meaning(), skip)?),
            Self::Pools => Batch::Sums(parsed(self, rows, |row: PoolRow| row.meaning(), skip)?),
            Self::People => Batch::People(parsed(self, rows, |row: PersonRow| Ok(row.meaning()), skip)?),
            Self::Memberships => {
                let days = parsed(self, rows, |row: DayRow| Ok(row.meaning()), skip)?;
                Batch::Memberships(days.into_iter().flatten().collect())
            }
            Self::Changes => Batch::Changes(parsed(self, rows, |row: ChangeRow| Ok(row.meaning()), skip)?),
        })
    }
}

fn parsed<R: for<'a> Deserialize<'a>, T>(
    part: Part,
    rows: &[String],
    meaning: impl Fn(R) -> Result<T, String>,
    skip: &mut dyn FnMut(String),
) -> Result<Vec<T>, Faults> {
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let row = serde_json::from_str(row).map_err(|error| {
            Faults(vec![format!("--from: a row of {} is not as in schema {SCHEMA}: {error}", part.table().name)])
        })?;
        match meaning(row) {
            Ok(meaning) => found.push(meaning),
            Err(reason) => skip(reason),
        }
    }
    Ok(found)
}

/// Rows of one part.
pub(super) enum Batch {
    Caps(Vec<Limit>),
    Sums(Vec<Sum>),
    People(Vec<Somebody>),
    Memberships(Vec<Membership>),
    Changes(Vec<Recorded>),
}

impl Batch {
    pub(super) fn len(&self) -> u64 {
        let len = match self {
            Self::Caps(rows) => rows.len(),
            Self::Sums(rows) => rows.len(),
            Self::People(rows) => rows.len(),
            Self::Memberships(rows) => rows.len(),
            Self::Changes(rows) => rows.len(),
        };
        len as u64
    }

    pub(super) async fn import(&self, store: Store<'_>, mode: Mode) -> Result<Tally, StoreError> {
        match self {
            Self::Caps(rows) => store.import_limits(rows, mode).await,
            Self::Sums(rows) => store.import_sums(rows, mode).await,
            Self::People(rows) => store.import_people(rows, mode).await,
            Self::Memberships(rows) => store.import_memberships(rows, mode).await,
            Self::Changes(rows) => store.import_changes(rows, mode).await,
        }
    }
}

#[derive(Deserialize)]
struct LimitRow {
    id: String,
    scope_type: String,
    scope_id: Option<String>,
    amount: Option<i64>,
    period: String,
    created_at: i64,
    updated_at: i64,
    pooled_limit_enabled: Option<bool>,
    pooled_monthly_credit_limit: Option<i64>,
}

impl LimitRow {
    fn meaning(self) -> Result<Limit, String> {
        let scope = Scope::new(&self.scope_type, self.scope_id.unwrap_or_default());
        let period = Period::parse(&self.period);
        let pool_amount = self.pooled_monthly_credit_limit;
        Ok(Limit {
            id: self.id,
            scope: scope.ok_or_else(|| format!("a scope of type `{}`, which is not known here", self.scope_type))?,
            period: period.ok_or_else(|| format!("a period `{}`, which is not known here", self.period))?,
            amount: self.amount,
            pool: Pool {
                amount: pool_amount,
                is_paused: pool_amount.is_some() && !self.pooled_limit_enabled.unwrap_or_default(),
            },
            created_at: Timestamp::from_millis(self.created_at),
            updated_at: Timestamp::from_millis(self.updated_at),
        })
    }
}

const NO_AMOUNT: &str = "an amount that is not a number";

#[derive(Deserialize)]
struct SpendRow {
    principal: String,
    period: String,
    nanos: Option<i64>,
    updated_at: i64,
}

impl SpendRow {
    fn meaning(self) -> Result<Sum, String> {
        let kind = kind(&self.period).ok_or_else(|| "a period that is neither a day, a week nor a month".to_owned())?;
        Ok(Sum {
            kind,
            principal: self.principal,
            period: self.period,
            spent: Money::from_nanos(self.nanos.ok_or(NO_AMOUNT)?),
            at: Timestamp::from_millis(self.updated_at),
        })
    }
}

/// `2031-02-03` is a day, `2031-W06` a week, `2031-02` a month.
fn kind(period: &str) -> Option<&'static str> {
    let shape: String =
        period.chars().map(|character| if character.is_ascii_digit() { '0' } else { character }).collect();
    match shape.as_str() {
        "0000-00-00" => Some("day"),
        "0000-W00" => Some("week"),
        "0000-00" => Some("month"),
        _ => None,
    }
}

#[derive(Deserialize)]
struct PoolRow {
    rbac_group_id: String,
    period: String,
    nanos: Option<i64>,
}

impl PoolRow {
    fn meaning(self) -> Result<Sum, String> {
        if kind(&self.period) != Some("month") {
            return Err("a period that is not a month".to_owned());
        }
        Ok(Sum {
            kind: "pool",
            principal: self.rbac_group_id,
            period: self.period,
            spent: Money::from_nanos(self.nanos.ok_or(NO_AMOUNT)?),
            // The reference does not say when; it is kept from now on.
            at: crate::console::now(),
        })
    }
}

#[derive(Deserialize)]
struct PersonRow {
    principal: String,
    email: Option<String>,
    name: Option<String>,
    groups: Value,
    updated_at: i64,
}

impl PersonRow {
    fn meaning(self) -> Somebody {
        Somebody {
            groups: texts(&self.groups),
            principal: self.principal,
            email: self.email.unwrap_or_default(),
            name: self.name.unwrap_or_default(),
            at: Timestamp::from_millis(self.updated_at),
        }
    }
}

#[derive(Deserialize)]
struct DayRow {
    day: String,
    principal: String,
    groups: Value,
}

impl DayRow {
    fn meaning(self) -> Vec<Membership> {
        let membership = |group| Membership { day: self.day.clone(), principal: self.principal.clone(), group };
        texts(&self.groups).into_iter().map(membership).collect()
    }
}

/// A list of text, also where it is kept as the text of a JSON list.
fn texts(list: &Value) -> Vec<String> {
    match list {
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
        _ => Vec::new(),
    }
}

#[derive(Deserialize)]
struct ChangeRow {
    id: i64,
    at: i64,
    actor: Option<String>,
    action: String,
    target: Option<String>,
    before: Value,
    after: Value,
}

impl ChangeRow {
    fn meaning(self) -> Recorded {
        Recorded {
            id: self.id,
            at: Timestamp::from_millis(self.at),
            actor: self.actor.unwrap_or_default(),
            action: self.action,
            target: self.target.unwrap_or_default(),
            before: image(self.before),
            after: image(self.after),
        }
    }
}

/// JSON as text; nothing for null. Text is JSON already.
fn image(image: Value) -> String {
    match image {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// A database that was looked at and found to be one, in a transaction that sees one moment of it.
pub(super) struct Reference<'a> {
    transaction: Transaction<'a>,
    /// One for each [`Part`], in their order.
    queries: Vec<String>,
}

impl<'a> Reference<'a> {
    /// Begins to read; everything is refused that is not schema 8 of the reference, by name.
    pub(super) async fn open(client: &'a mut Client, place: &str) -> Result<Self, Faults> {
        let transaction =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await;
        let transaction = transaction.map_err(|error| fault(&error))?;
        let is_there = async |table: &str| -> Result<bool, Faults> {
            let row = transaction.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&table]).await;
            Ok(row.map_err(|error| fault(&error))?.get(0))
        };
        if !is_there("_migrations").await? {
            return Err(Faults(vec![if is_there("schema_migrations").await? {
                format!("--from: the database at {place} is this gateway's own kind; import reads the reference's")
            } else {
                format!("--from: the database at {place} is not the reference gateway's: it has no table _migrations")
            }]));
        }
        let row =
            transaction.query_one("SELECT count(*) FROM _migrations", &[]).await.map_err(|error| fault(&error))?;
        let schema: i64 = row.get(0);
        if schema != SCHEMA {
            return Err(Faults(vec![format!(
                "--from: the database at {place} has schema {schema} of the reference gateway; import reads schema \
                 {SCHEMA} (2.1.329)"
            )]));
        }
        let (mut queries, mut faults) = (Vec::new(), Vec::new());
        for part in Part::ALL {
            let table = part.table();
            let columns = columns(&transaction, table.name).await?;
            for column in table.columns {
                if !columns.iter().any(|(name, _)| name == column) {
                    faults.push(format!("--from: {}.{column} is missing, which schema {SCHEMA} has", table.name));
                }
            }
            queries.push(query(&table, &columns));
        }
        if faults.is_empty() { Ok(Self { transaction, queries }) } else { Err(Faults(faults)) }
    }

    /// How many rows there are.
    pub(super) async fn count(&self, part: Part) -> Result<i64, Faults> {
        let statement = format!("SELECT count(*) FROM {}", part.table().name);
        Ok(self.transaction.query_one(&statement, &[]).await.map_err(|error| fault(&error))?.get(0))
    }

    /// All rows, to be fetched with [`Self::next`].
    pub(super) async fn rows(&self, part: Part) -> Result<Portal, Faults> {
        let query = &self.queries[part as usize];
        let statement = self.transaction.prepare(query).await.map_err(|error| fault(&error))?;
        self.transaction.bind(&statement, &[]).await.map_err(|error| fault(&error))
    }

    /// The next rows, at most `most`; none at the end.
    pub(super) async fn next(&self, rows: &Portal, most: i32) -> Result<Vec<String>, Faults> {
        let rows = self.transaction.query_portal(rows, most).await.map_err(|error| fault(&error))?;
        rows.iter().map(|row| row.try_get(0).map_err(|error| fault(&error))).collect()
    }
}

/// Names and types of the columns of `table`; none if it is not there.
async fn columns(transaction: &Transaction<'_>, table: &str) -> Result<Vec<(String, String)>, Faults> {
    let statement = "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute \
                     WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped";
    let rows = transaction.query(statement, &[&table]).await.map_err(|error| fault(&error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The statement that reads `table`, one JSON object for each row.
fn query(table: &Table, columns: &[(String, String)]) -> String {
    let mut members: Vec<String> =
        table.computed.iter().map(|(name, expression)| format!("'{name}', {expression}")).collect();
    for time in table.times {
        let kind = columns.iter().find(|(name, _)| name == time).map_or("", |(_, kind)| kind.as_str());
        let millis = match kind {
            "bigint" | "integer" => format!("t.\"{time}\"::bigint"),
            "text" | "character varying" => {
                format!("floor(extract(epoch from t.\"{time}\"::timestamptz) * 1000)::bigint")
            }
            _ => format!("floor(extract(epoch from t.\"{time}\") * 1000)::bigint"),
        };
        members.push(format!("'{time}', {millis}"));
    }
    let members = members.join(", ");
    format!(
        "SELECT (to_jsonb(t) || jsonb_build_object({members}))::text FROM {} t ORDER BY {}",
        table.name, table.order
    )
}

fn fault(error: &tokio_postgres::Error) -> Faults {
    let message = error.as_db_error().map_or_else(|| error.to_string(), |database| database.message().to_owned());
    Faults(vec![format!("--from: {message}")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_mean_what_the_reference_means_and_what_is_unknown_is_left_out_by_name() {
        let mut skipped = Vec::new();
        let mut skip = |reason| skipped.push(reason);
        let row = |scope: &str, period: &str, rest: &str| {
            format!(
                r#"{{"id":"spl_1","scope_type":"{scope}","scope_id":"x","period":"{period}","amount":5,"currency":"USD",
                    "created_at":1,"updated_at":2,"created_by":"me",{rest}}}"#
            )
        };
        let none = r#""pooled_limit_enabled":false,"pooled_monthly_credit_limit":null"#;
        let paused = r#""pooled_limit_enabled":false,"pooled_monthly_credit_limit":900"#;
        let rows = [
            row("rbac_group", "monthly", none),
            row("rbac_group", "monthly", paused),
            row("rbac_group", "monthly", &paused.replace("false", "true")),
            row("workspace", "monthly", none),
            row("user", "yearly", none),
        ];
        let Ok(Batch::Caps(caps)) = Part::Caps.parse(&rows, &mut skip) else { panic!("caps are caps") };
        let pools: Vec<_> = caps.iter().map(|cap| (cap.pool.amount, cap.pool.is_paused)).collect();
        assert_eq!(pools, [(None, false), (Some(900), true), (Some(900), false)]);

        let rows = ["2031-02-03", "2031-W06", "2031-02", "2031", "2031-Q1"].map(|period| {
            format!(r#"{{"principal":"a","period":"{period}","cents":1.5,"nanos":15000000,"updated_at":3}}"#)
        });
        let Ok(Batch::Sums(sums)) = Part::Spend.parse(&rows, &mut skip) else { panic!("sums are sums") };
        assert_eq!(sums.iter().map(|sum| sum.kind).collect::<Vec<_>>(), ["day", "week", "month"]);

        for groups in [r#"["a","b"]"#, r#""[\"a\",\"b\"]""#] {
            let row = format!(r#"{{"day":"2031-02-03","principal":"p","groups":{groups}}}"#);
            let Ok(Batch::Memberships(days)) = Part::Memberships.parse(&[row], &mut skip) else { panic!("days") };
            assert_eq!(days.iter().map(|day| day.group.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        }
        let Err(Faults(faults)) = Part::People.parse(&["{}".to_owned()], &mut skip) else { panic!("no principal") };
        assert!(faults[0].contains("principal_emails"), "{faults:?}");
        assert_eq!(
            skipped,
            [
                "a scope of type `workspace`, which is not known here",
                "a period `yearly`, which is not known here",
                "a period that is neither a day, a week nor a month",
                "a period that is neither a day, a week nor a month",
            ]
        );
    }
}
