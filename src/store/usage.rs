//! The usage report: what was asked of which model, by whom, on which day. Its rows are written by settlements, one for
//! each person, model, upstream and sign-in of a day, however many requests there are.

use std::fmt::Write;

use crate::domain::money::Money;
use crate::ports::{Row, Value};
use crate::store::{Store, StoreError, as_text, integer, padded_list, text};

const TABLE: &str = "spend";

/// What a report can have one row for each of, in the order in which rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// Day, UTC.
    Day,
    /// Person.
    User,
    /// Group that the person was in on the day; a person in several counts in each.
    Group,
    /// Model, as the upstream calls it.
    Model,
    /// Upstream, by its name in the configuration.
    Upstream,
    /// Sign-in; empty where sessions have no id.
    Session,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Day, Self::User, Self::Group, Self::Model, Self::Upstream, Self::Session];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::User => "user",
            Self::Group => "group",
            Self::Model => "model",
            Self::Upstream => "upstream",
            Self::Session => "session",
        }
    }

    const fn column(self) -> &'static str {
        match self {
            Self::Day => "s.period",
            Self::User => "s.principal",
            Self::Group => "COALESCE(g.member_of, '')",
            Self::Model => "s.model",
            Self::Upstream => "s.upstream",
            Self::Session => "s.session",
        }
    }
}

/// What usage is asked for.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// First day, such as `2031-02-03`.
    pub from: String,
    /// The day after the last one.
    pub to: String,
    /// One row for each of these.
    pub by: Vec<Dimension>,
    /// Only these people; empty for all.
    pub users: Vec<String>,
    /// Only while people were in these groups; empty for all.
    pub groups: Vec<String>,
    /// Only these models; empty for all.
    pub models: Vec<String>,
    /// Only these upstreams; empty for all.
    pub upstreams: Vec<String>,
    /// Rows after the one with these values, in the order of [`Dimension::ALL`].
    pub after: Option<[String; 6]>,
    /// At most so many.
    pub most: i64,
}

/// One row. Counts and money are sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// In the order of [`Dimension::ALL`]; what was not asked for is empty.
    pub values: [String; 6],
    /// The person's e-mail address and name; empty when unknown.
    pub identity: (String, String),
    /// Requests that were settled.
    pub requests: i64,
    /// Input that no cache had, output, input read from a cache, input written to one.
    pub tokens: [i64; 4],
    /// Web searches.
    pub web_searches: i64,
    /// What it cost.
    pub cost: Money,
}

impl Store<'_> {
    /// A page of usage, in the order of its values.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        let mut parameters = vec![
            as_text(&query.from),
            as_text(&query.to),
            Value::Integer(query.most),
            Value::Integer(query.after.is_some().into()),
        ];
        parameters.extend(query.after.clone().unwrap_or_default().map(as_text));
        let mut conditions = String::new();
        let by_group = query.by.contains(&Dimension::Group);
        for (values, condition) in [
            (&query.users, "s.principal IN ({})"),
            (&query.models, "s.model IN ({})"),
            (&query.upstreams, "s.upstream IN ({})"),
            (&query.groups, if by_group { "g.member_of IN ({})" } else { IN_GROUPS }),
        ] {
            if values.is_empty() {
                continue;
            }
            let (list, more) = padded_list(parameters.len() + 1, values);
            parameters.extend(more);
            let _ = write!(conditions, " AND {}", condition.replace("{}", &list)); // Writing to a string cannot fail.
        }
        let join = if by_group {
            "LEFT JOIN principal_groups g ON g.day = s.period AND g.principal = s.principal"
        } else {
            ""
        };
        let values: Vec<String> = Dimension::ALL
            .into_iter()
            .enumerate()
            .map(|(index, dimension)| {
                let column = if query.by.contains(&dimension) { dimension.column() } else { "''" };
                format!("{column} AS d{index}")
            })
            .collect();
        let statement = format!(
            "SELECT t.d0, t.d1, t.d2, t.d3, t.d4, t.d5, COALESCE(i.email, ''), COALESCE(i.name, ''), t.requests, \
             t.input, t.output, t.cache_read, t.cache_write, t.searches, t.nanos FROM \
             (SELECT c.d0, c.d1, c.d2, c.d3, c.d4, c.d5, CAST(SUM(c.requests) AS BIGINT) AS requests, \
             CAST(SUM(c.input_tokens) AS BIGINT) AS input, CAST(SUM(c.output_tokens) AS BIGINT) AS output, \
             CAST(SUM(c.cache_read_tokens) AS BIGINT) AS cache_read, \
             CAST(SUM(c.cache_write_tokens) AS BIGINT) AS cache_write, \
             CAST(SUM(c.web_searches) AS BIGINT) AS searches, CAST(SUM(c.nanos) AS BIGINT) AS nanos FROM \
             (SELECT {}, s.requests, s.input_tokens, s.output_tokens, s.cache_read_tokens, s.cache_write_tokens, \
             s.web_searches, s.nanos FROM spend s {join} \
             WHERE s.kind = 'usage' AND s.period >= $1 AND s.period < $2{conditions}) c \
             GROUP BY c.d0, c.d1, c.d2, c.d3, c.d4, c.d5) t \
             LEFT JOIN principals i ON i.principal = t.d1 \
             WHERE CAST($4 AS BIGINT) = 0 OR (t.d0, t.d1, t.d2, t.d3, t.d4, t.d5) > ($5, $6, $7, $8, $9, $10) \
             ORDER BY t.d0, t.d1, t.d2, t.d3, t.d4, t.d5 LIMIT $3",
            values.join(", ")
        );
        self.run(&statement, &parameters).await?.into_iter().map(usage).collect()
    }
}

const IN_GROUPS: &str = "EXISTS (SELECT 1 FROM principal_groups h WHERE h.day = s.period AND h.principal = s.principal \
     AND h.member_of IN ({}))";

fn usage(mut row: Row) -> Result<UsageRow, StoreError> {
    let mut values = <[String; 6]>::default();
    for (index, value) in values.iter_mut().enumerate() {
        *value = text(&mut row, index, TABLE, "usage")?;
    }
    let number = |index| integer(&row, index, TABLE, "usage");
    let tokens = [number(9)?, number(10)?, number(11)?, number(12)?];
    let (requests, web_searches, cost) = (number(8)?, number(13)?, Money::from_nanos(number(14)?));
    let identity = (text(&mut row, 6, "principals", "email")?, text(&mut row, 7, "principals", "name")?);
    Ok(UsageRow { values, identity, requests, tokens, web_searches, cost })
}
