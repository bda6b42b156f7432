//! Reports over what was spent: people and their sums, and costs by day, person and group.

use std::fmt::Write;

use crate::domain::erasure;
use crate::domain::money::Money;
use crate::domain::spend::calendar::Period;
use crate::ports::{Row, Value};
use crate::store::{Store, StoreError, as_text, integer, padded_list, text};

const TABLE: &str = "spend";

/// One person and what they have spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalRow {
    /// Subject.
    pub principal: String,
    /// This day, week and month.
    pub spent: [Money; 3],
    /// E-mail address; empty when unknown.
    pub email: String,
    /// Name; empty when unknown.
    pub name: String,
    /// Groups as last seen.
    pub groups: Vec<String>,
}

/// Which people are listed.
#[derive(Debug, Clone)]
pub struct PrincipalsQuery<'a> {
    /// The names of this day, week and month.
    pub keys: &'a [String; 3],
    /// Part of the subject, the e-mail address or the name; empty for all.
    pub search: &'a str,
    /// By what they have spent in this period, the most first; only those who have spent then.
    pub by_spend: Option<Period>,
    /// Those after this one: the subject, and what they have spent if that is the order.
    pub after: Option<(&'a str, i64)>,
    /// At most so many.
    pub most: i64,
}

/// What costs are asked for.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a parameter of the report")]
pub struct CostQuery {
    /// First day, such as `2031-02-03`.
    pub from: String,
    /// The day after the last one.
    pub to: String,
    /// One row for each day?
    pub by_day: bool,
    /// One row for each person?
    pub by_actor: bool,
    /// One row for each group that people were in on the day?
    pub by_group: bool,
    /// Without what goes by a pseudonym?
    pub without_erased: bool,
    /// Only these people; empty for all.
    pub actors: Vec<String>,
    /// Only while people were in these groups; empty for all.
    pub groups: Vec<String>,
    /// By time instead of by amount?
    pub order_by_time: bool,
    /// Smallest or earliest first?
    pub ascending: bool,
    /// Rows to leave out.
    pub skip: i64,
    /// At most so many.
    pub most: i64,
}

/// One row of costs. What was not asked for is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostRow {
    /// Day.
    pub day: String,
    /// Subject.
    pub actor: String,
    /// Group; empty for nobody's.
    pub group: String,
    /// How much.
    pub cost: Money,
    /// The person's e-mail address and name; empty when unknown.
    pub identity: (String, String),
}

