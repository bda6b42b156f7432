//! `GET /v1/organizations/spend_reservations`: what requests under way have reserved, and what was reserved by requests
//! whose end nobody told. The reference has no such list; ids, errors and pages follow the lists it has.

use std::rc::Rc;

use serde_json::{Value, json};

use super::{Query, Refusal};
use crate::gateway::Gateway;
use crate::store::Hold;

/// A page, in the order of the ids.
pub(super) async fn get(gateway: &Rc<Gateway>, query: &Query) -> Result<Value, Refusal> {
    let limit = query.limit(20)?;
    let state = match query.first("state") {
        None => "expired",
        Some(state @ ("expired" | "held")) => state,
        Some(_) => return Err(Refusal::invalid("state: must be one of expired, held")),
    };
    let after = query.first("after_id").unwrap_or_default();
    let mut holds = gateway.store().holds(state, after, limit + 1).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = holds.len() > most;
    holds.truncate(most);
    let last_id = holds.last().map(|hold| hold.id.clone());
    Ok(json!({"data": holds.iter().map(shown).collect::<Vec<_>>(), "has_more": has_more, "last_id": last_id}))
}

fn shown(hold: &Hold) -> Value {
    let pool = if hold.pool.is_empty() { Value::Null } else { hold.pool.as_str().into() };
    json!({
        "type": "spend_reservation", "id": hold.id, "state": hold.state, "user_id": hold.owner, "rbac_group_id": pool,
        "amount": hold.amount.cents(), "currency": "USD", "day": hold.day, "expires_at": hold.expires_at,
    })
}
