//! `GET /v1/organizations/spend_limits/effective`: which cap counts for whom, and what they have spent (inference
//! contract §18.7).

use std::rc::Rc;

use serde_json::{Value, json};

use super::super::{Query, Refusal, actor, from_token, invalid_token, to_token};
use crate::config::Admin;
use crate::domain::ids::Timestamp;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::{Limit, Scope, cents, effective};
use crate::gateway::Gateway;
use crate::store::{PrincipalRow, PrincipalsQuery};

/// A page of people.
pub(in super::super) async fn get(gateway: &Rc<Gateway>, admin: &Admin, query: &Query) -> Result<Value, Refusal> {
    let limit = query.limit(20)?;
    let named = query.all("user_ids[]")?;
    let chosen = query.all("period[]")?;
    if chosen.iter().any(|name| Period::parse(name).is_none()) {
        return Err(Refusal::invalid("period[]: must be one of daily, weekly, monthly"));
    }
    let is_chosen = |period: Period| chosen.is_empty() || chosen.iter().any(|name| name == period.name());
    let periods: Vec<Period> = Period::ALL.into_iter().filter(|period| is_chosen(*period)).collect();
    let by_spend = match (query.first("sort"), &chosen[..], &periods[..]) {
        (None, ..) => None,
        (Some("spend_desc"), [_, ..], [period]) => Some(*period),
        (Some("spend_desc"), ..) => return Err(Refusal::invalid("sort=spend_desc requires exactly one period[]")),
        (Some(_), ..) => return Err(Refusal::invalid("sort: must be spend_desc")),
    };
    let token = query.first("page").map(from_token).transpose()?;
    let after = match &token {
        None => None,
        Some(token) => {
            let place = (token["p"].as_str(), token["n"].as_i64());
            let (Some(principal), Some(nanos)) = place else { return Err(invalid_token()) };
            Some((principal, nanos))
        }
    };
    let now = gateway.ports.clock.now();
    let keys = Period::ALL.map(|period| period.key(now));
    let store = gateway.store();
    let (people, next_page) = if named.is_empty() {
        let search = query.first("q").unwrap_or_default();
        let wanted = PrincipalsQuery { keys: &keys, search, by_spend, after, most: limit + 1 };
        let mut people = store.principals(wanted).await?;
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = people.len() > most;
        people.truncate(most);
        let token = people.last().filter(|_| has_more).map(|last| {
            let nanos = by_spend.map_or(0, |period| last.spent[period as usize].as_nanos());
            to_token(&json!({"p": last.principal, "n": nanos}))
        });
        (people, token)
    } else {
        let mut people = store.named_principals(&keys, &named).await?;
        if let Some(period) = by_spend {
            people.sort_by_key(|person| std::cmp::Reverse(person.spent[period as usize]));
        }
        (people, None)
    };
    let names: Vec<String> = people.iter().map(|person| person.principal.clone()).collect();
    let limits = if names.is_empty() { Vec::new() } else { store.limits_of(&names).await? };
    let rows: Vec<Value> = people
        .iter()
        .flat_map(|person| {
            let theirs: Vec<&Limit> = limits.iter().filter(|limit| is_for(limit, person)).collect();
            periods.iter().map(move |period| {
                let limit = effective(theirs.iter().copied(), *period, admin.group_limit_mode);
                row(person, *period, limit, now)
            })
        })
        .collect();
    Ok(json!({"data": rows, "next_page": next_page}))
}

fn is_for(limit: &Limit, person: &PrincipalRow) -> bool {
    match &limit.scope {
        Scope::Organization => true,
        Scope::Group(group) => person.groups.contains(group),
        Scope::User(user) => *user == person.principal,
    }
}

fn row(person: &PrincipalRow, period: Period, limit: Option<&Limit>, now: Timestamp) -> Value {
    json!({
        "scope": {"type": "user", "user_id": person.principal},
        "groups": person.groups,
        "actor": actor(&person.principal, &person.name, &person.email),
        "amount": cents(limit.and_then(|limit| limit.amount)),
        "currency": "USD",
        "period": period.name(),
        "source": limit.map(|limit| limit.scope.to_json()),
        "spend_limit_id": limit.map(|limit| &limit.id),
        "period_to_date_spend": person.spent[period as usize].cents(),
        "projected_spend": period.projected(person.spent[period as usize], now).cents(),
    })
}
