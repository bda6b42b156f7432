//! `GET /v1/organizations/spend_limits/audit`: who changed which cap, newest first (inference contract §18.8).

use std::rc::Rc;

use serde_json::{Value, json};

use super::super::{Query, Refusal};
use crate::gateway::Gateway;
use crate::store::Recorded;

/// A page of changes.
pub(in super::super) async fn get(gateway: &Rc<Gateway>, query: &Query) -> Result<Value, Refusal> {
    let limit = query.limit(100)?;
    let before = match query.first("after_id") {
        None => i64::MAX,
        Some(id) if !id.is_empty() && id.bytes().all(|digit| digit.is_ascii_digit()) => id.parse().unwrap_or(i64::MAX),
        Some(_) => return Err(Refusal::invalid("after_id: must be an audit event id")),
    };
    let mut changes = gateway.store().limit_changes(before, limit + 1).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = changes.len() > most;
    changes.truncate(most);
    Ok(json!({"data": changes.iter().map(shown).collect::<Vec<_>>(), "has_more": has_more}))
}

fn shown(change: &Recorded) -> Value {
    let image = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    json!({
        "type": "audit_event", "id": change.id.to_string(), "created_at": change.at, "actor": change.actor,
        "action": change.action, "target_id": change.target, "before": image(&change.before),
        "after": image(&change.after), "reason": null,
    })
}