impl Store<'_> {
    /// People who have ever spent, with their sums.
    pub async fn principals(&self, query: PrincipalsQuery<'_>) -> Result<Vec<PrincipalRow>, StoreError> {
        let mut parameters: Vec<Value> = query.keys.iter().map(as_text).collect();
        let pattern = if query.search.is_empty() {
            String::new()
        } else {
            let escaped = query.search.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            format!("%{escaped}%")
        };
        let (after, amount) = query.after.unwrap_or(("", i64::MAX));
        parameters.extend([as_text(pattern), as_text(after), Value::Integer(query.most)]);
        let (join, condition, order) = match query.by_spend {
            None => ("", "o.principal > $5", "o.principal".to_owned()),
            Some(period) => {
                parameters.push(Value::Integer(amount));
                let column = super::spend::KINDS[period as usize];
                (
                    "WHERE t.present > 0",
                    "(o.chosen < $7 OR (o.chosen = $7 AND o.principal > $5))",
                    format!("o.{column}s DESC, o.principal"),
                )
            }
        };
        let chosen = query.by_spend.map_or(0, |period| period as usize);
        let (kind, key) = (super::spend::KINDS[chosen], chosen + 1);
        let sum = |kind: &str, number: usize| {
            format!(
                "CAST(SUM(CASE WHEN s.kind = '{kind}' AND s.period = ${number} THEN s.nanos ELSE 0 END) AS BIGINT) \
                 AS {kind}s"
            )
        };
        let statement = format!(
            "SELECT o.principal, o.days, o.weeks, o.months, COALESCE(i.email, ''), COALESCE(i.name, ''), \
             COALESCE(i.member_of, '[]') FROM \
             (SELECT t.principal, t.days, t.weeks, t.months, t.{kind}s AS chosen FROM \
             (SELECT s.principal, {}, {}, {}, \
             SUM(CASE WHEN s.kind = '{kind}' AND s.period = ${key} THEN 1 ELSE 0 END) AS present \
             FROM spend s WHERE s.kind IN ('day', 'week', 'month') AND s.requests > 0 GROUP BY s.principal) t {join}) o \
             LEFT JOIN principals i ON i.principal = o.principal \
             WHERE {condition} AND ($4 = '' OR LOWER(o.principal) LIKE $4 ESCAPE '\\' \
             OR LOWER(i.email) LIKE $4 ESCAPE '\\' OR LOWER(i.name) LIKE $4 ESCAPE '\\') ORDER BY {order} LIMIT $6",
            sum("day", 1),
            sum("week", 2),
            sum("month", 3),
        );
        self.run(&statement, &parameters).await?.into_iter().map(principal).collect()
    }

    /// These people with their sums, whether or not they have ever spent; in the order of their subjects.
    pub async fn named_principals(
        &self,
        keys: &[String; 3],
        principals: &[String],
    ) -> Result<Vec<PrincipalRow>, StoreError> {
        let mut parameters: Vec<Value> = keys.iter().map(as_text).collect();
        let (list, values) = padded_list(4, principals);
        parameters.extend(values);
        let statement = format!(
            "SELECT s.principal, \
             CAST(SUM(CASE WHEN s.kind = 'day' AND s.period = $1 THEN s.nanos ELSE 0 END) AS BIGINT), \
             CAST(SUM(CASE WHEN s.kind = 'week' AND s.period = $2 THEN s.nanos ELSE 0 END) AS BIGINT), \
             CAST(SUM(CASE WHEN s.kind = 'month' AND s.period = $3 THEN s.nanos ELSE 0 END) AS BIGINT), \
             '', '', '[]' FROM spend s WHERE s.principal IN ({list}) AND s.kind IN ('day', 'week', 'month') GROUP BY s.principal \
             UNION ALL SELECT i.principal, 0, 0, 0, i.email, i.name, i.member_of FROM principals i \
             WHERE i.principal IN ({list})"
        );
        let mut found: Vec<PrincipalRow> = Vec::new();
        let mut named: Vec<&String> = principals.iter().collect();
        named.sort();
        named.dedup();
        let rows =
            self.run(&statement, &parameters).await?.into_iter().map(principal).collect::<Result<Vec<_>, _>>()?;
        for name in named {
            let mut person = PrincipalRow {
                principal: name.clone(),
                spent: [Money::ZERO; 3],
                email: String::new(),
                name: String::new(),
                groups: Vec::new(),
            };
            for row in rows.iter().filter(|row| row.principal == *name) {
                for (sum, more) in person.spent.iter_mut().zip(row.spent) {
                    *sum = sum.plus(more);
                }
                person.email.push_str(&row.email);
                person.name.push_str(&row.name);
                person.groups.extend(row.groups.iter().cloned());
            }
            found.push(person);
        }
        Ok(found)
    }

    /// Costs.
    pub async fn costs(&self, query: &CostQuery) -> Result<Vec<CostRow>, StoreError> {
        let day = if query.by_day { "s.period" } else { "''" };
        let actor = if query.by_actor { "s.principal" } else { "''" };
        let group = if query.by_group { "COALESCE(g.member_of, '')" } else { "''" };
        let mut parameters =
            vec![as_text(&query.from), as_text(&query.to), Value::Integer(query.most), Value::Integer(query.skip)];
        let mut conditions = String::new();
        if query.without_erased {
            parameters.push(as_text(erasure::PATTERN));
            let _ = write!(conditions, " AND s.principal NOT LIKE ${}", parameters.len());
        }
        if !query.actors.is_empty() {
            let (list, values) = padded_list(parameters.len() + 1, &query.actors);
            parameters.extend(values);
            let _ = write!(conditions, " AND s.principal IN ({list})"); // Writing to a string cannot fail.
        }
        if !query.groups.is_empty() {
            let (list, values) = padded_list(parameters.len() + 1, &query.groups);
            parameters.extend(values);
            let _ = if query.by_group {
                write!(conditions, " AND g.member_of IN ({list})")
            } else {
                write!(
                    conditions,
                    " AND EXISTS (SELECT 1 FROM principal_groups h WHERE h.day = s.period \
                     AND h.principal = s.principal AND h.member_of IN ({list}))"
                )
            };
        }
        let join = if query.by_group {
            "LEFT JOIN principal_groups g ON g.day = s.period AND g.principal = s.principal"
        } else {
            ""
        };
        let direction = if query.ascending { "ASC" } else { "DESC" };
        let order = if query.order_by_time {
            format!("t.day {direction}, t.cost DESC, t.actor, t.member_of")
        } else {
            format!("t.cost {direction}, t.day, t.actor, t.member_of")
        };
        let statement = format!(
            "SELECT t.day, t.actor, t.member_of, t.cost, COALESCE(i.email, ''), COALESCE(i.name, '') FROM \
             (SELECT c.day, c.actor, c.member_of, CAST(SUM(c.nanos) AS BIGINT) AS cost FROM \
             (SELECT {day} AS day, {actor} AS actor, {group} AS member_of, s.nanos FROM spend s {join} \
             WHERE s.kind = 'day' AND s.requests > 0 AND s.period >= $1 AND s.period < $2{conditions}) c \
             GROUP BY c.day, c.actor, c.member_of) t \
             LEFT JOIN principals i ON i.principal = t.actor ORDER BY {order} LIMIT $3 OFFSET $4"
        );
        self.run(&statement, &parameters).await?.into_iter().map(cost).collect()
    }
}

fn cost(mut row: Row) -> Result<CostRow, StoreError> {
    Ok(CostRow {
        day: text(&mut row, 0, TABLE, "period")?,
        actor: text(&mut row, 1, TABLE, "principal")?,
        group: text(&mut row, 2, TABLE, "member_of")?,
        cost: Money::from_nanos(integer(&row, 3, TABLE, "nanos")?),
        identity: (text(&mut row, 4, "principals", "email")?, text(&mut row, 5, "principals", "name")?),
    })
}

fn principal(mut row: Row) -> Result<PrincipalRow, StoreError> {
    let sum = |row: &Row, index| integer(row, index, TABLE, "nanos").map(Money::from_nanos);
    Ok(PrincipalRow {
        principal: text(&mut row, 0, TABLE, "principal")?,
        spent: [sum(&row, 1)?, sum(&row, 2)?, sum(&row, 3)?],
        email: text(&mut row, 4, "principals", "email")?,
        name: text(&mut row, 5, "principals", "name")?,
        groups: serde_json::from_str(&text(&mut row, 6, "principals", "member_of")?)
            .map_err(|_| StoreError::Inconsistent { table: "principals", column: "member_of" })?,
    })
}
