//! `GET /v1/organizations/usage`: tokens, requests and cost by day, person, group, model, upstream and sign-in, as JSON or
//! CSV. The reference has no such report; parameters, pages and errors follow its cost report.

use std::rc::Rc;

use serde_json::{Value, json};
use time::{Date, Duration};

use super::analytics::cost;
use super::{Answer, Query, Refusal, actor, from_token, invalid_token, to_token};
use crate::domain::ids::Timestamp;
use crate::domain::spend::calendar::{date, day};
use crate::gateway::Gateway;
use crate::store::{Dimension, UsageQuery, UsageRow};
use crate::wire::csv;

/// Parameters there are.
const PARAMETERS: [&str; 10] = [
    "starting_at",
    "ending_at",
    "group_by[]",
    "user_ids[]",
    "rbac_group_ids[]",
    "models[]",
    "upstreams[]",
    "format",
    "limit",
    "page",
];

/// The longest range, in days: spend is kept for thirteen months unless configured otherwise.
const MOST_DAYS: i64 = 400;

/// The columns of a CSV document.
const COLUMNS: [&str; 15] = [
    "day",
    "user_id",
    "email_address",
    "name",
    "rbac_group_id",
    "model",
    "upstream",
    "session_id",
    "requests",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "web_search_requests",
    "cost_cents",
];

/// A page.
pub(crate) async fn get(gateway: &Rc<Gateway>, query: &Query) -> Result<Answer, Refusal> {
    let now = gateway.ports.clock.now();
    query.accept_only(&PARAMETERS)?;
    let is_csv = match query.first("format") {
        None | Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(Refusal::invalid("format: must be one of json, csv")),
    };
    let (from, to) = range(query, now)?;
    let limit = query.limit(if is_csv { 1000 } else { 20 })?;
    let digest = cost::digest(query, &["limit", "page", "format"]);
    let mut wanted = UsageQuery {
        from: day(from),
        to: day(to),
        by: dimensions(query)?,
        users: query.all("user_ids[]")?,
        groups: query.all("rbac_group_ids[]")?,
        models: query.all("models[]")?,
        upstreams: query.all("upstreams[]")?,
        after: None,
        most: limit + 1,
    };
    if let Some(token) = query.first("page") {
        let token = from_token(token)?;
        let after = serde_json::from_value(token["a"].clone()).ok().filter(|_| token["d"] == digest.as_str());
        wanted.after = Some(after.ok_or_else(invalid_token)?);
    }
    let mut rows = gateway.store().usage(&wanted).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > most;
    rows.truncate(most);
    let last = rows.last().filter(|_| has_more);
    let next_page = last.map(|row| to_token(&json!({"a": row.values, "d": digest})));
    if is_csv {
        // Later pages go on where the first one ended.
        let mut text = if wanted.after.is_none() { csv::record(COLUMNS) } else { String::new() };
        for row in &rows {
            text.push_str(&record(row));
        }
        return Ok(Answer::Csv { text, next_page });
    }
    let data: Vec<Value> = rows.iter().map(|row| shown(row, &wanted.by)).collect();
    Ok(Answer::Json(json!({
        "starting_at": format!("{}T00:00:00Z", wanted.from), "ending_at": format!("{}T00:00:00Z", wanted.to),
        "data": data, "has_more": has_more, "next_page": next_page,
    })))
}

/// The first day and the day after the last.
fn range(query: &Query, now: Timestamp) -> Result<(Date, Date), Refusal> {
    let from = query.first("starting_at").ok_or_else(|| Refusal::invalid("starting_at: Required"))?;
    let from = day_of("starting_at", from)?;
    let to = match query.first("ending_at") {
        Some(text) => day_of("ending_at", text)?,
        None => date(now) + Duration::DAY,
    };
    if to <= from {
        return Err(Refusal::invalid("starting_at: must be before ending_at, which defaults to now"));
    }
    if to > from.checked_add(Duration::days(MOST_DAYS)).unwrap_or(Date::MAX) {
        return Err(Refusal::invalid(format!("ending_at: the range may span at most {MOST_DAYS} days")));
    }
    Ok((from, to))
}

/// A day, or the UTC day of a timestamp.
fn day_of(name: &str, text: &str) -> Result<Date, Refusal> {
    let is_day = text.len() == 10;
    let whole = if is_day { format!("{text}T00:00:00Z") } else { text.to_owned() };
    cost::day_of(name, &whole)
}

fn dimensions(query: &Query) -> Result<Vec<Dimension>, Refusal> {
    let find = |name: &String| Dimension::ALL.into_iter().find(|dimension| dimension.name() == name);
    let found: Option<Vec<Dimension>> = query.all("group_by[]")?.iter().map(find).collect();
    found.ok_or_else(|| {
        let known = Dimension::ALL.map(Dimension::name).join(", ");
        Refusal::invalid(format!("group_by[]: must be one of {known}"))
    })
}

fn shown(row: &UsageRow, by: &[Dimension]) -> Value {
    let [day, user, group, model, upstream, session] = &row.values;
    let known = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let (email, name) = &row.identity;
    let user = if by.contains(&Dimension::User) { actor(user, name, email) } else { Value::Null };
    let [input, output, cache_read, cache_creation] = row.tokens;
    json!({
        "day": known(day), "actor": user, "rbac_group_id": known(group), "model": known(model),
        "upstream": known(upstream), "session_id": known(session), "requests": row.requests,
        "tokens": {
            "input_tokens": input, "output_tokens": output, "cache_read_input_tokens": cache_read,
            "cache_creation_input_tokens": cache_creation,
        },
        "web_search_requests": row.web_searches,
        "cost": {"currency": "USD", "amount": row.cost.cents_to_six_decimals()},
    })
}

fn record(row: &UsageRow) -> String {
    let [day, user, group, model, upstream, session] = &row.values;
    let (email, name) = &row.identity;
    let texts = [day, user, email, name, group, model, upstream, session].map(String::as_str);
    let counts = [&[row.requests], &row.tokens[..], &[row.web_searches]].concat();
    let counts: Vec<String> = counts.iter().map(i64::to_string).collect();
    let cost = row.cost.cents_to_six_decimals();
    let fields = texts.into_iter().chain(counts.iter().map(String::as_str)).chain([cost.as_str()]);
    csv::record(fields)
}
