//! `GET /v1/organizations/analytics/cost`: what was spent, by day, person and group (inference contract §18.9).

use std::rc::Rc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::{Date, Duration, OffsetDateTime};

use super::super::{Query, Refusal, actor, from_token, instant, invalid_token, to_token};
use crate::domain::checksum::hex;
use crate::domain::ids::Timestamp;
use crate::domain::spend::calendar::{date, day, midnight};
use crate::gateway::Gateway;
use crate::store::{CostQuery, CostRow};

const PARAMETERS: [&str; 12] = [
    "starting_at",
    "ending_at",
    "time_bucket_width",
    "group_by[]",
    "actor_ids[]",
    "actor_types[]",
    "rbac_group_ids[]",
    "exclude_deleted_users",
    "order_by",
    "order",
    "limit",
    "page",
];

/// The longest range.
const MOST_DAYS: i64 = 31;
/// A day's sums may still grow for so long after its end: requests settle when they end.
const SETTLED_AFTER: std::time::Duration = std::time::Duration::from_mins(5);

/// A page of costs.
pub(in super::super) async fn get(gateway: &Rc<Gateway>, query: &Query) -> Result<Value, Refusal> {
    let now = gateway.ports.clock.now();
    let (from, to) = range(query, now)?;
    let mut wanted = wanted(query)?;
    let limit = query.limit(20)?;
    let digest = digest(query, &["limit", "page"]);
    if let Some(token) = query.first("page") {
        let token = from_token(token)?;
        let is_settled = now >= midnight(to).plus(SETTLED_AFTER);
        let skip = token["o"].as_i64().filter(|skip| *skip >= 0 && is_settled && token["d"] == digest.as_str());
        wanted.skip = skip.ok_or_else(invalid_token)?;
    }
    wanted.from = day(from);
    wanted.to = day(to);
    wanted.most = limit + 1;
    let mut rows = gateway.store().costs(&wanted).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > most;
    rows.truncate(most);
    let next_page = has_more.then(|| to_token(&json!({"o": wanted.skip + limit, "d": digest})));
    let data: Vec<Value> = rows.iter().map(|row| shown(row, &wanted, from, to)).collect();
    Ok(json!({"data": data, "has_more": has_more, "next_page": next_page, "data_refreshed_at": now}))
}

/// The first day and the day after the last.
fn range(query: &Query, now: Timestamp) -> Result<(Date, Date), Refusal> {
    query.accept_only(&PARAMETERS)?;
    let from = query.first("starting_at").ok_or_else(|| Refusal::invalid("starting_at: Required"))?;
    let from = day_of("starting_at", from)?;
    let longest = from.checked_add(Duration::days(MOST_DAYS)).unwrap_or(Date::MAX);
    let to = match query.first("ending_at") {
        Some(text) => day_of("ending_at", text)?,
        None => (date(now) + Duration::DAY).min(longest),
    };
    if to <= from {
        return Err(Refusal::invalid("starting_at: must be before ending_at, which defaults to now"));
    }
    if to > longest {
        return Err(Refusal::invalid("ending_at: the range may span at most 31 days"));
    }
    Ok((from, to))
}

/// The UTC day of a timestamp.
pub(crate) fn day_of(name: &str, text: &str) -> Result<Date, Refusal> {
    instant(name, text).map(OffsetDateTime::date)
}

fn wanted(query: &Query) -> Result<CostQuery, Refusal> {
    let one_of = |name: &str, known: &[&str]| match query.first(name) {
        Some(value) if !known.contains(&value) => {
            Err(Refusal::invalid(format!("{name}: must be one of {}", known.join(", "))))
        }
        value => Ok(value),
    };
    let by_day = one_of("time_bucket_width", &["1d"])?.is_some();
    if by_day && query.first("ending_at").is_none() {
        return Err(Refusal::invalid("ending_at: required when time_bucket_width is set"));
    }
    let group_by = query.all("group_by[]")?;
    if group_by.iter().any(|name| name != "actor" && name != "rbac_group_id") {
        return Err(Refusal::invalid("group_by[]: must be one of actor, rbac_group_id"));
    }
    if query.all("actor_types[]")?.iter().any(|kind| kind != "user_actor") {
        return Err(Refusal::invalid("actor_types[]: must be user_actor"));
    }
    let by_actor = group_by.iter().any(|name| name == "actor");
    let without_erased = one_of("exclude_deleted_users", &["true", "false"])? == Some("true");
    if without_erased && !by_actor {
        return Err(Refusal::invalid("exclude_deleted_users: requires group_by[]=actor"));
    }
    Ok(CostQuery {
        by_day,
        by_actor,
        without_erased,
        by_group: group_by.iter().any(|name| name == "rbac_group_id"),
        actors: query.all("actor_ids[]")?,
        groups: query.all("rbac_group_ids[]")?,
        order_by_time: one_of("order_by", &["amount", "list_amount", "time"])? == Some("time"),
        ascending: one_of("order", &["asc", "desc"])? == Some("asc"),
        ..CostQuery::default()
    })
}

/// What a token belongs to: all parameters but those that may differ from page to page.
pub(crate) fn digest(query: &Query, but: &[&str]) -> String {
    let pairs: Vec<_> = query.pairs().iter().filter(|(name, _)| !but.contains(&name.as_str())).collect();
    hex(&Sha256::digest(json!(pairs).to_string())[..12])
}

fn shown(row: &CostRow, query: &CostQuery, from: Date, to: Date) -> Value {
    let (starts, ends) = if query.by_day {
        let format = time::macros::format_description!("[year]-[month]-[day]");
        let day = Date::parse(&row.day, format).unwrap_or(from);
        (day, day + Duration::DAY)
    } else {
        (from, to)
    };
    let at = |date: Date| format!("{}T00:00:00Z", day(date));
    let group = if query.by_group && !row.group.is_empty() { Value::from(row.group.as_str()) } else { Value::Null };
    let (email, name) = &row.identity;
    let actor = if query.by_actor { in_order(actor(&row.actor, name, email)) } else { Value::Null };
    let amount = row.cost.cents_to_six_decimals();
    json!({
        "starting_at": at(starts),
        "ending_at": at(ends),
        "group": {
            "product": null, "model": null, "context_window": null, "inference_geo": null, "speed": null,
            "slack_channel_id": null, "claude_tag_category": null, "claude_tag_user_id": null,
            "rbac_group_id": group, "workspace_id": null, "service_tier": null, "user_profile_id": null,
            "agent_id": null, "environment_id": null, "deployment_id": null, "session_id": null,
            "actor": actor, "actor_type": null, "api_key_id": null, "cost_type": null, "token_type": null,
        },
        "cost": {"currency": "USD", "amount": amount, "list_amount": amount, "requests": null},
    })
}

/// This report alone writes the address before the name (inference contract §18.9).
fn in_order(mut actor: Value) -> Value {
    let Some(members) = actor.as_object_mut() else { return actor };
    for last in ["name", "deleted"] {
        if let Some((name, value)) = members.shift_remove_entry(last) {
            members.insert(name, value);
        }
    }
    actor
}
